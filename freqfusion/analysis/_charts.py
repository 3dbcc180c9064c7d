"""Charts of the figures of an analysis; matplotlib is imported when something is drawn."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Role(NamedTuple):
    """How a map of a fusion is called and drawn."""

    title: str
    colour: str
    line: str = "-"


ROLES = {
    "fine": Role("fine map, in", "#3566c4"),
    "coarse": Role("coarse map, in", "#d9822b"),
    "fine_out": Role("fine map, high-pass enhanced", "#8aa9e6", "--"),
    "coarse_out": Role("coarse map, upsampled", "#eebb83", "--"),
    "fused": Role("fused", "#12876a"),
}
INK, QUIET, RULE = "#1d2733", "#6b7785", "#dfe4ea"
PALETTE = ("#12876a", "#3566c4", "#d9822b", "#8a5cb8", "#c2466b", "#6b7785")
STYLE = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": RULE,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "freqfusion",  # the same figures give the same file
}


def svg(draw: Any, *arguments: Any) -> bytes:
    """Returns what a function of this module draws as an SVG file.

    Example:
        >>> layer = {"spectrum": {"frequency": [0.1, 0.4], "power": [2.0, 1.0]}}
        >>> svg(draw_spectra, {"neck[0]": layer}).startswith(b"<?xml")
        True
    """
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        draw(*arguments).savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def draw_margins(fusions: dict[str, dict]) -> Figure:
    """Draws the similarity margins of the maps of every fusion, at all pixels and at boundaries.

    Args:
        fusions: as in `ModelAnalysis.compute`, with similarity.
    """
    figure = _figure(9.6, 1.25 + 0.62 * len(fusions))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    regions = {"all": "All pixels", "boundary": "Boundary band"}
    for axes, (region, title) in zip(panels, regions.items(), strict=True):
        for row, fusion in enumerate(fusions.values()):
            maps = fusion["maps"]
            values = {
                role: maps[role]["similarity"][region]["macro"]["margin_mean"]
                for role in ("fine", "coarse", "fused")
            }
            values = {role: value for role, value in values.items() if value is not None}
            if values:
                span = min(values.values()), max(values.values())
                axes.plot(span, (row, row), color=RULE, linewidth=3, zorder=1)
            for role, value in values.items():
                size = 90 if role == "fused" else 55
                axes.scatter(value, row, size, ROLES[role].colour, zorder=2 + (role == "fused"))
            if "fused" in values:
                _note(axes, values["fused"], row, f"{values['fused']:.3f}")
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.margins(x=0.12)
        axes.set_xlabel("similarity margin, macro (higher is better)")
    panels[0].set_yticks(range(len(fusions)), list(fusions))
    panels[0].set_ylim(len(fusions) - 0.5, -0.6)
    handles = [
        axes.scatter([], [], 55, ROLES[role].colour, label=ROLES[role].title)
        for role in ("fine", "coarse", "fused")
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


def draw_fusion_spectra(maps: dict[str, dict]) -> Figure:
    """Draws the spectra of a fusion's maps over the frequencies of the fine one.

    A smooth pattern has the same curve in maps of any size there: frequencies of the coarse map
    are divided by the ratio of the sizes, its power is multiplied by the ratio of the numbers of
    pixels.

    Args:
        maps: by role, as in `ModelAnalysis.compute`.
    """
    figure = _figure(4.7, 3.5)
    axes = figure.subplots()
    size = maps["fine"]["size"]
    for role, each in maps.items():
        ratio = (size[0] / each["size"][0] * size[1] / each["size"][1]) ** 0.5
        style = ROLES[role]
        _spectrum(axes, each["spectrum"], style.title, style.colour, style.line, ratio)
    _frequencies(axes, "cycles per pixel of the fine map")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def draw_spectra(layers: dict[str, dict]) -> Figure:
    """Draws the spectra of maps, each over the frequencies of its own pixels.

    Args:
        layers: as in `ModelAnalysis.compute`.
    """
    figure = _figure(4.7, 3.5)
    axes = figure.subplots()
    for index, (name, each) in enumerate(layers.items()):
        _spectrum(axes, each["spectrum"], name, PALETTE[index % len(PALETTE)])
    _frequencies(axes, "cycles per pixel of each map")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def draw_responses(filters: dict) -> Figure:
    """Draws the gain of the kernels of a FreqFusion: mean at every frequency, and over rings.

    Args:
        filters: as in `ModelAnalysis.compute`.
    """
    kinds = {"low_pass": ("low-pass", ROLES["coarse"]), "high_pass": ("high-pass", ROLES["fine"])}
    kinds = {key: kind for key, kind in kinds.items() if filters[key]}
    figure = _figure(9.6, 2.75)
    *panels, curves = figure.subplots(1, len(kinds) + 1, width_ratios=[*[1] * len(kinds), 1.7])
    for axes, (key, (title, role)) in zip(panels, kinds.items(), strict=True):
        response = filters[key]
        gain = np.asarray(response["gain"]["mean"])
        top = 1 if key == "low_pass" else max(gain.max(), 0.1)
        image = axes.imshow(
            gain, extent=(-0.5, 0.5, 0.5, -0.5), vmin=0, vmax=top, cmap="viridis", origin="upper"
        )
        axes.set_title(f"{title}, mean gain")
        axes.set_xlabel("cycles per pixel")
        axes.set_xticks((-0.5, 0, 0.5))
        axes.set_yticks((-0.5, 0, 0.5))
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, shrink=0.85, pad=0.03).outline.set_visible(False)
        radial = response["radial"]
        x, mean, std = (np.asarray(radial[part]) for part in ("frequency", "mean", "std"))
        curves.fill_between(x, mean - std, mean + std, color=role.colour, alpha=0.16, linewidth=0)
        curves.plot(x, mean, color=role.colour, label=f"{title}, ± std")
    curves.set_ylim(bottom=0)
    _frequencies(curves, "cycles per pixel of the filtered map", "gain")
    curves.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _note(axes: Axes, x: float, y: float, text: str) -> None:
    axes.annotate(
        text, (x, y), (0, 9), textcoords="offset points", ha="center", color=INK, fontsize=8.5
    )


def _spectrum(
    axes: Axes, spectrum: dict, label: str, colour: str, line: str = "-", ratio: float = 1
) -> None:
    """Draws a spectrum in the pixels of a map that is `ratio` times as large in each direction."""
    known = [pair for pair in zip(spectrum["frequency"], spectrum["power"], strict=True) if pair[1]]
    x, y = np.asarray(known).reshape(-1, 2).T
    axes.plot(x / ratio, y * ratio**2, line, color=colour, label=label, linewidth=1.5)


def _frequencies(axes: Axes, label: str, what: str = "power per pixel") -> None:
    """Labels the axes of a curve over frequencies, and marks Nyquist's."""
    axes.axvline(0.5, color=QUIET, linewidth=0.9, linestyle=":")
    axes.annotate(
        "Nyquist",
        (0.5, 1),
        (-4, -4),
        ("data", "axes fraction"),
        "offset points",
        ha="right",
        va="top",
        color=QUIET,
        fontsize=8,
    )
    axes.set_xlim(0, 0.7071)
    axes.set_xlabel(label)
    axes.set_ylabel(what)
    if what != "gain":
        axes.set_yscale("log")
