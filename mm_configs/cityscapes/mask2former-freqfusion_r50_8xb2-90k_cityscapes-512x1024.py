# The plain twin is the base.
_base_ = "mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(decode_head=dict(pixel_decoder=dict(type="FreqFusionPixelDecoder")))
