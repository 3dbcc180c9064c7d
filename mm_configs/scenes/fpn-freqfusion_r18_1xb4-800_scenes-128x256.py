_base_ = "./fpn_r18_1xb4-800_scenes-128x256.py"
model = dict(neck=dict(type="FreqFusionFPN"))
