"""Writes the table of mm_configs/README.md: what each config costs beside its plain twin."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import sys
from pathlib import Path

from _cli import run
from _config import load_config

CONFIGS = Path(__file__).parents[1] / "mm_configs"
README = CONFIGS / "README.md"
MARKS = "<!-- tables of tools/config_table.py -->", "<!-- end of the tables -->"
FOLDERS = {"ade20k": "ADE20K", "cityscapes": "Cityscapes", "coco": "COCO"}
SIZE = (512, 512)


def main() -> int:
    """Runs the command line and returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--debug", action="store_true", help="show where an error comes from")
    return run(write, options.parse_args())


def write(arguments: argparse.Namespace) -> None:
    """Counts all configs and their twins, and writes the tables."""
    tables = [f"### {title}\n\n{_table(CONFIGS / name)}" for name, title in FOLDERS.items()]
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    text = f"{before}{MARKS[0]}\n\n{''.join(tables)}{MARKS[1]}{rest.partition(MARKS[1])[2]}"
    README.write_text(text, encoding="utf-8")
    print(f"tables written to {README}")


def _table(folder: Path) -> str:
    lines = ["| config | parameters | GFLOPs | plain twin | published |", "|---" * 5 + "|"]
    for path in sorted(folder.glob("*.py")):
        lines.append(f"| {' | '.join(_cells(path))} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n\n"


def _cells(path: Path) -> list[str]:
    from _models import cost

    text = path.read_text(encoding="utf-8")
    base = ast.literal_eval(re.search(r'^_base_ = (".+")', text, re.M)[1])
    fused = cost(load_config(str(path), []), SIZE)
    plain = cost(_twin(base, path), SIZE)
    published = re.search(r"^# Published \(not ours\): (.+(?:\n# .+)*)", text, re.M)
    return [
        f"[{path.stem}]({path.parent.name}/{path.name})",
        f"{plain.parameters / 1e6:.1f} -> {fused.parameters / 1e6:.1f} M",
        f"{plain.flops / 1e9:.1f} -> {fused.flops / 1e9:.1f}",
        f"`{base}`",
        published[1].replace("\n# ", " ") if published else "",
    ]


def _twin(base: str, path: Path):
    """The plain twin's config: the base, with what else the config changes."""
    from mmengine.config import Config

    library, name = base.split("::")
    shipped = Path(importlib.util.find_spec(library).origin).parent / ".mim" / "configs"
    plain = Config.fromfile(shipped / name)
    plain.model.backbone = load_config(str(path), []).model.backbone  # one of mmseg's forgets it
    return plain


if __name__ == "__main__":
    sys.exit(main())
