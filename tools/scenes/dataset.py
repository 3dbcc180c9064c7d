"""Writes a set of scenes into a folder: marker, missing scenes, files on the whole set."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2

from .ade20k import ADE20K
from .cityscapes import Cityscapes
from .coco import Coco
from .render import SPLITS, render

FORMATS = {"cityscapes": Cityscapes(), "ade20k": ADE20K(), "coco": Coco()}
MARKER = "scenes.json"
VERSION = 1  # raise it with every change that makes other pixels


class RefusedError(Exception):
    """The folder holds something that must not be touched."""


@dataclass(frozen=True)
class Settings:
    """What decides the content of a set.

    Args:
        format: key of `FORMATS`.
        size: height and width in pixels.
        seed: 0 or more.
        train: number of training scenes.
        val: number of validation scenes.
    """

    format: str
    size: tuple[int, int] = (128, 256)
    seed: int = 0
    train: int = 512
    val: int = 64


def generate(
    out: Path,
    settings: Settings,
    workers: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes the set into a folder; what is there already stays as it is.

    Args:
        out: a folder that is new, empty, or holds (part of) this set.
        settings: what to write.
        workers: number of processes.
        report: called with the number of finished scenes and of all.

    Raises:
        RefusedError: if the folder holds other data, or a set with other settings.
    """
    claim(out, settings)
    jobs = [(split, index) for split in SPLITS for index in range(getattr(settings, split))]
    records: dict[str, list[Any]] = {split: [] for split in SPLITS}
    with _mapper(workers) as run:
        results = run(partial(_make_scene, out, settings), jobs)
        for done, ((split, _), record) in enumerate(zip(jobs, results, strict=True), start=1):
            records[split].append(record)
            report(done, len(jobs))
    for name, content in FORMATS[settings.format].summarise(records).items():
        _write(out / name, content)


def claim(out: Path, settings: Settings) -> None:
    """Marks a folder as ours, or raises `RefusedError` if it is something else's."""
    marker = out / MARKER
    wanted = {"generator": "make_scenes", "version": VERSION, **asdict(settings)}
    wanted["size"] = list(settings.size)
    if marker.exists():
        _check_marker(marker, wanted)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RefusedError(f"OUT must be a new or empty folder or hold a {MARKER}, got {out}")
    _write(marker, json.dumps(wanted, indent=2).encode() + b"\n")


def _check_marker(marker: Path, wanted: dict[str, Any]) -> None:
    """Compares a marker with the one we want; only the number of scenes may grow."""
    try:
        found = json.loads(marker.read_text("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not wanted.keys() <= found.keys():
        raise RefusedError(f"OUT must hold a {MARKER} written by make_scenes, got {marker}")
    for name, value in wanted.items():
        if name in SPLITS and value < found[name]:
            reason = f"at least {found[name]}, the number of scenes in"
        elif name not in SPLITS and value != found[name]:
            reason = f"{found[name]} as for the scenes in"
        else:
            continue
        raise RefusedError(f"{name} must be {reason} {marker.parent}, got {value}")


def _make_scene(out: Path, settings: Settings, job: tuple[str, int]) -> Any:
    """Writes what is missing of one scene and describes it."""
    form = FORMATS[settings.format]
    files = [out / name for name in form.files(*job)]
    if not all(path.exists() for path in files):
        scene = render(settings.seed, *job, settings.size)
        for path, content in zip(files, form.encode(scene), strict=True):
            if not path.exists():
                _write(path, content)
    return form.describe(files)


def _write(path: Path, content: bytes) -> None:
    """Puts a file in place whole, or leaves it alone if it says the same already."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Provides an ordered `map`, spread over processes if there is more than one worker."""
    if workers == 1:
        yield map
    else:
        with get_context("spawn").Pool(workers, _start_worker) as pool:  # a fork may hang
            yield partial(pool.imap, chunksize=4)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    cv2.setNumThreads(1)
