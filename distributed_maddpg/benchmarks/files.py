"""Benchmark results as files of a folder; each appears whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed_maddpg.benchmarks.document import write_markdown
from distributed_maddpg.benchmarks.options import KINDS
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import make_folder
from distributed_maddpg.report.scaling import scaling_page

_KEYS = {
    "benchmark",
    "command",
    "settings",
    "figures",
    "ceilings",
    "ratios",
    "spread",
    "points",
    "profile",
    "machine",
}


def check_folder(folder: Path) -> None:
    """Refuse what results cannot be written to, before anything is measured.

    Raises:
        BadInput: if the path is no folder that can be written to, or holds a result that cannot be read.
    """
    make_folder(folder, "out")
    read_results(folder)  # refuses a damaged one


def check_name(name: str) -> None:
    """Refuse what cannot be part of a file's name.

    Raises:
        BadInput: naming it.
    """
    if not re.fullmatch(r"[a-z0-9-]*", name):
        raise BadInput("name", name, "takes small letters, digits and hyphens only")


def write_results(folder: Path, results: Mapping[str, dict[str, Any]], name: str = "") -> list[Path]:
    """Write results, their page, and `benchmarks.md` of all results that the folder then holds.

    Args:
        folder: one that `check_folder` has passed.
        results: what `run_benchmark` returned, by label; each goes to `<label>.json`.
        name: a part of the files' names, so that the same label can stand there twice: `<label>-<name>.json`.

    Returns:
        The files written.
    """
    written = []
    for label, result in results.items():
        stem = f"{label}-{name}" if name else label
        written.append(_write(folder / f"{stem}.json", json.dumps(result, indent=1) + "\n"))
        if result["benchmark"] == "scaling":
            written.append(_write(folder / f"{stem}.html", scaling_page(result)))
    written.append(_write(folder / "benchmarks.md", write_markdown(read_results(folder))))
    return written


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return every result in a folder, by file name; other JSON files are left alone.

    Raises:
        BadInput: if a file cannot be read.
    """
    found = []
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BadInput("out", str(path), f"is not valid JSON ({error})") from None
        if isinstance(values, dict) and values.keys() >= _KEYS and values["benchmark"] in KINDS:
            found.append(values)
    return found


def _write(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return path
