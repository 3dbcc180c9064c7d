"""Reads OpenMMLab configs and checks, before anything is built, that what they name is there."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import inspect
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from _cli import INSTALL, CommandError, explained

# what OpenMMLab says of its own defaults and of compiled operators that nothing here needs
_NOTICES = (
    "Fail to import ``MultiScaleDeformableAttention``",
    "Default ``avg_non_ignore``",
    "``build_loss`` would be deprecated",
)

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # endings of image files

# what is read from a config beside the arguments of MMEngine's Runner: by the Runner, by the tools
_OF_RUNNER = (
    "activation_checkpointing",
    "auto_scale_lr",
    "compile",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "sync_bn",
)
_OF_TOOLS = ("data_root", "test_pipeline")


def load_config(path: str, options: list[str], work_dir: str | None = None) -> Any:
    """Reads a config and applies the command line to it.

    Args:
        path: the file.
        options: overrides, ``key=value``; ``data_root=...`` moves every dataset that lies there.
        work_dir: folder of the run; else the config's own, else ./work_dirs/<name of the config>.

    Returns:
        The `mmengine.Config`.

    Raises:
        CommandError: if the file, an override or a library is wrong or missing.
    """
    _import_integration()
    from mmengine.config import Config

    if not Path(path).is_file():
        raise CommandError(f"there is no config {path}")
    with explained(f"cannot read the config {path}"):
        config = Config.fromfile(path)
        scope = config.get("default_scope", "mmengine")
    if importlib.util.find_spec(scope) is None:
        raise CommandError(f"{path} needs {scope}, which is not installed; {INSTALL} installs it")
    _override(config, options)
    config.work_dir = work_dir or config.get("work_dir") or f"./work_dirs/{Path(path).stem}"
    return config


def without_connectors(config: Any) -> Any:
    """Takes the model out of a `FramerModelWrapper`; checkpoints are of that one."""
    if config.model.type == "FramerModelWrapper":
        config.model = config.model.model
    return config


def check_data(config: Any, *loaders: str) -> None:
    """Checks that the folders of the datasets in some dataloaders exist.

    Raises:
        CommandError: for the first that does not.
    """
    for loader in loaders:
        for root in filter(None, find(config.get(loader) or {}, "data_root")):
            if "://" not in root and not Path(root).is_dir():
                raise CommandError(
                    f"there is no dataset folder {root}; "
                    "point to yours with --cfg-options data_root=FOLDER"
                )


def check_checkpoint(path: str) -> None:
    """Checks that a checkpoint exists, unless it is somewhere else than on this machine.

    Raises:
        CommandError: if it does not.
    """
    if "://" not in path and not Path(path).is_file():
        raise CommandError(f"there is no checkpoint {path}")


def _import_integration() -> None:
    for notice in _NOTICES:
        warnings.filterwarnings("ignore", notice, UserWarning)
    try:
        import freqfusion.integrations.openmmlab  # noqa: F401
    except ImportError as error:
        raise CommandError(str(error)) from error


def _override(config: Any, options: list[str]) -> None:
    """Applies overrides, KEY=VALUE, to a config."""
    from mmengine.config import DictAction

    reader = argparse.ArgumentParser()
    reader.add_argument("options", nargs="*", action=DictAction)
    for option in options:
        if "=" not in option:
            raise CommandError(f"--cfg-options must be KEY=VALUE, got {option}")
    with explained("--cfg-options cannot be read"):
        overrides = reader.parse_args(options).options or {}
    for key in overrides:
        _check_key(config.to_dict(), key)
    if "data_root" in overrides:
        old, new = _data_root(config), overrides["data_root"]
        for key, value in config.items():
            config[key] = _moved(value, old.rstrip("/"), new.rstrip("/"))
    with explained("--cfg-options do not fit the config"):
        config.merge_from_dict(overrides)


def _data_root(config: Any) -> str:
    """Returns the folder that `data_root=...` moves: the config's own, or that of all datasets."""
    loaders = [config.get(f"{split}_dataloader") or {} for split in ("train", "val", "test")]
    roots = {config.get("data_root")} - {None, ""} or set(find(loaders, "data_root")) - {None, ""}
    if len(roots) != 1:
        raise CommandError(
            "--cfg-options data_root: the config has no data_root of its own and its datasets have "
            f"{', '.join(sorted(roots)) or 'none'}; override train_dataloader.dataset.data_root "
            "and so on"
        )
    return roots.pop()


def _check_key(node: Any, key: str) -> None:
    """Raises for what looks like a typo, which MMEngine would take for something new."""
    from mmengine.runner import Runner

    first, *others = key.split(".")
    if first not in {*inspect.signature(Runner).parameters, *_OF_RUNNER, *_OF_TOOLS}:
        if first not in node:
            raise _unknown(key, first, node)
        raise CommandError(
            f"--cfg-options {key}: {first} only helps to write the config, which has been read; "
            "override where it is used"
        )
    node = node.get(first)
    for part in others[:-1]:
        children = dict(_children(node))
        if part not in children and difflib.get_close_matches(part, children, 1):
            raise _unknown(key, part, children)
        node = children.get(part)


def _unknown(key: str, part: str, known: Iterable[str]) -> CommandError:
    close = difflib.get_close_matches(part, known, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return CommandError(f"--cfg-options {key}: the config has no {part}{hint}")


def _moved(node: Any, old: str, new: str) -> Any:
    """Returns a part of a config with the folder `old` replaced at the start of every path."""
    if isinstance(node, dict):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_moved(value, old, new) for value in node)
    if isinstance(node, str) and f"{node}/".startswith(f"{old}/"):
        return new + node[len(old) :]
    return node


def find(node: Any, name: str) -> Iterator[Any]:
    """Yields every value under a name in a part of a config, at any depth."""
    for key, value in _children(node):
        if key == name:
            yield value
        yield from find(value, name)


def datasets_of(setting: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the datasets inside of wrappers such as ConcatDataset and RepeatDataset."""
    inner = setting.get("datasets") or [setting[key] for key in ("dataset",) if key in setting]
    for part in inner:
        yield from datasets_of(part)
    if not inner:
        yield setting


def type_name(setting: dict[str, Any]) -> str:
    """Returns the name of the class that a part of a config builds, without its scope."""
    return getattr(setting["type"], "__name__", str(setting["type"])).rsplit(".", 1)[-1]


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    """Yields what a part of a config contains, named as in --cfg-options."""
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, (list, tuple)):
        yield from ((str(index), value) for index, value in enumerate(node))
