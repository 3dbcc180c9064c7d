# The plain twin is the base.
_base_ = "mmseg::segnext/segnext_mscan-s_1xb16-adamw-160k_ade20k-512x512.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(decode_head=dict(type="FreqFusionHamHead"))
