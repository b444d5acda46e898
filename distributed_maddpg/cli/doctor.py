"""The command `doctor`, which looks at this machine and says what would stop or slow a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from distributed_maddpg.cli.output import print_json
from distributed_maddpg.cli.parsing import parse


@dataclass(frozen=True)
class DoctorCommand:
    """Look at versions, cores, memory, GPU, Ray and leftovers of this machine, and say how to mend them.

    Exit code 1 means: a problem would stop a run. Notes slow one, or may surprise. Nothing is changed.

    Examples:
        distributed-maddpg doctor
        distributed-maddpg doctor --json
    """

    json: bool = False
    """Print one JSON object on stdout instead of lines: the findings, and the facts they follow from."""


def run(arguments: list[str]) -> int:
    """Run the command with these arguments; return 1 if a problem would stop a run."""
    command = parse(DoctorCommand, "doctor", arguments)
    from distributed_maddpg.doctor.findings import findings  # noqa: PLC0415
    from distributed_maddpg.doctor.measuring import measure  # noqa: PLC0415 - loads numpy and torch
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415

    facts = measure()
    found = findings(facts)
    problems = sum(each.level == "problem" for each in found)
    if command.json:
        values = [dataclasses.asdict(each) for each in found]
        print_json({"problems": problems, "findings": values, "facts": dataclasses.asdict(facts)})
        return int(problems > 0)
    rows = []
    for each in found:
        mark = "" if each.level == "ok" else f"{each.level}: "
        rows.append((each.name, f"{mark}{each.found}" + (f"\n  {each.remedy}" if each.remedy else "")))
    progress = Progress()
    progress.print_pairs(rows)
    notes = sum(each.level == "note" for each in found)
    progress.note(f"{_counted(problems, 'problem')}, {_counted(notes, 'note')}")
    return int(problems > 0)


def _counted(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
