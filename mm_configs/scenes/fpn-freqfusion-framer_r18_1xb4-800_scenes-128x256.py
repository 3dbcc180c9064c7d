# The coarser outputs of the neck learn from the finest one, with which the top-down path ends: it
# has seen most. They are compared in the size of the coarser one, so that none is asked for detail
# that its grid cannot hold. All have the same channels; nothing is projected. Trained from scratch,
# the outputs do not resemble each other at first: with `fam_floor` they learn nevertheless.
_base_ = "./fpn-freqfusion_r18_1xb4-800_scenes-128x256.py"
custom_hooks = [
    dict(
        type="FramerHook",
        students=["neck[1]", "neck[2]", "neck[3]"],
        teacher="neck[0]",
        fam_floor=0.5,
    )
]
