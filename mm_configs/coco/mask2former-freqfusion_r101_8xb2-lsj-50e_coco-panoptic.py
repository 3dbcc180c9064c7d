# The plain twin is the base.
_base_ = "mmdet::mask2former/mask2former_r101_8xb2-lsj-50e_coco-panoptic.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(panoptic_head=dict(pixel_decoder=dict(type="FreqFusionPixelDecoder")))
