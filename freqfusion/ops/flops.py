"""Floating point operations of the operators, for `torch.utils.flop_counter.FlopCounterMode`.

One multiply-add for every tap, channel and output position, for each result.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder

import torch

COUNTER = "torch.utils.flop_counter"


def register_when_imported():
    """Registers the formulas, as soon as somebody imports the counter.

    Importing it here would load triton, where that is installed.
    """
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER])
    else:
        sys.meta_path.insert(0, _OnImport())


class _OnImport(MetaPathFinder):
    """Finds the counter as usual and registers the formulas after it ran; then it is gone."""

    def find_spec(self, name, path=None, target=None):
        if name != COUNTER:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)  # somebody may only have asked
        run = spec.loader.exec_module

        def run_and_register(module):
            run(module)
            _register(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        spec.loader.exec_module = run_and_register
        return spec


def _register(counter):
    operators = torch.ops.freqfusion
    for operator, formula in (
        (operators.reassemble, _reassemble),
        (operators.adaptive_filter, _adaptive_filter),
        (operators.reassemble_backward, _reassemble_backward),
        (operators.adaptive_filter_backward, _adaptive_filter_backward),
    ):
        counter.register_flop_formula(operator)(formula)


def _count(x_shape, weight_shape, kernel_size: int, results: int = 1) -> int:
    batch, channels = x_shape[:2]
    return 2 * results * kernel_size**2 * batch * channels * weight_shape[2] * weight_shape[3]


def _reassemble(x, weight, kernel_size, *args, **kwargs) -> int:
    return _count(x, weight, kernel_size)


def _adaptive_filter(x, logits, window, kernel_size, *args, **kwargs) -> int:
    return _count(x, logits, kernel_size)


def _reassemble_backward(grad, x, weight, kernel_size, *args, **kwargs) -> int:
    return _count(x, weight, kernel_size, results=sum(args[-2:]))


def _adaptive_filter_backward(grad, x, logits, window, lse, kernel_size, *args, **kwargs) -> int:
    return _count(x, logits, kernel_size, results=sum(args[-2:]))
