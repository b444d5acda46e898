"""A benchmark's result as tables of text, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distributed_maddpg.report.tables import Table

_HEADERS = ("figure", "median", "min", "max", "compared with", "its median", "ratio")
_JOB_COLUMNS = {
    "workers": "workers",
    "num_envs": "envs per worker",
    "more_processes_than_cores": "more processes than cores",
    "collect_env_steps_per_s": "collecting alone, env steps/s",
    "efficiency_collect_env_steps_per_s": "efficiency",
    "collect_bottleneck": "bottleneck while collecting",
    "env_steps_per_s": "with learning, env steps/s",
    "updates_per_s": "updates/s",
    "efficiency_env_steps_per_s": "efficiency with learning",
    "bottleneck": "bottleneck",
}
_SIZE_COLUMNS = {
    "agents": "agents",
    "critics": "critics",
    "batch_size": "minibatch",
    "width": "width of hidden layers",
    "updates_per_s": "updates/s",
    "gflops": "GFLOP/s",
    "sgemm_share": "share of one core's sgemm",
    "threads": "threads (0: plain update)",
    "bf16_ratio": "with bf16, times as fast",
}
_SCENARIO_COLUMNS = {
    "scenario": "scenario",
    "env_steps_per_s": "env steps/s",
    "mpe2_env_steps_per_s": "MPE2's",
    "times_mpe2": "ratio",
}
SIMULATED: dict[str, tuple[str, dict[str, str]]] = {
    "edges": (
        "replay buffer's process, each edge by itself",
        {
            "agents": "agents",
            "row_bytes": "bytes of a row",
            "fragment_bytes": "of a fragment",
            "weights_bytes": "of the weights",
            "single_pushes_per_s": "pushes/s, a fragment each",
            "single_rows_per_s": "rows/s",
            "pushes_per_s": "pushes/s, joined",
            "rows_per_s": "rows/s, joined",
            "bytes_per_s": "bytes/s, joined",
            "pulls_per_s": "pulls of weights/s",
            "single_push_busy_ms": "ms of its busiest thread per push of a fragment",
            "push_busy_ms": "per joined push",
            "pull_busy_ms": "per pull",
        },
    ),
    "driver": (
        "driver, with workers that answer at once",
        {
            "workers": "workers",
            "calls_per_s": "calls/s",
            "call_busy_ms": "ms of its busiest thread per call",
            "calls_in_flight": "calls in flight",
            "wait_ms": "ms of ray.wait over them",
            "checkpoint_s": "seconds until all states for a checkpoint arrived",
        },
    ),
    "limits": (
        "workers that each process carries, computed",
        {
            "agents": "agents",
            "worker_env_steps_per_s": "env steps/s of a worker",
            "pushes_per_s": "its pushes/s",
            "pulls_per_s": "pulls/s",
            "calls_per_s": "driver's calls/s",
            "pushed_bytes_per_s": "bytes pushed/s",
            "pulled_bytes_per_s": "bytes pulled/s",
            "workers_single": "workers, a fragment per push",
            "workers_ingest": "workers, joined pushes",
            "workers_driver": "workers that the driver carries",
            "bottleneck": "bottleneck",
            "saturated_at": "jobs saturated from this many workers on",
            "projected_ingest": "projection with a core each: joined pushes",
            "projected_driver": "driver",
        },
    ),
    "jobs": (
        "jobs with all edges loaded",
        {
            "agents": "agents",
            "worker_env_steps_per_s": "env steps/s of a worker",
            "workers": "workers",
            "offered_env_steps_per_s": "offered env steps/s",
            "single_env_steps_per_s": "stored/s, a fragment per push",
            "env_steps_per_s": "stored/s, joined",
            "reached": "share of the offered",
            "pushes_per_s": "pushes/s",
            "pulls_per_s": "pulls/s",
            "calls_per_s": "driver's calls/s",
            "replay_busy": "replay buffer's busiest thread",
            "driver_busy": "driver's busiest thread",
        },
    ),
}
"""Tables of the benchmark scaling with simulated workers: title, and columns by name."""
_POINTS = {"growth": ("sizes", _SIZE_COLUMNS), "env": ("scenarios", _SCENARIO_COLUMNS)}
_SHARES = (
    "sgemm_share",
    "efficiency_collect_env_steps_per_s",
    "efficiency_env_steps_per_s",
    "reached",
    "replay_busy",
    "driver_busy",
)


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return a result's tables: figures, and where it has them the profile, the jobs and their time.

    Args:
        result: what `run_benchmark` returned.
    """
    found = [Table(result["benchmark"], _HEADERS, _figure_rows(result))]
    if result["profile"]:
        found.append(_profile(result))
    points = result["points"]
    if points and "table" in points[0]:
        return found + [
            _points(title, columns, [point for point in points if point["table"] == name])
            for name, (title, columns) in SIMULATED.items()
        ]
    if points:
        title, columns = _POINTS.get(result["benchmark"], ("jobs", _JOB_COLUMNS))
        found.append(_points(title, columns, points))
        found += [_time(points)] if columns is _JOB_COLUMNS else []
    return found


