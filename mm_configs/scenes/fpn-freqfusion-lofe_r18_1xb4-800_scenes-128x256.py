_base_ = "./fpn-freqfusion_r18_1xb4-800_scenes-128x256.py"
model = dict(neck=[dict(type="LoFENeck", in_channels=[32, 64, 128, 256]), _base_.model.neck])
