# The plain twin is the base, which forgets its backbone: mmseg's file builds a ResNet-50.
_base_ = "mmseg::sem_fpn/fpn_r101_4xb4-160k_ade20k-512x512.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(
    pretrained="open-mmlab://resnet101_v1c",
    backbone=dict(depth=101),
    neck=dict(type="FreqFusionFPN"),
)
