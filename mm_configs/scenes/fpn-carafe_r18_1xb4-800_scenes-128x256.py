_base_ = "./fpn-freqfusion_r18_1xb4-800_scenes-128x256.py"
model = dict(neck=dict(fusion=dict(type="CARAFE")))
