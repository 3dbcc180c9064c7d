"""Starts MMEngine's runner; what fails before the first iteration is told in one sentence."""

from __future__ import annotations

import gc

import torch
import torch.distributed as dist
from _cli import CommandError, reason
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from freqfusion.checkpoint import compare


class _Begun(Hook):
    """Remembers at which iteration the runner began to work."""

    at: int | None = None
    priority = "LOWEST"  # what other hooks find wrong comes before it

    def before_train(self, runner: Runner) -> None:
        self.at = runner.iter

    def before_test(self, runner: Runner) -> None:
        self.at = 0


class _Fits(Hook):
    """Refuses a checkpoint that leaves parameters of the model at random values."""

    priority = "LOWEST"  # after hooks that change the checkpoint

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        weights = checkpoint.get("state_dict", checkpoint)
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
        found = compare(weights, dict(model.named_parameters()))
        if found.missing:
            raise ValueError(
                f"the checkpoint lacks {len(found.missing)} of the model's parameters, such as "
                f"{next(iter(found.missing))}"
            )
        for name, (theirs, ours) in found.mismatched.items():
            raise ValueError(
                f"{name} has the shape {theirs} in the checkpoint, {ours} in the model"
            )


def _distribute_on_cpus(config: Config) -> None:
    """Lets processes without GPUs work together: MMEngine would choose one for each."""
    wrapper = {"type": "MMDistributedDataParallel", **(config.get("model_wrapper_cfg") or {})}
    config.model_wrapper_cfg = {**wrapper, "device_ids": None}
    config.merge_from_dict({"env_cfg.dist_cfg.backend": "gloo"})
    torch.cuda.set_device = lambda device: None


def launch(config: Config, mode: str) -> None:
    """Builds the runner of a config and trains or tests.

    A run that was killed after its last iteration and before its last validation is validated.

    Args:
        config: what to run.
        mode: "train" or "test".

    Raises:
        CommandError: if it cannot begin; errors after that are raised as they are.
    """
    if config.launcher != "none" and not torch.cuda.is_available():
        _distribute_on_cpus(config)
    _run(config, mode)
    if dist.is_initialized():
        # A model in DDP must be gone before its group, and the group before Python ends: gloo's
        # threads free what belongs to Python, wait for it for ever or are killed if it is gone.
        gc.collect()
        dist.destroy_process_group()


def _run(config: Config, mode: str) -> None:
    begun = _Begun()
    try:
        runner = Runner.from_cfg(config)
        runner.register_hook(begun)
        if mode == "test":
            runner.register_hook(_Fits())
        getattr(runner, mode)()
    except Exception as error:
        if begun.at is not None:
            raise
        raise CommandError(f"cannot {mode} {config.filename}: {reason(error)}") from error
    if mode == "train" and begun.at == runner.max_iters and runner.val_loop is not None:
        runner.val()
