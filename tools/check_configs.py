"""Builds the model of every config, and runs loss, backward and prediction on random images."""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

from _cli import CommandError, quiet, reason, run
from _config import load_config

CONFIGS = Path(__file__).parents[1] / "mm_configs"


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    add = options.add_argument
    add("configs", nargs="*", metavar="CONFIG", help="config files (all of mm_configs)")
    add("--size", nargs=2, type=int, default=(128, 128), metavar=("H", "W"), help="of the images")
    add("--debug", action="store_true", help="show where in the code an error comes from")
    return run(check, options.parse_args())


def check(arguments: argparse.Namespace) -> None:
    """Checks as the command line says; one line for each config.

    Raises:
        CommandError: if one does not work.
    """
    paths = arguments.configs or sorted(map(str, CONFIGS.glob("*/*.py")))
    failed = 0
    for path in paths:
        start = time.perf_counter()
        try:
            found = check_config(path, tuple(arguments.size))
        except Exception as error:  # the other configs are checked all the same
            if arguments.debug:
                raise
            failed += 1
            found = f"FAILED: {reason(error)}"
        seconds = time.perf_counter() - start
        print(
            f"{Path(path).parent.name}/{Path(path).stem:75} {seconds:5.1f} s  {found}", flush=True
        )
    if failed:
        raise CommandError(f"{failed} of {len(paths)} configs failed")
    print(f"{len(paths)} configs work")


def check_config(path: str, size: tuple[int, int]) -> str:
    """Trains a step of a config's model without its weights, and predicts.

    Returns:
        What was seen, in words.

    Raises:
        ValueError: if a loss is not finite or a parameter gets no gradient.
    """
    config = load_config(path, [])
    from _models import at_size, build, random_batch

    model = build(at_size(config, size))
    with quiet():
        model.train()
        batch = model.data_preprocessor(random_batch(config, size), True)
        loss, _ = model.parse_losses(model(**batch, mode="loss"))
        loss.backward()
        model.eval()
        batch = model.data_preprocessor(random_batch(config, size), False)
        predictions = model(**batch, mode="predict")
    if not math.isfinite(loss.item()):
        raise ValueError(f"the loss is {loss.item()}")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unused = [name for name, parameter in trained.items() if parameter.grad is None]
    if unused:
        raise ValueError(f"{len(unused)} parameters get no gradient, among them {unused[0]}")
    if len(predictions) != 2:
        raise ValueError(f"2 images, {len(predictions)} predictions")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{parameters / 1e6:6.1f} M parameters, loss {loss.item():.3f}"


if __name__ == "__main__":
    sys.exit(main())
