"""Self-distillation of any model by what its layers give while it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..recorder import FeatureRecorder
from .alignment import Connectors
from .framer import FramerLoss


def check_layers(students: Iterable[str], teacher: str) -> tuple[str, ...]:
    """Returns the names of the students.

    Raises:
        ValueError: if there are none, one is given twice, or one is the teacher.
    """
    names = (students,) if isinstance(students, str) else tuple(students)
    if not names or len({*names, teacher}) != len(names) + 1:
        raise ValueError(
            f"students must be different layers, without the teacher {teacher!r}, got {names}"
        )
    return names


def distil(
    criterion: FramerLoss,
    features: Mapping[str, Tensor],
    students: Iterable[str],
    teacher: str,
    connectors: Connectors | None = None,
) -> dict[str, Tensor]:
    """Returns the terms of `criterion` for recorded features.

    Raises:
        RuntimeError: if a layer did not run, or gradients do not reach a student that is trained.
    """
    missing = [name for name in (*students, teacher) if name not in features]
    if missing:
        raise RuntimeError(
            f"layer {missing[0]!r} did not run in the model's forward pass, or was compiled before "
            "hooks could see it; compile what distils, not the model inside"
        )
    maps = {name: features[name] for name in students}
    if criterion.loss_weight > 0 and torch.is_grad_enabled():
        for name, x in maps.items():
            if not x.requires_grad:
                raise RuntimeError(
                    f"layer {name!r} cannot learn: it is frozen or recomputed (checkpointed)"
                )
    terms = criterion(maps if connectors is None else connectors(maps), features[teacher])
    if criterion.loss_weight == 0 and connectors is not None:
        unused = sum(parameter.sum() for parameter in connectors.parameters())
        terms["loss"] = terms["loss"] + 0 * unused  # distributed training waits for gradients
    return terms


class FramerModel(nn.Module):
    """A model that is trained with `FramerLoss` on its own layers.

    It is called as the model itself and returns the same. After a call in training mode `loss`
    has the distillation loss. In evaluation mode there is nothing but the model, and
    `framer.model.state_dict()` is that of the model, always.

    Under `DistributedDataParallel` and `torch.compile`, wrap this one, not the model;
    `find_unused_parameters` is not needed.

    Args:
        model: any module with any inputs and outputs.
        students: names of the layers that learn; see `freqfusion.recorder.FeatureRecorder`.
        teacher: name of the layer that they learn from: the last one, or the best.
        criterion: the loss.
        connectors: learnt projections to the teacher's channels, for example
            ``{'backbone.layer1': (64, 256)}``; they are parameters of this module, not of `model`.
            The other students with other channels are projected by fixed matrices.

    Raises:
        ValueError: if a name is no layer's, or there are no students, or connectors of others.
        RuntimeError: see `loss`.

    Source: FRAMER (CVPR 2026).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> framer = FramerModel(model, students=["0"], teacher="2")
        >>> optimizer = torch.optim.SGD(framer.parameters(), lr=0.1)
        >>> loss = framer(torch.randn(2, 3, 16, 16)).square().mean() + framer.loss()
        >>> loss.backward()
    """

    def __init__(
        self,
        model: nn.Module,
        students: Iterable[str],
        teacher: str,
        criterion: FramerLoss | None = None,
        connectors: Mapping[str, tuple[int, int]] | None = None,
    ):
        super().__init__()
        self.students, self.teacher = check_layers(students, teacher), teacher
        self.model = model
        self.criterion = FramerLoss() if criterion is None else criterion
        self.connectors = Connectors(connectors or {})
        self.connectors.check_students(self.students)
        self.recorder = FeatureRecorder(model, [*self.students, teacher])
        self.terms: dict[str, Tensor] = {}
        self._features: dict[str, Tensor] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model."""
        if not self.training:
            return self.model(*args, **kwargs)
        with self.recorder:
            output = self.model(*args, **kwargs)
            self._features = dict(self.recorder.features)
        return output

    def loss(self) -> Tensor:
        """Distillation loss of the last call; what else there is to look at is in `terms` then.

        Raises:
            RuntimeError: if there was no call in training mode since the last loss, or a layer
                did not run in it or gradients do not reach it.
        """
        if self._features is None:
            raise RuntimeError("loss must follow a call in training mode, got none since the last")
        features, self._features = self._features, None
        terms = distil(self.criterion, features, self.students, self.teacher, self.connectors)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return terms["loss"]
