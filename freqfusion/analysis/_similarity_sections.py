"""Sections of a report that show how similar features are: tables, and what to read from them."""

from __future__ import annotations

from html import escape

from . import _charts as charts
from ._charts import ROLES
from ._page import change, chart, figure, number, percent, points, shape, table

HEAD = """
<tr><th rowspan="2"></th><th rowspan="2">channels,<br>size</th>
<th colspan="6" class="group edge">all pixels</th>
<th colspan="3" class="group edge">boundary band</th></tr>
<tr><th class="edge">intra</th><th>inter,<br>mean</th><th>inter,<br>max</th>
<th>margin,<br>mean</th><th>margin,<br>max</th><th>nearest<br>is own</th>
<th class="edge">margin,<br>mean</th><th>margin,<br>max</th><th>nearest<br>is own</th></tr>
"""
MARGINS = ("margin_mean", "margin_max", "nearest_share")
COLUMNS = (
    *(("all", name) for name in ("intra", "inter_mean", "inter_max", *MARGINS)),
    *(("boundary", name) for name in MARGINS),
)
EDGES = (2, 8)


def fusions(results: dict) -> str:
    """Similarity before and after every fusion."""
    found = {
        path: each
        for path, each in results["fusions"].items()
        if each["maps"]["fine"]["similarity"]
    }
    drawn = figure(
        chart(charts.draw_margins, found),
        "Read from left to right: a green dot to the right of the blue one says that the fused map "
        "separates the classes better than the fine map that went in. Finest fusion on top.",
        "similarity margins of every fusion",
    )
    return (
        "<p>The margin is the cosine of a pixel with the centre of its own class, less that with "
        "the other classes' centres. Each fusion is measured on the two maps that go in and on "
        "what comes out; every class counts alike (macro).</p>"
        f"{drawn}{_fusion_tables(found, 'macro')}"
        "<details><summary>The same tables with every pixel counting alike (pooled)</summary>"
        f"{_fusion_tables(found, 'pooled')}</details>"
    )


def _fusion_tables(found: dict, average: str) -> str:
    tables = []
    for path, fusion in found.items():
        maps = fusion["maps"]
        rows = []
        for role, each in maps.items():
            kind = {"fused": "strong", "fine_out": "soft", "coarse_out": "soft"}.get(role, "")
            dot = f'<span class="dot" style="background:{ROLES[role].colour}"></span>'
            rows.append((kind, _map_row(dot + ROLES[role].title, each, average)))
        for role in ("fine", "coarse"):
            before, after = _values(maps[role], average), _values(maps["fused"], average)
            rows.append(("", [f"fused, against {role}", "", *_changes(before, after)]))
        kind = escape(fusion["type"])
        tables.append(f"<h3><code>{escape(path)}</code><small>{kind}</small></h3>")
        tables.append(table(HEAD, rows, EDGES))
    return "".join(tables)


def layers(results: dict) -> str:
    """Similarity of the other maps."""
    rows = {name: each for name, each in results["layers"].items() if each["similarity"]}
    tables = {
        average: table(
            HEAD,
            [
                ("", _map_row(f"<code>{escape(n)}</code>", each, average))
                for n, each in rows.items()
            ],
            EDGES,
        )
        for average in ("macro", "pooled")
    }
    return (
        "<p>The maps that the rest of the model works with. Every class counts alike (macro).</p>"
        f"{tables['macro']}<details><summary>With every pixel counting alike (pooled)</summary>"
        f"{tables['pooled']}</details>"
    )


def classes(name: str, similarity: dict, names: list[str]) -> str:
    """Similarity of each class in one map."""
    total = max(similarity["all"]["pixels"], 1)
    near = {own["label"]: own for own in similarity["boundary"]["classes"]}
    rows = []
    for own in sorted(similarity["all"]["classes"], key=lambda own: -own["pixels"]):
        label, boundary = own["label"], near.get(own["label"], {})
        title = names[label] if 0 <= label < len(names) else f"class {label}"
        cells = [escape(title), percent(own["pixels"] / total), number(own["intra"])]
        cells += [_with_bar(own["margin_mean"]), number(own["margin_max"])]
        cells += [percent(own["nearest_share"]), number(boundary.get("margin_mean"))]
        cells += [number(boundary.get("margin_max")), percent(boundary.get("nearest_share"))]
        rows.append(("", cells))
    head = HEAD.replace("channels,<br>size", "share of<br>pixels").replace('"6"', '"4"')
    head = head.replace("<th>inter,<br>mean</th><th>inter,<br>max</th>\n", "")
    return (
        f"<p>In <code>{escape(name)}</code>, commonest class first. A class that loses most of its "
        "margin in the boundary band is one whose outline the map blurs.</p>"
        + table(head, rows, (2, 6))
    )


def _map_row(title: str, each: dict, average: str) -> list[str]:
    cells = [
        (percent if name == "nearest_share" else number)(value)
        for (_, name), value in zip(COLUMNS, _values(each, average), strict=True)
    ]
    return [title, shape(each), *cells]


def _values(each: dict, average: str) -> list[float | None]:
    return [each["similarity"][region][average][name] for region, name in COLUMNS]


def _changes(before: list[float | None], after: list[float | None]) -> list[str]:
    """What a fusion changed; more similarity between classes is not marked as better."""
    cells = []
    for (_, name), old, new in zip(COLUMNS, before, after, strict=True):
        value = None if old is None or new is None else new - old
        show = points if name == "nearest_share" else number
        cells.append(change(value, show, lower_is_better=name.startswith("inter")))
    return cells


def _with_bar(value: float | None) -> str:
    share = 0 if value is None else 100 * min(max(value, 0), 1)
    return f'{number(value)}<span class="bar"><i style="width:{share:.0f}%"></i></span>'
