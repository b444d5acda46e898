"""A run's CSV files as columns of numbers."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from distributed_maddpg.errors import BadInput


def read_numbers(path: Path) -> dict[str, list[float]]:
    """Return the columns of a run's CSV file as numbers; what is no number becomes NaN.

    Raises:
        BadInput: if there is none, or it is no CSV file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise BadInput("run_dir", str(path.parent), f"holds no run ({path.name}: {error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput("run_dir", str(path.parent), f"{path.name} is no CSV file ({error})") from None
    names = list(rows[0]) if rows else ["env_steps", "num_env_steps_sampled_lifetime"]
    return {name: [_number(row[name]) for row in rows] for name in names}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
