"""Matrices as heat maps, on one page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from distributed_maddpg.files import write_atomic
from distributed_maddpg.report.html import new_figure, page

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
    size = _MARGIN + _SQUARE * max(3, len(labels))
    figures = []
    for name, values in maps.items():
        figure = new_figure(name, axes[1], axes[0])
        figure.add_heatmap(
            z=values, x=list(labels), y=list(labels), texttemplate="%{z:.3r}", colorscale="Viridis"
        )
        figure.update_layout(width=size + 120, height=size, yaxis_autorange="reversed")
        figure.update_xaxes(type="category").update_yaxes(type="category", ticksuffix=" ")
        figures.append(figure)
    write_atomic(path, page(title, "", figures))
