"""What a page of the report holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def data_in(page: Path) -> dict[str, Any]:
    """Return the JSON that a page's JavaScript draws."""
    [text] = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page.read_text())
    data: dict[str, Any] = json.loads(text)
    return data
