# The plain twin is the base.
# Published (not ours): mIoU 56.1 with the plain decoder, 56.8 with FreqFusion.
_base_ = "mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(decode_head=dict(pixel_decoder=dict(type="FreqFusionPixelDecoder")))
