"""Plotly's JavaScript, small enough to be in every page."""

from __future__ import annotations

import base64
import functools
import gzip


@functools.cache
def plotly_script() -> str:
    """Return plotly.py's own `plotly.min.js`, gzipped, in base64: 1.9 of its 4.8 MB.

    The page inflates it with `DecompressionStream`.
    """
    # Imported here: only pages need it. The rest of plotly, which takes half a second to import, is not used.
    from plotly.offline import get_plotlyjs  # noqa: PLC0415

    # mtime: the same version always gives the same bytes.
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode("ascii")
