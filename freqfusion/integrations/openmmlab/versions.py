"""The OpenMMLab packages that the integration needs, in their original and their onedl releases."""

from __future__ import annotations

import importlib
import importlib.metadata

SUPPORTED = {"mmengine": ("0.10.0", "1.0.0"), "mmcv": ("2.0.0rc4", "3.0.0")}
INSTALL = 'pip install --no-build-isolation "freqfusion[mm]"'


def check_versions() -> None:
    """Checks that mmengine and mmcv are installed in versions that fit (see `SUPPORTED`).

    Raises:
        ImportError: if one is missing or does not fit; the message says what to install.
    """
    for name, (lowest, beyond) in SUPPORTED.items():
        found = _import(name).__version__
        from mmengine.utils import digit_version

        if not digit_version(lowest) <= digit_version(found) < digit_version(beyond):
            raise ImportError(
                f"freqfusion.integrations.openmmlab needs {name}>={lowest},<{beyond}, "
                f"found {name} {found}; {INSTALL} installs a set that fits"
            )


def _import(name: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"freqfusion.integrations.openmmlab needs {name}, which is not installed; {INSTALL} "
            "installs the OpenMMLab packages it registers with"
        ) from error


def find_mmseg_configs() -> None:
    """Lets ``_base_ = 'mmseg::...'`` find the configs of onedl-mmsegmentation.

    MMEngine looks for the distribution `mmsegmentation`; onedl's release of it has another name.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    try:
        importlib.metadata.version(MODULE2PACKAGE["mmseg"])
    except importlib.metadata.PackageNotFoundError:
        MODULE2PACKAGE["mmseg"] = "mmseg"
