"""Pages of Plotly figures, which need no network."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}}
figure{{margin:1rem 0}}figcaption{{color:#555;max-width:40rem}}img{{border:1px solid #ddd}}
th{{text-align:left;padding-right:2rem;font-weight:normal;color:#555}}
td{{font-variant-numeric:tabular-nums}}</style>
</head><body><h1>{title}</h1>
{body}
{figures}
</body></html>
"""


def page(title: str, body: str, figures: Iterable[Any]) -> str:
    """Return an HTML page of a title (plain text), a body (HTML) and Plotly figures."""
    from plotly.io import to_html  # noqa: PLC0415 (as in `new_figure`)

    parts: list[str] = []
    for figure in figures:
        parts.append(to_html(figure, full_html=False, include_plotlyjs=not parts))
    return _PAGE.format(title=html.escape(title), body=body, figures="\n".join(parts))


def new_figure(title: str, x: str, y: str) -> Any:
    """Return an empty Plotly figure with titles of its axes."""
    # Imported here: plotly takes half a second to import, and only pages need it.
    import plotly.graph_objects as go  # noqa: PLC0415

    layout = {"title": title, "xaxis_title": x, "yaxis_title": y, "template": "plotly_white", "height": 420}
    return go.Figure(layout=layout)


def curve_mode(y: Iterable[float]) -> str:
    """Return Plotly's mode of a curve: a line, or a marker, because a line of one point is invisible."""
    return "lines" if sum(map(math.isfinite, y)) > 1 else "markers"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Return an HTML table of pairs of text."""
    lines = (f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows)
    return f"<table>{''.join(lines)}</table>"
