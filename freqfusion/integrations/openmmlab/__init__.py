"""FreqFusion in MMSegmentation and MMDetection: importing this package registers everything.

In a config, this is all there is to do::

    custom_imports = dict(imports=['freqfusion.integrations.openmmlab'], allow_failed_imports=False)
    model = dict(neck=dict(type='FreqFusionFPN'))

It needs mmengine and mmcv (its layers, not its compiled operators) and registers with MMEngine's
root registries, where every OpenMMLab library finds what it does not have itself. The heads, and
mmseg or mmdet with them, are imported when first asked for.

Raises:
    ImportError: if mmengine or mmcv is missing or of a version that does not fit.
"""

from .versions import check_versions, find_mmseg_configs

check_versions()
find_mmseg_configs()

from .analysis import register_costs  # noqa: E402
from .framer import FramerHook as FramerHook  # noqa: E402
from .framer import FramerModelWrapper as FramerModelWrapper  # noqa: E402
from .lazy import HEADS, load_head, register_heads  # noqa: E402
from .metrics import BoundaryIoUMetric as BoundaryIoUMetric  # noqa: E402
from .necks import FreqFusionCARAFEFPN as FreqFusionCARAFEFPN  # noqa: E402
from .necks import FreqFusionFPN as FreqFusionFPN  # noqa: E402
from .necks import LoFENeck as LoFENeck  # noqa: E402
from .optim import CPUAmpOptimWrapper as CPUAmpOptimWrapper  # noqa: E402

register_costs()
register_heads()


def __getattr__(name: str) -> type:
    if name in HEADS:
        return load_head(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
