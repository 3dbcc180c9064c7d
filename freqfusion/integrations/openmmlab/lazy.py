"""Heads that are imported when a config or a program first asks for one of them.

They subclass heads of mmseg and mmdet. Whoever needs only a neck does without both, be it that one
is missing, or that mmcv came without the compiled operators that mmdet's models import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from .versions import INSTALL

HEADS = {  # name: module, what it imports
    "FreqFusionHamHead": ("ham_head", "mmseg"),
    "FreqFusionSegformerHead": ("segformer_head", "mmseg"),
    "FreqFusionUPerHead": ("uper_head", "mmseg"),
    "FreqFusionPixelDecoder": ("pixel_decoder", "mmdet and the compiled operators of mmcv"),
}


def load_head(name: str) -> type[nn.Module]:
    """Imports a head, which then takes its own place in the registry.

    Raises:
        ImportError: if it cannot be imported; the message says what is missing.
    """
    module, needed = HEADS[name]
    try:
        return getattr(importlib.import_module(f".{module}", __package__), name)
    except ImportError as error:
        raise ImportError(
            f"{name} needs {needed}, which cannot be imported ({error}); {INSTALL} installs the "
            "OpenMMLab packages it registers with"
        ) from error


def register_heads() -> None:
    """Registers for every head a function that imports and builds it."""
    for name in HEADS:
        MODELS.register_module(name, force=True, module=_builder(name))


def _builder(name: str) -> Callable[..., nn.Module]:
    def build(*args: Any, **kwargs: Any) -> nn.Module:
        return load_head(name)(*args, **kwargs)

    build.__name__ = build.__qualname__ = name  # in MMEngine's logs and messages
    return build
