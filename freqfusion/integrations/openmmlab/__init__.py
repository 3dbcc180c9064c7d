"""FreqFusion in MMSegmentation and MMDetection: importing this package registers everything.

In a config, this is all there is to do::

    custom_imports = dict(imports=['freqfusion.integrations.openmmlab'], allow_failed_imports=False)
    model = dict(neck=dict(type='FreqFusionFPN'))

It needs mmengine and mmcv (its layers, not its compiled operators) and registers with MMEngine's
root registries, where every OpenMMLab library finds what it does not have itself.

Raises:
    ImportError: if mmengine or mmcv is missing or of a version that does not fit.
"""

from .versions import check_versions, find_mmseg_configs

check_versions()
find_mmseg_configs()

from .metrics import BoundaryIoUMetric as BoundaryIoUMetric  # noqa: E402
from .necks import FreqFusionCARAFEFPN as FreqFusionCARAFEFPN  # noqa: E402
from .necks import FreqFusionFPN as FreqFusionFPN  # noqa: E402
from .optim import CPUAmpOptimWrapper as CPUAmpOptimWrapper  # noqa: E402
