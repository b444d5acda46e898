"""Durations as people write them: 90s, 15m, 5h50m, 2d."""

from __future__ import annotations

import re

from distributed_maddpg.errors import BadInput

_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_PARTS = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in _SECONDS))
_MAX_S = 36_500 * 86_400.0


def parse_duration(name: str, text: str) -> float:
    """Return the seconds that a text such as "90s", "15m", "5h50m", "1.5h", "2d" or "90" stands for.

    Args:
        name: of the option or setting, for the error.
        text: numbers with the units d, h, m and s, the largest first; one number alone is seconds.

    Raises:
        BadInput: naming the option, unless it is a duration of at most a hundred years.
    """
    words = text.strip().lower()
    match = _PARTS.fullmatch(f"{words}s" if re.fullmatch(_NUMBER, words) else words)
    numbers = match.groups() if match else ()
    seconds = sum(
        float(number) * unit for number, unit in zip(numbers, _SECONDS.values(), strict=False) if number
    )
    if not any(numbers) or seconds > _MAX_S:
        raise BadInput(name, text, "must be a duration such as 90s, 15m, 5h50m or 2d; a number is seconds")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration as `parse_duration` reads it, such as "5h50m"; below a minute with tenths."""
    if seconds < _SECONDS["m"]:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    rest, parts = round(seconds), []
    for unit, size in _SECONDS.items():
        count, rest = divmod(rest, size)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts)
