"""Parts of an HTML page that needs no other file: style, tables, figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np

from ._charts import svg

STYLE = """
:root { --ink: #1d2733; --quiet: #66717f; --rule: #e3e8ee; --paper: #fff; --ground: #f5f7f9;
  --fine: #3566c4; --coarse: #d9822b; --fused: #12876a; --bad: #b83b3b; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 4rem; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.55; font-size: 15px;
  font-family: system-ui, -apple-system, "Segoe UI", Inter, Roboto, "Helvetica Neue", sans-serif; }
nav { position: sticky; top: 0; z-index: 1; background: rgb(255 255 255 / 92%);
  border-bottom: 1px solid var(--rule); }
nav div { display: flex; gap: 1.6rem; overflow-x: auto; padding: .75rem 2rem; }
nav a { color: var(--quiet); text-decoration: none; font-size: 14px; white-space: nowrap; }
nav a:hover { color: var(--fused); }
nav b { color: var(--ink); font-weight: 600; font-size: 14px; white-space: nowrap; }
nav div, header, main { max-width: 1160px; margin: 0 auto; }
header { padding: 3rem 2rem 1rem; }
header p { margin: .2rem 0; color: var(--quiet); }
h1 { font-weight: 300; font-size: 34px; letter-spacing: -.02em; line-height: 1.2; margin: .3rem 0; }
h2 { font-weight: 400; font-size: 24px; letter-spacing: -.01em; margin: 0 0 .3rem; }
h3 { font-weight: 600; font-size: 15px; margin: 1.8rem 0 .5rem; }
h3 small { font-weight: 400; color: var(--quiet); font-size: 13px; margin-left: .5rem; }
code { font: 13px ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
main { padding: 0 2rem 4rem; }
section { background: var(--paper); border: 1px solid var(--rule); border-radius: 10px;
  padding: 1.8rem 2rem 2rem; margin-top: 1.4rem; }
section > p { max-width: 76ch; color: #414c59; margin: .3rem 0 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 1rem;
  margin-top: 1.4rem; }
.tile { background: var(--paper); border: 1px solid var(--rule); border-radius: 10px;
  padding: 1rem 1.2rem; }
.tile span { color: var(--quiet); font-size: 13px; }
.tile b { display: block; font-weight: 300; font-size: 32px; letter-spacing: -.02em;
  line-height: 1.25; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: 13.5px; }
th { font-weight: 500; color: var(--quiet); text-align: right; padding: .3rem .6rem;
  vertical-align: bottom; line-height: 1.3; }
td { text-align: right; padding: .34rem .6rem; border-top: 1px solid var(--rule);
  white-space: nowrap; }
td:first-child, tr:first-child th:first-child { text-align: left; padding-left: 0; }
th.group { text-align: center; border-bottom: 1px solid var(--rule); }
th.edge, td.edge { border-left: 1px solid var(--rule); }
tr.strong td { font-weight: 600; }
tr.soft td { color: var(--quiet); }
.up { color: var(--fused); } .down { color: var(--bad); }
.dot { display: inline-block; width: .62em; height: .62em; border-radius: 50%;
  margin-right: .5em; }
.bar { display: inline-block; width: 70px; height: 6px; border-radius: 3px; background: var(--rule);
  margin-left: .6em; vertical-align: middle; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--fused); }
