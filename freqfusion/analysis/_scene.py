"""Section of a report that shows one image: its maps in colours, similarities, offsets."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from torch import Tensor

from . import pictures
from ._charts import ROLES
from ._page import figure, number, png_source, source_of
from .model import Snapshot

SHOWN = ("fine", "coarse", "fused")
SMALL, LARGEST = 480, 1280  # columns of a picture whose pixels are squares, and of any


class Scene(NamedTuple):
    """One image of an analysis, for its pictures.

    Attributes:
        image: (H, W, 3), uint8.
        labels: (1, H, W), of any size, or None.
        palette: a colour (red, green, blue) for each label, or None.
        covered: shares of height and width of the maps that the image covers; the rest is padding.
        snapshot: what the model had inside.
    """

    image: np.ndarray
    labels: Tensor | None
    palette: Sequence[Sequence[int]] | None
    covered: tuple[float, float]
    snapshot: Snapshot

    def crop(self, x: Tensor) -> Tensor:
        """The part of a batch's first map that the image covers, (C, h, w)."""
        rows, cols = (math.ceil(n * p) for n, p in zip(x.shape[2:], self.covered, strict=True))
        return x[0, :, :rows, :cols]


def scene_section(scene: Scene) -> str:
    """Pictures of an image's maps, and what to read from them."""
    labels = None if scene.labels is None else scene.labels[0].cpu().numpy()
    point = (0.5, 0.5) if labels is None else pictures.telling_pixel(labels)
    shown = [_figure(scene.image, "image", "image", point)]
    if labels is not None:
        shown.append(_figure(_colours(labels, scene.palette), "labels", "labels"))
    layers = {name: scene.crop(x) for name, x in scene.snapshot.layers.items()}
    own = [part for name, x in layers.items() for part in _false_colours({name: x})]
    fusions = {
        path: {role: scene.crop(maps[role]) for role in SHOWN}
        for path, maps in sorted(scene.snapshot.fusions.items(), key=lambda item: _area(item[1]))
    }
    parts = [
        "<p>The first image. In false colours: red, green and blue are the first three principal "
        "components of a map's unit vectors. Alike colours are alike features: an object should be "
        "of one colour up to its outline, and that colour not be its neighbour's.</p>",
        _grid([*shown, *own]),
    ]
    if fusions:
        parts.append(
            "<p>Maps of a fusion with equally many channels share components and scale.</p>"
        )
    for path, maps in fusions.items():
        parts += [f"<h3><code>{escape(path)}</code></h3>", _grid(_false_colours(maps))]
    if fusions:
        path, maps = next(iter(fusions.items()))
        parts += _similarities(path, maps, point)
    return "".join(parts)


def arrows(scene: Scene) -> str:
    """Pictures of the offsets of every FreqFusion."""
    shown = []
    for path, filters in scene.snapshot.filters.items():
        if filters.offset is not None:
            coarse = scene.crop(scene.snapshot.fusions[path]["coarse"])
            drawn = pictures.draw_offsets(
                _fit(scene.image), scene.crop(filters.offset), coarse.shape[1:]
            )
            file = io.BytesIO()
            drawn.savefig(file, format="png")
            source = source_of(file.getvalue(), "image/png")
            shown.append(figure(source, f"<code>{escape(path)}</code>", f"offsets of {path}"))
    return (
        "<p>From each pixel to where the coarse map is sampled instead, mean over the groups of "
        "channels. Arrows that matter begin at a boundary and point into the object that "
        "the pixel belongs to.</p>" + _grid(shown, "two")
    )


def _similarities(path: str, maps: dict[str, Tensor], point: tuple[float, float]) -> list[str]:
    """Similarity maps of a fusion: to the marked pixel, and to the neighbours of each."""
    to_point = {name: pictures.similarity_to(x, point) for name, x in maps.items()}
    to_neighbours = {name: pictures.similarity_to_neighbours(x) for name, x in maps.items()}
    return [
        f"<h3>Similarity with the marked pixel<small><code>{escape(path)}</code></small></h3>",
        "<p>Light where a vector is like that of the pixel in the ring. Its object should be light "
        "as a whole and end at its outline; other objects of its class may be light too.</p>",
        _scaled(to_point, point),
        f"<h3>Similarity with the neighbours<small><code>{escape(path)}</code></small></h3>",
        "<p>Mean cosine with the eight neighbours. Dark lines should be outlines of objects, thin "
        "and unbroken; dark spots inside of an object are inconsistencies.</p>",
        _scaled(to_neighbours),
    ]


def _scaled(values: dict[str, np.ndarray], point: tuple[float, float] | None = None) -> str:
    """Maps of values on one scale of colours, and the scale."""
    low = min(np.quantile(x, pictures.TAILS).item() for x in values.values())
    shown = [
        _figure(pictures.false_colours(x, low, 1), ROLES[role].title, "similarity", point)
        for role, x in values.items()
    ]
    ends = f"<span>{number(low, 2)} or less</span><span>1</span>"
    return f'{_grid(shown)}<div class="scale"></div><div class="ends">{ends}</div>'


def _false_colours(maps: dict[str, Tensor]) -> list[str]:
    """Figures of maps in the colours of their principal components."""
    shown = []
    for name, picture in pictures.pca_colours(maps).items():
        title = ROLES[name].title if name in ROLES else f"<code>{escape(name)}</code>"
        height, width = picture.shape[:2]
        shown.append(_figure(picture, f"{title}, {height}×{width}", name))
    return shown


def _grid(figures: Sequence[str], columns: str = "three") -> str:
    return f'<div class="grid {columns}">{"".join(figures)}</div>'


def _figure(
    picture: np.ndarray, caption: str, text: str, point: tuple[float, float] | None = None
) -> str:
    return figure(png_source(_fit(picture)), caption, text, point, picture.shape[1] < SMALL)


def _fit(picture: np.ndarray) -> np.ndarray:
    """A picture of not too many pixels: every second, third... of a large one."""
    step = -(-picture.shape[1] // LARGEST)
    return picture[::step, ::step]


def _colours(labels: np.ndarray, palette: Sequence[Sequence[int]] | None) -> np.ndarray:
    """Labels in the colours of a palette; those that it has no colour for are black."""
    from matplotlib import colormaps

    if palette is None:
        palette = colormaps["tab20"](np.arange(20), bytes=True)[:, :3]
    known = np.zeros((max(len(palette), labels.max()) + 1, 3), np.uint8)
    known[: len(palette)] = palette
    return known[labels]


def _area(maps: dict[str, Tensor]) -> int:
    return -math.prod(maps["fine"].shape[2:])
