"""What the smaller pages have in common."""

from __future__ import annotations

import html

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}}</style>
</head><body><h1>{title}</h1>
{body}
</body></html>
"""


def page(title: str, body: str) -> str:
    """Return a page with a title, which is text, and a body, which is HTML."""
    return _PAGE.format(title=html.escape(title), body=body)
