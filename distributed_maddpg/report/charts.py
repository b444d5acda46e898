"""The curves of runs as plain values, which the page's JavaScript draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_maddpg.bottleneck import SHARES
from distributed_maddpg.report.curves import over_seeds
from distributed_maddpg.report.roles import Role, role_of, team_of
from distributed_maddpg.report.runs import STEPS, Group, Run
from distributed_maddpg.report.stage_time import shares_of_reports
from distributed_maddpg.types import MPE2_MODULES

_MOST_POINTS, _MOST_NUMBERS, _MOST_AGENTS, _MOST_TIME_CHARTS = 600, 250_000, 6, 4
_DIGITS = 6
_TRAINING_RETURN = "env_runners/agent_episode_returns_mean/"
_BEHIND = "weights/versions_behind"
_SUCCESS = {
    "agents": Role("agents", "agent"),
    "adversary": Role("adversary", "adversary"),
    "coverage": Role("coverage", "goal"),
}
_SHARE_NAMES = {
    "rollout_busy": "acting and stepping",
    "rollout_blocked_push": "waiting for the replay buffer",
    "rollout_blocked_weights": "fetching weights",
    "rollout_blocked_pacing": "waiting for the next call",
    "learner_busy": "updating",
    "learner_blocked_replay": "waiting for minibatches",
    "learner_blocked_pacing": "waiting for the next call",
}

Columns = Mapping[str, Sequence[float]]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chart:
    """A chart, and which columns it shows."""

    name: str
    section: str
    """results, learning or speed."""
    title: str
    unit: str
    columns: Mapping[str, Role]
    """Columns of the table; several that mean the same of agents of a team have roles of that team."""
    note: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """log: whether the y axis is logarithmic at first; percent: whether it spans 0 to 100; stacked."""


class _Curve(NamedTuple):
    x: Array
    mean: Array
    low: Array
    high: Array


def charts(groups: Sequence[Group]) -> dict[str, Any]:
    """Return all charts of runs as plain values: `xs` by key, and the charts, whose series name a key."""
    drawn: list[tuple[Chart, str]] = [
        *((chart, "returns") for chart in _evaluation_charts(groups)),
        *((chart, "metrics") for chart in _training_charts(groups)),
    ]
    num_series = sum(len(chart.columns) for chart, _ in drawn) * len(groups)
    most = max(20, min(_MOST_POINTS, _MOST_NUMBERS // max(1, 3 * num_series)))
    writer = _Writer(groups, most)
    own = [writer.write(chart, table) for chart, table in drawn]
    for group in groups[:_MOST_TIME_CHARTS]:
        own += [_time_chart(group, stage, writer, len(groups) == 1) for stage in ("rollout", "learner")]
    return {"xs": writer.xs, "charts": [chart for chart in own if chart["series"]]}


class _Writer:
    """Writes charts, and each distinct x axis once."""

    def __init__(self, groups: Sequence[Group], most: int) -> None:
        self._groups, self._most = groups, most
        self.xs: dict[str, list[Any]] = {}
        self._keys: dict[bytes, str] = {}

    def write(self, chart: Chart, table: str) -> dict[str, Any]:
        series = []
        for index, group in enumerate(self._groups):
            for role, names in _by_role(chart.columns, len(self._groups)).items():
                curve = _curve([getattr(run, table) for run in group.runs], table, names)
                if curve is not None:
                    series.append(self.series(curve, role, index))
        return {**_head(chart), "series": series}

    def series(self, curve: _Curve, role: Role, group: int) -> dict[str, Any]:
        thin = _thinned(curve, self._most)
        banded = not np.array_equal(thin.low, thin.high, equal_nan=True)
        band = {"low": _plain(thin.low), "high": _plain(thin.high)} if banded else {}
        return {
            **{"name": role.name, "role": role.kind, "index": role.index, "group": group},
            **{"x": self._key(thin.x), "y": _plain(thin.mean), **band},
        }

    def _key(self, x: Array) -> str:
        key = self._keys.setdefault(x.tobytes(), f"x{len(self._keys)}")
        self.xs.setdefault(key, [round(step) for step in x.tolist()])
        return key


def _head(chart: Chart) -> dict[str, Any]:
    texts = {name: getattr(chart, name) for name in ("name", "section", "title", "unit", "note")}
    return {**texts, **chart.options}


def _by_role(columns: Mapping[str, Role], num_groups: int) -> dict[Role, list[str]]:
    """Return the columns of each line: one each, or those of a team together where lines would be many."""
    by_team = num_groups > 1 or len(columns) > _MOST_AGENTS
    found: dict[Role, list[str]] = {}
    for name, role in columns.items():
        found.setdefault(team_of(role) if by_team else role, []).append(name)
    return found


def _curve(tables: Sequence[Columns], table: str, names: Sequence[str]) -> _Curve | None:
    """Return the mean of columns over runs, and the least and most; None if no run has any of them."""
    steps = "env_steps" if table == "returns" else STEPS
    columns = [
        {"env_steps": own[steps], "y": own[name]}
        for own in tables
        for name in names
        if own.get(steps) and name in own
    ]
    if not columns:
        return None
    if len(columns) == 1:
        y = np.array(columns[0]["y"], np.float64)
        return _Curve(np.array(columns[0]["env_steps"], np.float64), y, y, y)
    return _Curve(*over_seeds(columns, "y"))


def _thinned(curve: _Curve, most: int) -> _Curve:
    """Return a curve of at most so many points: each is the mean of neighbours, of a band the ends."""
    width = math.ceil(len(curve.x) / most)
    if width <= 1:
        return curve
    starts = np.arange(0, len(curve.x), width)
    counts = np.diff([*starts, len(curve.x)])
    x, mean = (np.add.reduceat(values, starts) / counts for values in (curve.x, curve.mean))
    return _Curve(x, mean, np.minimum.reduceat(curve.low, starts), np.maximum.reduceat(curve.high, starts))


def _plain(values: Array) -> list[float | None]:
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]


def _evaluation_charts(groups: Sequence[Group]) -> Iterator[Chart]:
    """Yield the charts of greedy evaluations."""
    known = {name for group in groups for run in group.runs for name in run.returns}
    rates = {f"success_{name}": role for name, role in _SUCCESS.items() if f"success_{name}" in known}
    note = "Share of greedy episodes that end with it: within 0.4 of the goal, or of every landmark."
    for own in [rates] if len(groups) == 1 else [{name: role} for name, role in rates.items()]:
        titles = {"agents": "Good agents at the goal", "adversary": "Adversary at the goal"}
        [first, *others] = own.values() or [Role("", "")]
        title = "Success" if others else titles.get(first.name, "All landmarks covered")
        yield Chart(f"success {title}", "results", title, "% of episodes", own, note, {"percent": True})
    yield from _per_agent(
        groups,
        "",
        ("results", "Return of greedy episodes", "return per episode"),
        "The newest point is of the final evaluation.",
    )
    texts = measure_texts(groups)
    for name in sorted(name for name in known if name.startswith("measure_")):
        short = name.removeprefix("measure_")
        shown = short.replace("_", " ")
        columns = {name: Role(shown, "goal")}
        note = f"{_sentence(texts.get(short, 'a measure of the environment'))}; mean over greedy episodes."
        yield Chart(name, "results", shown.capitalize(), "mean", columns, note)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def measure_texts(groups: Sequence[Group]) -> dict[str, str]:
    """Return what the measures of runs say, by name; of a scenario also if its summary does not say it."""
    texts: dict[str, str] = {}
    for run in (run for group in groups for run in group.runs[:1]):
        if run.env_id in MPE2_MODULES:
            from distributed_maddpg.envs.mpe.scenarios import SCENARIOS  # noqa: PLC0415 - loads numba

            texts |= {measure.name: measure.text for measure in SCENARIOS[run.env_id].measures}
        texts |= {name: str(text) for name, text in dict(run.summary.get("measures", {})).items()}
    return texts


def _per_agent(
    groups: Sequence[Group],
    pattern: str,
    texts: tuple[str, str, str],
    note: str = "",
    options: Mapping[str, Any] | None = None,
) -> Iterator[Chart]:
    """Yield the chart of a column per agent; of several runs, one of each team."""
    roles: dict[str, Role] = {}
    for agents in {group.first.agents: None for group in groups}:
        roles = {agent: role_of(agent, agents) for agent in agents} | roles
    columns = {(pattern or "{}").format(agent): role for agent, role in roles.items()}
    section, title, unit = texts
    if len(groups) == 1:
        yield Chart(title, section, title, unit, columns, note, options or {})
        return
    for team in dict.fromkeys(map(team_of, columns.values())):
        own = {name: role for name, role in columns.items() if team_of(role) == team}
        full = f"{title}: {team.name}"
        yield Chart(full, section, full, unit, own, note, options or {})


def _training_charts(groups: Sequence[Group]) -> Iterator[Chart]:
    """Yield the charts of the iterations' metrics."""
    yield from _per_agent(
        groups,
        _TRAINING_RETURN + "{}",
        ("learning", "Return while training", "return per episode"),
        "With exploration noise; mean over about the newest 1,000 episodes.",
    )
    yield from _per_agent(
        groups,
        "learners/{}/critic_loss",
        ("learning", "Critic loss", "mean squared TD error"),
        "Over the updates since the report before.",
        {"log": True},
    )
    yield from _per_agent(
        groups,
        "learners/{}/q_mean",
        ("learning", "Value of replayed actions", "mean Q"),
        "What critics expect of the actions in the replay buffer.",
    )
    yield from _per_agent(
        groups,
        "learners/{}/critic_grad_norm",
        ("learning", "Gradient norm of the critics", "norm"),
        "Before clipping.",
        {"log": True},
    )
    yield from _information_charts(groups)
    rates = (
        ("env_steps_per_s", "Env steps per second", "Collecting, waits included."),
        ("updates_per_s", "Updates per second", "Updates of all agents, waits included."),
    )
    for column, title, note in rates:
        yield Chart(column, "speed", title, "1/s", {column: Role("rate", "neutral")}, note)
    # In one process the workers always have the newest weights.
    if any(any(run.metrics.get(f"{_BEHIND}_max", ())) for group in groups for run in group.runs):
        behind = {f"{_BEHIND}_mean": Role("mean", "neutral"), f"{_BEHIND}_max": Role("most", "neutral", 1)}
        shown = behind if len(groups) == 1 else {f"{_BEHIND}_mean": Role("mean", "neutral")}
        note = "Staleness: how many published versions the weights that workers act with are old."
        yield Chart(_BEHIND, "speed", "Age of the workers' weights", "versions behind", shown, note)


