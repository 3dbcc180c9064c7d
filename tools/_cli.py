"""What the commands share: arguments, and a user's mistakes told in one sentence."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

INSTALL = 'pip install --no-build-isolation "freqfusion[mm]"'
_INSTALLED = ("mmengine", "mmcv", "mmseg", "mmdet")  # by that


class CommandError(Exception):
    """Something that the user can put right; its text is the one sentence they see."""


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the arguments that train.py and test.py have in common."""
    result = argparse.ArgumentParser(description=description)
    add = result.add_argument
    add("config", help="config file")
    add("--work-dir", help="folder for logs and checkpoints (./work_dirs/<name of the config>)")
    add("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="job launcher")
    add("--local-rank", "--local_rank", type=int, default=0, help="set by some launchers")
    add_common(result)
    return result


def add_common(result: argparse.ArgumentParser) -> None:
    """Adds the arguments that every command has."""
    add = result.add_argument
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override the config")
    add("--debug", action="store_true", help="show where in the code an error comes from")


def folder(text: str) -> Path:
    """Reads an argument that names a folder, which may not exist yet."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path


def run(command: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Runs a command and returns its exit code: 2, and one sentence, after a `CommandError`."""
    os.environ.setdefault("LOCAL_RANK", str(getattr(arguments, "local_rank", 0)))
    try:
        command(arguments)
    except CommandError as error:
        if arguments.debug:
            raise
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns any error inside into a `CommandError` that begins with `what`."""
    try:
        yield
    except Exception as error:
        raise CommandError(f"{what}: {reason(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hides what libraries print and warn of while they are imported and models are built."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def reason(error: Exception) -> str:
    """Returns an error's type and message in one line, and the remedy for a missing library."""
    message = " ".join(str(error).split()) or "(no message, but --debug shows where)"
    missing = isinstance(error, ImportError) and (error.name or "").split(".")[0] in _INSTALLED
    remedy = f"; {INSTALL} installs what configs need" if missing else ""
    return f"{type(error).__name__}: {message}{remedy}"
