# The plain twin is the base.
# Published (not ours): mIoU 53.9 with the plain decoder, 55.3 with FreqFusion.
_base_ = "mmseg::mask2former/mask2former_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(decode_head=dict(pixel_decoder=dict(type="FreqFusionPixelDecoder")))
