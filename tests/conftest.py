import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


def pytest_generate_tests(metafunc):
    """One test for each file that `@pytest.mark.golden(*patterns)` names; a skip without any."""
    marker = metafunc.definition.get_closest_marker("golden")
    if marker:
        paths = sorted(path for pattern in marker.args for path in GOLDEN.glob(pattern))
        missing = pytest.param(None, marks=pytest.mark.skip(reason=f"no golden files in {GOLDEN}"))
        metafunc.parametrize("golden_path", paths or [missing], ids=lambda p: p and p.stem)


@pytest.fixture
def golden(golden_path):
    """Contents of a golden file by their part."""
    with np.load(golden_path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "meta"}
        meta = json.loads(str(file["meta"]))

    def part(prefix):
        return {k[len(prefix) :].lstrip("."): v for k, v in arrays.items() if is_in(k, prefix)}

    def is_in(name, prefix):
        return name == prefix or name.startswith(f"{prefix}.")

    return SimpleNamespace(
        meta=meta,
        inputs=part("in"),
        outputs=part("out"),
        cotangents=part("cot"),
        gradients=part("grad"),
        parameter_gradients=part("gradp"),
        state=part("state"),
    )


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def default_scope():
    """Forgets which library MMEngine looks into first: building a model sets that for good."""

    def forget():
        registry = sys.modules.get("mmengine.registry")
        if registry:
            registry.DefaultScope._instance_dict.clear()

    forget()  # what fixtures of a module have set
    yield
    forget()


@pytest.fixture
def poisoned_memory():
    """Uninitialised memory is filled with NaN, so that an element that nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
