"""Matrices as coloured squares, on one page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from distributed_maddpg.files import write_atomic
from distributed_maddpg.report.html import page

_SQUARE, _MARGIN = 70, 160  # pixels


def write_heat_maps(
    path: Path,
    title: str,
    axes: tuple[str, str],
    labels: Sequence[str],
    maps: Mapping[str, Sequence[Sequence[float]]],
) -> None:
    """Write a page with a heat map of each matrix.

    Args:
        path: of the page.
        title: of the page.
        axes: what rows and columns are.
        labels: of the K rows, and of the columns.
        maps: [K, K] numbers by name.
    """
    # Imported here: plotly costs half a second that only who wants a page should pay.
    import plotly.graph_objects as go  # noqa: PLC0415
    from plotly.io import to_html  # noqa: PLC0415

    size = _MARGIN + _SQUARE * max(3, len(labels))
    parts = []
    for index, (name, values) in enumerate(maps.items()):
        ticks = {"x": list(labels), "y": list(labels)}
        figure = go.Figure(go.Heatmap(z=values, **ticks, texttemplate="%{z:.3r}", colorscale="Viridis"))
        figure.update_layout(
            title=name, template="plotly_white", width=size + 120, height=size, yaxis_autorange="reversed"
        )
        figure.update_xaxes(title=axes[1], type="category").update_yaxes(
            title=axes[0], type="category", ticksuffix=" "
        )
        parts.append(to_html(figure, full_html=False, include_plotlyjs=index == 0))
    write_atomic(path, page(title, "\n".join(parts)))