def _information_charts(groups: Sequence[Group]) -> Iterator[Chart]:
    """Yield the charts of what actions tell, where any agent has something private; zero for the others."""
    texts = ("learning", "What actions give away", "squared distance of actions")
    note = "How far actions move if another candidate stands in the private part of an observation."
    for chart in _per_agent(groups, "learners/{}/information", texts, note):
        if any(_is_ever_positive(run, chart.columns) for group in groups for run in group.runs):
            yield chart


def _is_ever_positive(run: Run, columns: Iterable[str]) -> bool:
    return any(value > 0 for name in columns for value in run.metrics.get(name, ()))


def _time_chart(group: Group, stage: str, writer: _Writer, alone: bool) -> dict[str, Any]:
    """Return the chart of where a stage's time went, as shares of each report's time."""
    who = "the workers" if stage == "rollout" else "the learner"
    title = f"Where the time of {who} went{'' if alone else f': {group.name}'}"
    chart = Chart(title, "speed", title, "% of the time", {}, "", {"stacked": True, "percent": True})
    shares = shares_of_reports(group)
    parts = [name for name in SHARES if name.startswith(stage)]
    x = np.array(group.first.metrics.get(STEPS, ())[: len(shares)], np.float64)
    series = []
    for index, part in enumerate(parts if shares else ()):
        y = 100 * np.array([own[part] for own in shares])
        if y.any():
            role = Role(_SHARE_NAMES[part], "busy" if part.endswith("busy") else "blocked", index)
            series.append(writer.series(_Curve(x, y, y, y), role, 0))
    return {**_head(chart), "series": series}
