"""A command's options from its arguments, and one line of whatever is wrong with them."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import TypeVar

import tyro

from distributed_maddpg.errors import BadInput

T = TypeVar("T")


def parse(kind: type[T], name: str, arguments: list[str], default: T | None = None) -> T:
    """Parse a command's options into its dataclass; turn tyro's framed complaint into one line.

    Raises:
        BadInput: naming the option, the value and the remedy.
    """
    program = f"distributed-maddpg {name}"

    def parse_options() -> T:
        if default is None:
            return tyro.cli(kind, args=arguments, prog=program)
        return tyro.cli(kind, args=arguments, prog=program, default=default)

    if {"-h", "--help"} & set(arguments):
        return parse_options()
    complaint = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"  # unfolded, so that the complaint can be taken apart
    try:
        with contextlib.redirect_stderr(complaint):
            return parse_options()
    except SystemExit:
        raise _TyroRefusal(_one_line(complaint.getvalue())) from None
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns


class _TyroRefusal(BadInput):
    """A command line that tyro refused; the line is already complete."""

    def __init__(self, line: str) -> None:
        ValueError.__init__(self, line)


def _one_line(complaint: str) -> str:
    """Return the first sentence of tyro's framed complaint, and the nearest option it suggests."""
    lines = [line.strip("│╭╮╰╯ ─") for line in complaint.splitlines()]
    lines = [line for line in lines if line.strip("-")]  # tyro rules with "-" where stdout is not UTF-8
    first = lines[1] if len(lines) > 1 else "the command line cannot be read"
    if first.endswith(":") and len(lines) > 3:  # a heading over what is missing
        first = f"{first} {lines[2]} {lines[3]}"
    if first.endswith("Failed to parse key-value pairs!"):
        option = first.split()[2].rstrip(":")
        if choices := re.search(r"\[STR (\{[\w,]+\}) \[", complaint):
            return f"{option}: a name lacks its value, or has none of these; give {option} NAME {choices[1]}"
        return f"{option}: a name lacks its value; give {option} NAME VALUE NAME VALUE"
    # An error of ours, raised while tyro filled a section, says everything by itself.
    ours = first.partition(": ")[2] if first.startswith("Error parsing settings") else first
    near = [line.split()[0].rstrip(",") for line in lines[2:] if line.startswith("--")]
    return f"{ours}; did you mean {near[0]}?" if near and "Unrecognized" in first else ours
