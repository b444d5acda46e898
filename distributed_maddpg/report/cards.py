"""What a page says of a run at first sight: results, totals and how it ended."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distributed_maddpg.durations import format_duration
from distributed_maddpg.report.charts import measure_texts
from distributed_maddpg.report.roles import role_of
from distributed_maddpg.report.runs import SECONDS, Group, Run
from distributed_maddpg.report.stage_time import bottleneck

_SUCCESS = {
    "agents": ("Good agents at the goal", "agent"),
    "adversary": ("Adversary at the goal", "adversary"),
    "coverage": ("All landmarks covered", "goal"),
}
_STATES = {
    "starting": "Starting",
    "running": "Running",
    "finished": "Finished",
    "interrupted": "Interrupted",
    "gone": "Not running here",
}
_MINUS = "\N{MINUS SIGN}"


def group_card(group: Group) -> dict[str, Any]:
    """Return what a page says of a run, or of the runs of several seeds, as plain values."""
    first = group.first
    return {
        "name": group.name,
        "path": str(group.path),
        "env_id": first.env_id,
        "seeds": [run.config.seed for run in group.runs if run.config],
        "state": group.state,
        "state_name": _STATES[group.state],
        "ending": _ending(group),
        "progress": _progress(group),
        "results_of": _results_of(group),
        "results": [*_success(group), *_measures(group)],
        "returns": _returns(group),
        "facts": list(_facts(group)),
        "problem": str(first.summary.get("problem", "")),
        "bottleneck": bottleneck(group),
        "agents": [dataclasses.asdict(role_of(agent, first.agents)) for agent in first.agents],
    }


def _ending(group: Group) -> str:
    """Return how the run stands, in words."""
    run = group.first
    total = run.config.pacing.total_env_steps if run.config else run.env_steps
    reached = f"{run.env_steps:,} of {max(total, run.env_steps):,} env steps"
    if reason := run.summary.get("reason"):
        return str(reason)
    texts = {
        "starting": "The processes are starting; there is no report yet.",
        "running": f"{reached} so far.",
        "finished": f"All {run.env_steps:,} env steps are done.",
        "interrupted": f"Stopped after {reached}. Go on: distributed-maddpg train --resume {group.path}",
        "gone": f"{reached}. It was killed, or runs on a machine whose locks this one cannot see.",
    }
    return texts[group.state]


def _progress(group: Group) -> float | None:
    """Return the share of the configured env steps that are done, of a run that has not finished."""
    config = group.first.config
    if config is None or group.state == "finished":
        return None
    return min(1.0, min(run.env_steps for run in group.runs) / config.pacing.total_env_steps)


def _evaluation(run: Run) -> Mapping[str, Any]:
    """Return the run's final evaluation, or the newest one during training, as `evaluate` nests it."""
    if card := run.summary.get("evaluation"):
        found: Mapping[str, Any] = card
        return found
    newest = {name: own[-1] for name, own in run.returns.items() if own and math.isfinite(own[-1])}
    if not newest:
        return {}
    parts: dict[str, Any] = {"episodes": int(newest.get("episodes", 0)), "at": int(newest["env_steps"])}
    for prefix, key in (("success_", "success"), ("measure_", "measures")):
        own = {k.removeprefix(prefix): v for k, v in newest.items() if k.startswith(prefix)}
        parts |= {key: own} if own else {}
    parts["agent_episode_returns_mean"] = {agent: newest[agent] for agent in run.agents if agent in newest}
    return parts


def _results_of(group: Group) -> str:
    """Return which evaluation the results are of."""
    cards = [_evaluation(run) for run in group.runs]
    if not all(cards):
        return "No evaluation yet."
    episodes = cards[0].get("episodes")
    of = f"{episodes:,} greedy episodes" if episodes else "greedy episodes"
    if len(cards) > 1:
        of = f"{of} for each of {len(cards)} seeds. Means, and ranges over the seeds"
    elif "ci95" in cards[0]:
        of += "; ranges are 95 % intervals"
    if "at" in cards[0]:
        return f"Newest evaluation during training, at {cards[0]['at']:,} env steps: {of}."
    return f"Final evaluation: {of}."


def _success(group: Group) -> Iterator[dict[str, Any]]:
    cards = [_evaluation(run) for run in group.runs]
    for name, (label, role) in _SUCCESS.items():
        values = [card["success"][name] for card in cards if name in card.get("success", {})]
        if values and len(values) == len(cards):
            note = _range(values, "{:.1f}") or _interval(cards[0], ("success", name), "{:.1f}")
            mean = sum(values) / len(values)
            yield {
                "label": label,
                "value": f"{mean:.1f}",
                "unit": "%",
                "note": note,
                "role": role,
                "share": mean / 100,
            }


