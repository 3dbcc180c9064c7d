"""Sections of a report that show spectra, filters, offsets, and what the words mean."""

from __future__ import annotations

from html import escape

from . import _charts as charts
from ._charts import ROLES
from ._page import chart, figure, number, percent, shape, table

OTHERS = (
    "The other maps, each over the frequencies of its own pixels. A curve that rises towards the "
    "right is a pattern of single pixels, such as a checkerboard."
)


def spectra(results: dict) -> str:
    """Spectra of all maps."""
    pictures, rows = [], []
    for path, fusion in results["fusions"].items():
        maps = fusion["maps"]
        pictures.append(
            figure(
                chart(charts.draw_fusion_spectra, maps),
                f"<code>{escape(path)}</code>. The orange curve ends where the coarse map's pixels "
                "do: from there on, what the green curve has above the solid blue one was "
                "sharpened, or made by the upsampling.",
                f"spectra of {path}",
            )
        )
        rows += [
            (f"<code>{escape(path)}</code>, {ROLES[role].title}", each)
            for role, each in maps.items()
        ]
    if results["layers"]:
        source = chart(charts.draw_spectra, results["layers"])
        pictures.append(figure(source, OTHERS, "spectra of the other maps"))
        rows += [(f"<code>{escape(name)}</code>", each) for name, each in results["layers"].items()]
    body = []
    for title, each in rows:
        spectrum = each["spectrum"]
        cells = [
            title,
            shape(each),
            f"{spectrum['variance']:.3g}",
            percent(spectrum["fine_share"]),
        ]
        body.append(("", cells))
    head = "<tr><th></th><th>channels, size</th><th>variance</th><th>fine share</th></tr>"
    return (
        "<p>Power of the features over spatial frequency, mean over channels, directions and "
        "images; white noise would be flat. Fusing should keep the low frequencies of both maps, "
        "and at high ones the detail of the fine map.</p>"
        f'<div class="grid two">{"".join(pictures)}</div>'
        "<details><summary>Variance, and the share of it above half of Nyquist</summary>"
        f"{table(head, body)}</details>"
    )


def filters(results: dict) -> str:
    """Responses of the kernels of every FreqFusion."""
    pictures = [
        figure(
            chart(charts.draw_responses, fusion["filters"]),
            f"<code>{escape(path)}</code>, {fusion['filters']['low_pass']['kernels']:,} positions. "
            "The middle of a square is a constant map, its corners are the finest patterns. The "
            "wider the shade around a curve, the more the filter adapts to its position.",
            f"frequency responses of {path}",
        )
        for path, fusion in results["fusions"].items()
        if fusion["filters"]
    ]
    return (
        "<p>Every position has kernels of its own. The gain is what a pattern of a frequency is "
        "multiplied by. The low-pass filter upsamples the coarse map: the lower its gain at high "
        "frequencies, the more it smooths. What the high-pass filter lets through is added to the "
        "fine map: the higher its gain, the more it sharpens.</p>" + "".join(pictures)
    )


def offsets(results: dict) -> str:
    """Lengths of the offsets of every FreqFusion."""
    rows = []
    for path, fusion in results["fusions"].items():
        found = (fusion["filters"] or {}).get("offsets")
        if found:
            cells = [f"<code>{escape(path)}</code>"]
            for name in ("all", "boundary", "elsewhere"):
                own = found[name]
                spread = f" ± {number(own['std'], 2)}" if own["std"] is not None else ""
                cells.append(number(own["mean"], 2) + spread)
            rows.append(("", cells))
    head = "<tr><th></th><th>all positions</th><th>boundary band</th><th>elsewhere</th></tr>"
    return (
        "<p>How far from its place the upsampled map is sampled: length in pixels of the coarse "
        "map, mean and standard deviation. Offsets are there to repair boundaries: they should be "
        "longer in the band than elsewhere, and where they are many pixels long the map is sampled "
        "from other objects.</p>" + table(head, rows)
    )


DEFINITIONS = {
    "centre": "Mean vector of a class's pixels in one image, of the map resized to the labels.",
    "intra": "Cosine of a pixel with the centre of its own class.",
    "inter": "Cosine of a pixel with the centres of the other classes in the image: mean, maximum.",
    "margin": "Intra less inter, with the mean or the maximum. Higher: classes lie further apart.",
    "nearest is own": "Share of the pixels to which no other centre is nearer than their own.",
    "boundary band": "Labelled pixels near a change of the labels, dilated by a square of edge_k.",
    "macro, pooled": "Mean over classes of each class's mean; mean over all pixels.",
    "fine share": "Part of the variance at more than 0.25 cycles per pixel, half of Nyquist.",
}


def definitions(about: dict) -> str:
    """What the words mean, and what was measured."""
    shown = {key: value for key, value in about.items() if key != "classes"}
    meanings = "".join(f"<dt>{word}</dt><dd>{text}</dd>" for word, text in DEFINITIONS.items())
    subject = "".join(
        f"<dt>{escape(key)}</dt><dd><code>{escape(str(value))}</code></dd>"
        for key, value in shown.items()
    )
    return f"<dl>{meanings}</dl><h3>Measured</h3><dl>{subject}</dl>"
