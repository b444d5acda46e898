"""Benchmark results as files in a folder, each replaced atomically."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from distributed_maddpg.benchmarks.command import RESULT_KEYS
from distributed_maddpg.benchmarks.document import benchmarks_document, is_simulated, simulation_document
from distributed_maddpg.benchmarks.options import KINDS
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import make_folder, write_atomic
from distributed_maddpg.report.scaling import scaling_page


def check_folder(folder: Path) -> None:
    """Refuse a folder that results cannot be written to, before anything is measured.

    Raises:
        BadInput: if the path is no writable folder, or holds a result that cannot be read.
    """
    make_folder(folder, "--out")
    read_results(folder)


def check_name(name: str) -> None:
    """Refuse a name that cannot be part of a file's name.

    Raises:
        BadInput: naming it.
    """
    if not re.fullmatch(r"[a-z0-9-]*", name):
        raise BadInput("--name", name, "takes small letters, digits and hyphens only")


def write_result(folder: Path, label: str, result: dict[str, Any], name: str = "") -> list[Path]:
    """Write a result, its page if it has one, and `benchmarks.md` of all results that the folder then holds.

    Args:
        folder: one that `check_folder` has passed.
        label: what tells the result from others; its file is `<label>.json`.
        result: what `run_benchmark` returned.
        name: added to the file's name, so that a folder can hold the same label twice: `<label>-<name>.json`.

    Returns:
        The files written.
    """
    path = folder / f"{label}-{name}.json" if name else folder / f"{label}.json"
    texts = {path: json.dumps(result, indent=1) + "\n"}
    if is_simulated(result):
        texts[path.with_suffix(".md")] = simulation_document(result)
    elif result["benchmark"] == "scaling":
        texts[path.with_suffix(".html")] = scaling_page(result)
    for file, text in texts.items():
        write_atomic(file, text)
    document = folder / "benchmarks.md"
    write_atomic(document, benchmarks_document(read_results(folder)))
    return [*texts, document]


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return every result in a folder, in the order of file names; other JSON files are ignored.

    Raises:
        BadInput: if a file cannot be read.
    """
    found = []
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BadInput("--out", str(path), f"is not valid JSON ({error})") from None
        if isinstance(values, dict) and values.keys() >= RESULT_KEYS and values["benchmark"] in KINDS:
            found.append(values)
    return found