def _points(title: str, columns: Mapping[str, str], points: Sequence[Mapping[str, Any]]) -> Table:
    names = [name for name in columns if name in points[0]]
    rows = [tuple(_cell(name, point[name]) for name in names) for point in points]
    return Table(title, tuple(columns[name] for name in names), rows)


def machine_text(machine: Mapping[str, Any]) -> str:
    """Return a machine in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cores']} cores, {machine['cpu']}; GPU: {machine['gpu']}; {machine['os']}; {versions}"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings in one line."""
    return ", ".join(f"{name} = {_setting(value)}" for name, value in settings.items())


def number(value: float) -> str:
    """Return a number for display: 17,736,280 or 0.3421."""
    if abs(value) >= 1000 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.4g}"


def label(name: str) -> str:
    """Return a name for display: "env steps/s" for "env_steps_per_s"."""
    if name.endswith("_ms"):
        name = f"{name.removesuffix('_ms')}, milliseconds"
    if name.endswith("_s") and not name.endswith("_per_s"):
        name = f"{name.removesuffix('_s')}, seconds"
    return name.replace("_per_s", "/s").replace("_", " ")


def _figure_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, value in result["figures"].items():
        spread = result["spread"].get(name)
        extremes = (number(spread["min"]), number(spread["max"])) if spread else ("", "")
        own = (label(name), number(value), *extremes)
        ratios = [key for key in result["ratios"] if key.startswith(f"{name}/")]
        for key in ratios:
            other = key.removeprefix(f"{name}/")
            compared = (label(other), number(result["references"][other]), number(result["ratios"][key]))
            rows.append((*own, *compared))
        if not ratios:
            rows.append((*own, "", "", ""))
    return rows


def _profile(result: Mapping[str, Any]) -> Table:
    of = "an update goes, over all threads" if result["benchmark"] == "learner" else "a vector step goes"
    rows: list[tuple[str, ...]] = [
        (row["part"], number(round(row["microseconds"])), f"{100 * row['share']:.0f} %")
        for row in result["profile"]
    ]
    return Table(f"where the time of {of}", ("part", "microseconds", "share"), rows)


def _time(points: Sequence[Mapping[str, Any]]) -> Table:
    headers = ("workers", "envs per worker", *(label(name) for name in points[0]["shares"]))
    rows = []
    for point in points:
        shares = (f"{100 * share:.0f} %" for share in point["shares"].values())
        rows.append((str(point["workers"]), str(point["num_envs"]), *shares))
    return Table("share of the stages' time while learning", headers, rows)


def _cell(name: str, value: Any) -> str:
    if name in _SHARES:
        return f"{100 * value:.0f} %"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else number(value)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(str(item) for item in value)
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
