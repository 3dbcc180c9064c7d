"""FRAMER in an MMEngine training: self-distillation that leaves neither hooks nor keys behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu
from torch import nn

from ...distillation import Connectors, FramerLoss
from ...distillation.model import check_layers, distil
from ...recorder import FeatureRecorder

CONNECTORS = "framer_connectors"


@HOOKS.register_module(force=True)
class FramerHook(Hook):
    """Trains a model's layers to resemble its last one, by `freqfusion.distillation.FramerLoss`.

    The loss joins those that the model returns, as ``framer/loss``, and the terms next to it are
    logged, like ``framer/neck[1]/low``. So it is scaled, accumulated and synchronised as the
    model's own losses are. The model is changed for its forward pass in training alone: there is
    no trace when that is over or has failed, in a validation, or in the weights of a checkpoint.

    Args:
        students: layers that learn; see `freqfusion.recorder.FeatureRecorder` for their names.
        teacher: the layer that they learn from.
        **options: of `FramerLoss`. With ``loss_weight=0`` the terms are logged and nothing else
            changes: the similarity of the layers in a plain training. In several processes whose
            batches differ in size, as detectors' often do, ``gather=False``.

    Raises:
        ValueError: if there are no students, or an option is out of its range; when the training
            begins, if a name is no layer's.
        TypeError: for an unknown option.
        RuntimeError: in training, if the model's forward pass returns no losses, or a layer does
            not run in it or cannot learn.

    Source: FRAMER (CVPR 2026).

    Example:
        ``custom_hooks = [dict(type='FramerHook', students=['neck[1]'], teacher='neck[0]')]``
    """

    priority = "LOW"  # checkpoints are changed after EMAHook has exchanged the parameters in them

    def __init__(self, students: Iterable[str], teacher: str, **options: Any):
        self.students, self.teacher = check_layers(students, teacher), teacher
        if any("loss" in name for name in self.students):  # MMEngine adds up all that is called so
            raise ValueError(f"students must not have 'loss' in their names, got {self.students}")
        self.criterion = FramerLoss(**options)
        self.seed = self.criterion.generator.initial_seed()
        self._changes = ExitStack()  # of the model, to be taken back

    def before_train(self, runner: Runner) -> None:
        """Finds the layers."""
        if sum(isinstance(hook, FramerHook) for hook in runner.hooks) > 1:
            raise ValueError("custom_hooks must have one FramerHook for all students, got several")
        model = _unwrap(runner.model)
        self._connectors = getattr(model, CONNECTORS, None)
        if self._connectors is not None:
            self._connectors.check_students(self.students)
        self._recorder = FeatureRecorder(model, [*self.students, self.teacher])

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Changes the model for one forward pass."""
        self.criterion.generator.manual_seed(self.seed + runner.iter)  # the same if resumed
        model = _unwrap(runner.model)
        self._changes.close()
        self._changes.enter_context(self._recorder)
        self._changes.enter_context(_replaced_forward(model, partial(self._forward, model.forward)))
        self._is_pending = True

    def _forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the model does instead: adds the loss to its losses."""
        if kwargs.get("mode") != "loss":
            return forward(*args, **kwargs)
        self._is_pending = False
        with self._changes:  # ends them
            losses = forward(*args, **kwargs)
            features = dict(self._recorder.features)
        terms = distil(self.criterion, features, self.students, self.teacher, self._connectors)
        return {**losses, **{f"framer/{name}": value for name, value in terms.items()}}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Makes sure that the loss was added."""
        if self._is_pending:
            self._changes.close()
            name = type(_unwrap(runner.model)).__name__
            raise RuntimeError(
                f"FramerHook needs a model that is called with mode='loss', {name} is not"
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Moves connectors out of the model's weights to an entry of their own."""
        connectors = getattr(_unwrap(runner.model), CONNECTORS, None)
        if connectors is None:
            return
        checkpoint[CONNECTORS] = weights_to_cpu(connectors.state_dict())
        for weights in (checkpoint["state_dict"], checkpoint.get("ema_state_dict", {})):
            for name in [name for name in weights if CONNECTORS in name.split(".")]:
                del weights[name]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes connectors from where `before_save_checkpoint` has put them."""
        weights = checkpoint.get(CONNECTORS, {})
        if hasattr(_unwrap(runner.model), CONNECTORS):
            checkpoint["state_dict"].update({f"{CONNECTORS}.{k}": v for k, v in weights.items()})


@MODELS.register_module(force=True)
def FramerModelWrapper(model: dict, connectors: Mapping[str, tuple[int, int]]) -> nn.Module:
    """Builds a model that owns learnt connectors, for students of other channels than the teacher.

    A hook cannot bring parameters: the runner makes its optimizer before. The model is what its
    config says and not wrapped, so that everything finds its parts where they were; the connectors
    are one more of them. `FramerHook`, which such a model needs, uses them in training and keeps
    them in a checkpoint beside the model's weights, whose names are those of a plain training: to
    resume takes this config, to test or to publish takes the plain one. An `EMAHook` with
    ``strict_load=True`` misses its average of the connectors when resumed.

    Args:
        model: config of the model.
        connectors: see `freqfusion.distillation.Connectors`, for example
            ``{'backbone.layer3': (256, 64)}``.

    Raises:
        ValueError: if `connectors` are none.

    Source: FRAMER (CVPR 2026), the heads that it adds to a U-Net for the training.

    Example:
        ``model = dict(type='FramerModelWrapper', model=dict(...), connectors={...})``
    """
    built = MODELS.build(model)
    setattr(built, CONNECTORS, Connectors(connectors))
    return built


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


@contextmanager
def _replaced_forward(model: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Gives a model another forward pass."""
    own = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own
