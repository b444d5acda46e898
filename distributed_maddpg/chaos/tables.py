"""The result of a chaos experiment as tables, for a terminal and for docs/reliability.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed_maddpg.benchmarks.tables import machine_text, number, settings_text
from distributed_maddpg.chaos.faults import KINDS
from distributed_maddpg.chaos.result import ENOUGH_FAULTS
from distributed_maddpg.files import write_atomic
from distributed_maddpg.report.tables import Table, markdown_table

_BEGIN, _END = "<!-- measured by: distributed-maddpg chaos --out; not to be edited -->", "<!-- end -->"


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a result: faults by kind, the summary, the scorecards."""
    return [_faults(result), _summary(result), _scores(result)]


def write_document(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result between the marks of a Markdown file, or to the end of a file without them."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2] if begin else "\n"
    head = before if begin or not before else f"{before.rstrip()}\n\n"
    write_atomic(path, f"{head}{_BEGIN}\n\n{_section(result)}\n\n{_END}{after}")


def _section(result: Mapping[str, Any]) -> str:
    options = result["options"]
    parts = [
        f"```sh\n{result['command']}\n```",
        f"Machine: {machine_text(result['machine'])}.",
        f"Jobs: preset {options['preset']}, {options['num_workers']} rollout workers, "
        f"{settings_text(result['settings'])}; "
        f"a recovery later than {number(options['deadline_s'])} s is a hang.",
        *(markdown_table(table) for table in tables(result)),
    ]
    return "\n\n".join(parts)


def _faults(result: Mapping[str, Any]) -> Table:
    headers = ("fault", "what happens", "times", "recovered after, median", "most", "lost at most, alone")
    rows = []
    for name, figures in result["by_kind"].items():
        count = str(figures["count"])
        if figures["recovered"] < figures["count"]:
            count = f"{count}, {figures['recovered']} seen to recover"
        spans = ["" if figures[key] is None else f"{figures[key]:.1f} s" for key in ("median_s", "max_s")]
        rows.append((name, KINDS[name].effect, count, *spans, _loss(figures)))
    return Table("faults", headers, rows)


def _loss(figures: Mapping[str, Any]) -> str:
    if figures["env_steps_lost_max"] is None:
        return ""
    values = {"env steps": figures["env_steps_lost_max"], "updates": figures["updates_lost_max"]}
    return ", ".join(f"{value:,} {name}" for name, value in values.items() if value) or "nothing"


def _summary(result: Mapping[str, Any]) -> Table:
    lost, checkpoints, faults = result["lost"], result["checkpoints"], len(result["faults"])
    few = "" if faults >= ENOUGH_FAULTS else f"; fewer than {ENOUGH_FAULTS}, the job was too short"
    env_steps, updates = lost["env_steps_after_the_checkpoint"], lost["updates_after_the_checkpoint"]
    rows = {
        "faults": f"{faults} of {len(result['by_kind'])} kinds{few}",
        "completed": _yes(result["completed"]),
        "hangs": str(result["hangs"]),
        "problems": "; ".join(result["problems"]) or "none",
        "lost with processes": f"{lost['env_steps_of_dead_processes']:,} env steps in flight, "
        f"{lost['updates_of_dead_processes']:,} updates, repeated",
        "lost with the whole job": f"{env_steps:,} env steps and {updates:,} updates after the checkpoint "
        f"in {result['restarts']} restarts, repeated",
        "replay buffers that came back empty": str(lost["replay_buffers_back_empty"]),
        "checkpoints saved": str(checkpoints["saved"]),
        "checkpoints lost": "; ".join(result["lost_checkpoints"]) or "0",
        "processes left over": str(result["leftover_processes"]),
        "last process ended after its driver by": f"{result['last_process_gone_after_s']:.1f} s",
        "losses that no fault explains": str(len(result["unexplained_losses"])),
        "time with faults, without": f"{result['disturbed_s']:.0f} s, {result['baseline_s']:.0f} s",
        "load average before, after": ", ".join(f"{load:.1f}" for load in result["load_average"]),
        "within noise of the job without faults": _yes(result["within_noise"]),
    }
    return Table("summary", ("", ""), list(rows.items()))


def _scores(result: Mapping[str, Any]) -> Table:
    headers = ("last evaluations", "without faults", "with faults", "difference", "bound", "within")
    rows = []
    for each in result["comparison"]:
        figures = [f"{each[key]:.2f}" for key in ("baseline", "disturbed", "difference", "bound")]
        rows.append((each["measure"].replace("_", " "), *figures, _yes(each["within"])))
    return Table("scorecard", headers, rows)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
