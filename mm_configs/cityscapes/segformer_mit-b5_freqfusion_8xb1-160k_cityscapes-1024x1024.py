# The plain twin is the base.
_base_ = "mmseg::segformer/segformer_mit-b5_8xb1-160k_cityscapes-1024x1024.py"
custom_imports = dict(imports=["freqfusion.integrations.openmmlab"], allow_failed_imports=False)
model = dict(decode_head=dict(type="FreqFusionSegformerHead"))