def _measures(group: Group) -> Iterator[dict[str, Any]]:
    cards, texts = [_evaluation(run) for run in group.runs], measure_texts([group])
    for name in cards[0].get("measures", {}):
        values = [card.get("measures", {}).get(name, math.nan) for card in cards]
        mean = sum(values) / len(values)
        if math.isfinite(mean):
            spread = _range(values, "{:.3f}") or _interval(cards[0], ("measures", name), "{:.3f}")
            note = "; ".join(filter(None, [texts.get(name, ""), spread]))
            label = name.replace("_", " ").capitalize()
            yield {"label": label, "value": f"{mean:.3g}", "unit": "", "note": note, "role": "goal"}


def _returns(group: Group) -> list[dict[str, Any]]:
    """Return the greedy return of each agent."""
    cards = [_evaluation(run).get("agent_episode_returns_mean", {}) for run in group.runs]
    rows = []
    for agent in group.first.agents:
        values = [card[agent] for card in cards if agent in card]
        if values and len(values) == len(cards):
            role = role_of(agent, group.first.agents)
            mean = sum(values) / len(values)
            note = _range(values, "{:+.1f}") or _interval(
                _evaluation(group.first), ("agent_episode_returns_mean", agent), "{:+.1f}"
            )
            rows.append(
                {
                    "label": agent,
                    "value": f"{mean:+.2f}".replace("-", _MINUS),
                    "note": note,
                    "role": role.kind,
                    "index": role.index,
                }
            )
    return rows


def _range(values: Sequence[float], form: str) -> str:
    if len(values) < 2:
        return ""
    return _ends(min(values), max(values), form)


def _interval(card: Mapping[str, Any], path: tuple[str, str], form: str) -> str:
    """Return the ends of the 95 % interval of a value of an evaluation; empty if it has none."""
    ends = card.get("ci95", {}).get(path[0], {}).get(path[1])
    return _ends(ends[0], ends[1], form) if ends else ""


def _ends(low: float, high: float, form: str) -> str:
    return f"{form.format(low)} to {form.format(high)}".replace("-", _MINUS)


def _facts(group: Group) -> Iterator[dict[str, str]]:
    runs, first = group.runs, group.first
    steps, updates = sum(run.env_steps for run in runs), sum(run.updates for run in runs)
    yield _fact("Env steps", f"{steps:,}", "over all seeds" if len(runs) > 1 else "")
    yield _fact("Updates", f"{updates:,}", "of all agents")
    seconds, origin = _seconds(first)
    if seconds:
        yield _fact("Training time", format_duration(seconds) if seconds >= 1 else f"{seconds:.2f} s", origin)
    for label, name in (("Env steps/s", "env_steps_per_s"), ("Updates/s", "updates_per_s")):
        rates = [_rate(run, name) for run in runs]
        if any(rates):
            rate = sum(rates)
            yield _fact(label, f"{rate:,.0f}" if rate >= 100 else f"{rate:,.1f}", "waits included")
    if device := first.summary.get("device"):
        yield _fact("Learner on", str(device), str(first.summary.get("device_reason", "")))
    if first.config:
        workers = first.config.num_workers
        yield _fact(
            "Rollout workers", str(workers) if workers else "none", "" if workers else "all in one process"
        )
    if first.resumed_at:
        places = ", ".join(f"{place:,}" for place in first.resumed_at[:5])
        yield _fact("Resumed", f"{len(first.resumed_at)} x", f"at {places} env steps")
    digest = first.summary.get("weights_digest", "")
    if digest and len(runs) == 1:
        yield _fact("Weights digest", str(digest)[:8], "of the final networks")


def _fact(label: str, value: str, note: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _seconds(run: Run) -> tuple[float, str]:
    """Return the seconds of training, and of what."""
    known = [seconds for seconds in run.metrics.get(SECONDS, ()) if math.isfinite(seconds)]
    if run.resumed_at and known:  # the summary is of the last part
        return known[-1], "over all parts of the run"
    return float(run.summary.get("training_s", (known or [0.0])[-1])), ""


def _rate(run: Run, name: str) -> float:
    """Return a rate of the summary, or, over all parts of a run, the mean of the reports' over their time."""
    if name in run.summary and not run.resumed_at:
        return float(run.summary[name])
    seconds, rates = run.metrics.get("time_this_iter_s", ()), run.metrics.get(name, ())
    if not sum(seconds):
        return rates[-1] if rates else 0.0
    return sum(s * r for s, r in zip(seconds, rates, strict=False)) / sum(seconds)
