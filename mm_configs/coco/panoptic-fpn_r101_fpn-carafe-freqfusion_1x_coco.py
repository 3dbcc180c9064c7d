# The authors' neck, in which P6 is fused as well: sides of images are multiples of 64.
_base_ = "mmdet::panoptic_fpn/panoptic-fpn_r101_fpn_1x_coco.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    neck=dict(type="FreqFusionCARAFEFPN"),
)
