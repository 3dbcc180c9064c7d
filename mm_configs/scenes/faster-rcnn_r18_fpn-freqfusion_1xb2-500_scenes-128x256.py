_base_ = "./faster-rcnn_r18_fpn_1xb2-500_scenes-128x256.py"
model = dict(neck=dict(type="FreqFusionFPN"))
