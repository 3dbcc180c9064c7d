# The plain twin is the base.
_base_ = "mmseg::sem_fpn/fpn_r101_4xb2-80k_cityscapes-512x1024.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(neck=dict(type="FreqFusionFPN"))