figure { margin: 0; min-width: 0; }
figure div { position: relative; }
img.sharp { image-rendering: pixelated; }
figure i { position: absolute; width: 16px; height: 16px; margin: -8px 0 0 -8px; border-radius: 50%;
  border: 2px solid #fff; box-shadow: 0 0 0 1.5px #1d2733, inset 0 0 0 1.5px #1d2733; }
figure img { display: block; width: 100%; height: auto; border-radius: 4px; }
figcaption { color: var(--quiet); font-size: 13px; margin-top: .45rem; line-height: 1.4; }
.grid { display: grid; gap: 1.2rem; margin: .8rem 0; }
.two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.scale { height: 8px; border-radius: 4px; margin: .2rem 0;
  background: linear-gradient(90deg, #000004, #51127c, #b73779, #fc8961, #fcfdbf); }
.ends { display: flex; justify-content: space-between; color: var(--quiet); font-size: 12px; }
.scroll + p { margin-top: 1.6rem; }
details { margin-top: 1rem; } summary { cursor: pointer; color: var(--quiet); font-size: 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .45rem 1.6rem; margin: 1rem 0 0;
  font-size: 14px; }
dt { font-weight: 600; } dd { margin: 0; color: #414c59; }
@media (max-width: 760px) { .two, .three { grid-template-columns: 1fr; } }
@media print { nav { display: none; } section { break-inside: avoid; } }
"""


def page(title: str, header: str, sections: Iterable[tuple[str, str]]) -> str:
    """Returns a page of titled sections, with links to them at its top."""
    sections = [(name, f"s{index}", body) for index, (name, body) in enumerate(sections)]
    links = "".join(f'<a href="#{mark}">{escape(name)}</a>' for name, mark, _ in sections)
    bodies = "".join(
        f'<section id="{mark}"><h2>{escape(name)}</h2>{body}</section>\n'
        for name, mark, body in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        f"<nav><div><b>FreqFusion analysis</b>{links}</div></nav>"
        f"<header>{header}</header>\n<main>{bodies}</main></body></html>\n"
    )


def table(head: str, rows: Iterable[tuple[str, Sequence[str]]], edges: Sequence[int] = ()) -> str:
    """Returns a table.

    Args:
        head: its rows of headings, HTML.
        rows: the class and the cells of each row, HTML.
        edges: columns with a line on their left.
    """
    lines = []
    for kind, cells in rows:
        marked = (
            f'<td class="edge">{cell}</td>' if column in edges else f"<td>{cell}</td>"
            for column, cell in enumerate(cells)
        )
        lines.append(f'<tr class="{kind}">{"".join(marked)}</tr>')
    return (
        f'<div class="scroll"><table><thead>{head}</thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def figure(
    source: str,
    caption: str,
    text: str,
    point: tuple[float, float] | None = None,
    sharp: bool = False,
) -> str:
    """Returns a picture.

    Args:
        source: what `source_of` or `png_source` returns.
        caption: HTML.
        text: what it shows, for those who do not see it.
        point: what to mark with a ring: shares of height and width.
        sharp: show pixels as squares.
    """
    ring = f'<i style="top:{100 * point[0]:.1f}%;left:{100 * point[1]:.1f}%"></i>' if point else ""
    kind = ' class="sharp"' if sharp else ""
    return (
        f'<figure><div><img src="{source}" alt="{escape(text)}"{kind}>{ring}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def source_of(data: bytes, kind: str) -> str:
    """Returns a file, of a kind such as ``image/png``, as the source of a picture."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_source(picture: np.ndarray) -> str:
    """Returns a picture (H, W, 3), uint8, as the source of one."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(picture), format="png")
    return source_of(file.getvalue(), "image/png")


def chart(draw: Callable, figures: dict) -> str:
    """Returns what a function of `_charts` draws as the source of a picture."""
    return source_of(svg(draw, figures), "image/svg+xml")


def shape(each: dict) -> str:
    """Returns channels and size of a map's figures."""
    return f"{each['channels']}, {each['size'][0]}×{each['size'][1]}"


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number with so many decimals, and a dash for None."""
    if value is None:
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: no minus zero


def percent(value: float | None) -> str:
    """Returns a share in percent with a decimal, and a dash for None."""
    return "–" if value is None else f"{number(100 * value, 1)} %"


def points(value: float) -> str:
    """Returns a difference of shares in percentage points."""
    return f"{number(100 * value, 1)} pt"


def change(value: float | None, show: Callable = number, lower_is_better: bool = False) -> str:
    """Returns a difference with its sign: green if it is better, red if it is worse."""
    if not value:
        return number(value)
    kind = "up" if (value < 0) == lower_is_better else "down"
    return f'<span class="{kind}">{"+" if value > 0 else ""}{show(value)}</span>'
