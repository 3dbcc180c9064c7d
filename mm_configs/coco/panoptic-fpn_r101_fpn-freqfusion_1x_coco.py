# The plain twin is the base.
_base_ = "mmdet::panoptic_fpn/panoptic-fpn_r101_fpn_1x_coco.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(neck=dict(type="FreqFusionFPN"))
