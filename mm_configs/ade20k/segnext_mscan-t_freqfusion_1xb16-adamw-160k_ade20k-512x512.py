# The plain twin is the base.
# Published (not ours): mIoU 41.1 with the plain head, 43.5 with FreqFusion.
_base_ = "mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(decode_head=dict(type="FreqFusionHamHead"))
