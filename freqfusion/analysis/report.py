"""Writes an analysis as one HTML file that needs nothing else, and its figures as JSON."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from ._page import number, page, percent
from ._scene import Scene, arrows, scene_section
from ._sections import definitions, filters, offsets, spectra
from ._similarity_sections import classes, fusions, layers

FILES = ("report.html", "report.json")


def write_report(folder: Path, results: dict, scene: Scene | None = None) -> Path:
    """Writes ``report.html`` and ``report.json``.

    Args:
        folder: where to; it is made.
        results: what `ModelAnalysis.compute` returns, and under ``about`` what was measured: texts
            and numbers, and ``classes``, the names of the labels.
        scene: an image, for the pictures.

    Returns:
        The path of the page.

    Raises:
        FileExistsError: if there is a report in the folder.
        ImportError: without matplotlib.

    Example:
        >>> import tempfile
        >>> results = {"about": {}, "fusions": {}, "layers": {}}  # of a model without either
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(Path(folder), results).name
        'report.html'
    """
    folder = Path(folder)
    for name in FILES:
        if (folder / name).exists():
            raise FileExistsError(f"{folder / name} exists already")
    figures = json.dumps(results, indent=1, allow_nan=False)
    html = _html(results, scene)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(figures, encoding="utf-8")
    (folder / "report.html").write_text(html, encoding="utf-8")
    return folder / "report.html"


def _html(results: dict, scene: Scene | None) -> str:
    about = results["about"]
    title = Path(str(about.get("config", "model"))).stem
    main = _main_map(results)
    filtered = [fusion["filters"] for fusion in results["fusions"].values() if fusion["filters"]]
    moved = any(each["offsets"] for each in filtered)
    parts = []
    if main and results["fusions"]:
        parts.append(("Before and after", fusions(results)))
    if main and results["layers"]:
        parts.append(("Maps", layers(results)))
    if scene:
        parts.append(("Pictures", scene_section(scene)))
    parts.append(("Spectra", spectra(results)))
    if filtered:
        parts.append(("Filters", filters(results)))
    if moved:
        parts.append(("Offsets", offsets(results) + (arrows(scene) if scene else "")))
    if main:
        parts.append(("Classes", classes(*main, about.get("classes", []))))
    parts.append(("Definitions", definitions(about)))
    return page(title, _header(title, results, main), parts)


def _main_map(results: dict) -> tuple[str, dict] | None:
    """Name and similarity of the map that the page begins with: the first layer, else fusion."""
    named = [*results["layers"].items()]
    named += [(f"{path}, fused", f["maps"]["fused"]) for path, f in results["fusions"].items()]
    return next(((name, each["similarity"]) for name, each in named if each["similarity"]), None)


def _header(title: str, results: dict, main: tuple[str, dict] | None) -> str:
    about = results["about"]
    kinds = sorted({fusion["type"] for fusion in results["fusions"].values()})
    tiles = _tiles(results, main)
    images = about.get("images")
    line = " · ".join(
        filter(
            None,
            [
                str(about.get("model", "")),
                f"{len(results['fusions'])} × {', '.join(kinds)}" if kinds else "no fusion",
                f"{images} images" if images else "",
                Path(str(about.get("checkpoint", ""))).name,
            ],
        )
    )
    note = ""
    if main is None:
        note = (
            "<p><b>The data have no semantic labels</b>, so similarity within and between classes "
            "is not measured; spectra, filters and offsets are.</p>"
        )
    return f"<p>Features inside of</p><h1>{escape(title)}</h1><p>{escape(line)}</p>{note}{tiles}"


def _tiles(results: dict, main: tuple[str, dict] | None) -> str:
    tiles = []
    if main:
        name, similarity = main
        place = f"<code>{escape(name)}</code>"
        whole, near = similarity["all"]["macro"], similarity["boundary"]["macro"]
        tiles += [
            (number(whole["margin_mean"]), f"similarity margin of {place}, macro"),
            (number(near["margin_mean"]), "the same in the boundary band"),
            (percent(whole["nearest_share"]), "of pixels have their own class's centre nearest"),
        ]
    for path, fusion in list(results["fusions"].items())[:1]:
        found = (fusion["filters"] or {}).get("offsets")
        if found:
            text = f"coarse pixels is the mean offset in <code>{escape(path)}</code>"
            tiles.append((number(found["all"]["mean"], 2), text))
    boxes = "".join(f'<div class="tile"><b>{b}</b><span>{text}</span></div>' for b, text in tiles)
    return f'<div class="tiles">{boxes}</div>'
