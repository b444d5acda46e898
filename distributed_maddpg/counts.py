"""Counts as people write them: 1000000, 1_000_000, 1e6, 2.5e3."""

from __future__ import annotations

import re
from decimal import Decimal

COUNT_REMEDY = "must be a whole number, such as 1000000, 1_000_000 or 1e6"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_NUMBER = re.compile(rf"[+-]?{_DIGITS}(\.{_DIGITS})?([eE][+-]?[0-9]{{1,3}})?")
_MOST_DIGITS = 19
"""Of a number with an exponent: no setting is larger, and 1e999 would take long to count with."""


def parse_count(text: str) -> int:
    """Return the whole number that a text stands for.

    Raises:
        ValueError: for other texts, also for numbers with a fraction.
    """
    try:
        return int(text)
    except ValueError:
        words = text.strip()
    if not _NUMBER.fullmatch(words):
        raise ValueError(COUNT_REMEDY)
    number = Decimal(words.replace("_", ""))
    if number.adjusted() >= _MOST_DIGITS or number != number.to_integral_value():
        raise ValueError(COUNT_REMEDY)
    return int(number)
