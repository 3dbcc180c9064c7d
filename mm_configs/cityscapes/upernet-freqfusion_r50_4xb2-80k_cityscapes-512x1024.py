# The plain twin is the base.
_base_ = "mmseg::upernet/upernet_r50_4xb2-80k_cityscapes-512x1024.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(decode_head=dict(type="FreqFusionUPerHead"))
