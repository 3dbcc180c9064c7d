"""Takes the feature maps inside of a model out of it, by forward hooks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

_TAP = re.compile(r"(?P<path>[^:\[\]]*)(?P<inputs>:in)?(?P<indices>(\[-?\d+\])*)")


class Tap(NamedTuple):
    """A place in a model: the output of a module, or its positional input."""

    path: str
    inputs: bool
    indices: tuple[int, ...]


def parse_tap(name: str) -> Tap:
    """Reads the name of a place in a model; see `FeatureRecorder`.

    Raises:
        ValueError: if the name is none.
    """
    match = _TAP.fullmatch(name)
    if match is None:
        raise ValueError(f"layers must be like 'backbone.layer1' or 'neck[0]', got {name!r}")
    indices = tuple(int(index) for index in re.findall(r"-?\d+", match["indices"]))
    return Tap(match["path"], match["inputs"] is not None, indices)


class FeatureRecorder:
    """Records feature maps of a model while it runs; a context manager.

    A place is named by the path of its module, as in `named_modules()`, and what is taken of it:

    - ``'backbone.layer1'``: its output, which has to be one tensor;
    - ``'neck[0]'``, ``'neck[-1]'``: one of several outputs;
    - ``'neck.alignment.0:in[1]'``: one of its positional inputs.

    `features` has what the last call of each module gave, with its graph, until `clear` or the end
    of the context. The hooks exist inside of the context only, and nothing of a recorder is in the
    model's state_dict. A map that the model changes in place afterwards, as ``ReLU(inplace=True)``
    does, is what it has been changed to. A part of a model that `torch.compile` has compiled before
    knows nothing of hooks, and nothing is recorded in it.

    Args:
        model: any module.
        layers: names of places, or one name.

    Raises:
        ValueError: if a name cannot be read, or names no module (the error lists those that are).
        TypeError: on the model's call, if what a name says is no tensor.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
        >>> with FeatureRecorder(model, ['0', '1:in[0]']) as recorder:
        ...     model(torch.randn(1, 3, 4, 4)).shape
        ...     recorder.features['0'] is recorder.features['1:in[0]']
        torch.Size([1, 8, 4, 4])
        True
    """

    def __init__(self, model: nn.Module, layers: str | Iterable[str]):
        self.features: dict[str, Tensor] = {}
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        modules = dict(model.named_modules())
        self._modules = {}
        for name in self.layers:
            tap = parse_tap(name)
            if tap.path not in modules:
                raise ValueError(_unknown(name, tap.path, list(modules)))
            self._modules[name] = tap, modules[tap.path]
        self._handles: list[Any] = []

    def __enter__(self) -> FeatureRecorder:
        for name, (tap, module) in self._modules.items():
            self._handles.append(module.register_forward_hook(self._hook(name, tap)))
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Takes the hooks out of the model and forgets the features."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()

    def clear(self) -> None:
        """Forgets the features, and with them the graphs that they hold."""
        self.features.clear()

    def _hook(self, name: str, tap: Tap) -> Any:
        def record(module: nn.Module, inputs: tuple, output: Any) -> None:
            value = inputs if tap.inputs else output
            for index in tap.indices:
                if not isinstance(value, (list, tuple)) or not -len(value) <= index < len(value):
                    raise TypeError(f"layers: {name!r} does not exist, {_kind(value)} is there")
                value = value[index]
            if not isinstance(value, Tensor):
                raise TypeError(f"layers: {name!r} must be a tensor, got {_kind(value)}")
            self.features[name] = value

        return record


def _kind(value: Any) -> str:
    """Says what a module took or gave."""
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}; choose one, as in 'neck[0]'"
    return f"a {type(value).__name__}"


def _unknown(name: str, path: str, paths: list[str]) -> str:
    """Says that there is no module `path`, and which there are."""
    close = difflib.get_close_matches(path, paths, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return (
        f"layers: the model has no module {name!r}{hint}; it has: {', '.join(filter(None, paths))}"
    )
