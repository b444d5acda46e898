"""A scorecard as tables of text, for a terminal or a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distributed_maddpg.report.tables import Table

_RATES = ("agents", "adversary", "coverage")
_RATE_HEADERS = tuple(f"{name} %" for name in _RATES)


def scorecard_tables(card: Mapping[str, Any]) -> list[Table]:
    """Return the tables of what `evaluate --json` prints, without those whose numbers it lacks."""
    makers = (_returns, _measures, _success, _by_eps, _matchups, _responses)
    return [table for maker in makers for table in maker(card)]


def _returns(card: Mapping[str, Any]) -> Iterator[Table]:
    means = card["agent_episode_returns_mean"]
    spread = card["ci95"]["agent_episode_returns_mean"]
    rows = [(agent, f"{mean:+.2f}", _interval(spread[agent], "+.2f")) for agent, mean in means.items()]
    title = f"Greedy returns, {card['episodes']} episodes from fresh start states"
    yield Table(title, ("agent", "mean", "95 % interval"), rows)


def _measures(card: Mapping[str, Any]) -> Iterator[Table]:
    if "measures" not in card:
        return
    spread = card["ci95"]["measures"]
    rows = [
        (name.replace("_", " "), f"{mean:.3f}", _interval(spread[name], ".3f"))
        for name, mean in card["measures"].items()
    ]
    yield Table("What the episodes are judged by beside returns", ("measure", "mean", "95 % interval"), rows)


def _success(card: Mapping[str, Any]) -> Iterator[Table]:
    if "success" not in card:
        return
    intervals = card["ci95"]
    rows = [
        (
            who,
            f"{card['success'][who]:.1f}",
            _interval(intervals["success"][who], ".1f"),
            f"{card['final_distance_mean'][who]:.3f}",
            f"{card['minimal_distance_mean'][who]:.3f}",
        )
        for who in _RATES
    ]
    rows.append(("delta", f"{card['delta']:.1f}", _interval(intervals["delta"], ".1f"), "", ""))
    title = f"Success: agents and adversary within {card['eps']} of the goal, coverage of every landmark"
    yield Table(title, ("", "%", "95 % interval", "final distance", "smallest distance"), rows)


def _by_eps(card: Mapping[str, Any]) -> Iterator[Table]:
    if "success_by_eps" not in card:
        return
    rows = [
        (eps, *_rates(rates), f"{card['delta_by_eps'][eps]:.1f}")
        for eps, rates in card["success_by_eps"].items()
    ]
    yield Table("Success by distance", ("within", *_RATE_HEADERS, "delta"), rows)


def _matchups(card: Mapping[str, Any]) -> Iterator[Table]:
    if "matchups" not in card:
        return
    rows: list[tuple[str, ...]] = []
    for matchup in card["matchups"]:
        returns = (f"{value:+.2f}" for value in matchup["agent_episode_returns_mean"].values())
        rates = (*_rates(matchup["success"]), f"{matchup['delta']:.1f}") if "success" in matchup else ()
        measures = (f"{value:.2f}" for value in matchup.get("measures", {}).values())
        rows.append((*matchup["players"].values(), *returns, *rates, *measures))
    first = card["matchups"][0]
    headers = [*first["players"], *(f"return of {agent}" for agent in first["agent_episode_returns_mean"])]
    if "success" in first:
        headers += [*_RATE_HEADERS, "delta"]
    headers += [name.replace("_", " ") for name in first.get("measures", {})]
    yield Table("Trained and scripted teams against each other", tuple(headers), rows)


def _responses(card: Mapping[str, Any]) -> Iterator[Table]:
    found = card.get("best_response")
    if found is None:
        return
    for team, own in found["teams"].items():
        yield _opponents(team, own["opponents"])
        yield _strongest(team, own["strongest"], own["optimistic"])
        if "bounds" in own:
            yield _bounds(own["bounds"])
    if found["private"]:
        yield _told(found["private"])


def _opponents(team: str, opponents: Sequence[Mapping[str, Any]]) -> Table:
    has_landmarks = all(own["final_distance"] is not None for own in opponents)
    rows = []
    for own in opponents:
        updates = f"{own['curve'][-1]['updates']:,}" if own["curve"] else ""
        known = (f"{own['final_distance']:.3f}", f"{own['success']:.1f}") if has_landmarks else ()
        number = _optional(own["number"], "d")
        rows.append((own["name"], number, updates, f"{own['episode_return']:+.2f}", *known))
    headers: tuple[str, ...] = ("opponent", "number", "updates", "return")
    if has_landmarks:
        headers = (*headers, "final distance", "success %")
    return Table(f"Opponents tried in the place of {team}", headers, rows)


def _strongest(team: str, strongest: Mapping[str, Mapping[str, Any]], optimistic: bool) -> Table:
    has_landmarks = all("success" in own for own in strongest.values())
    rows = []
    for criterion, own in strongest.items():
        known: tuple[str, ...] = ()
        if has_landmarks:
            interval = _interval(own["ci95"]["final_distance_mean"]["adversary"], ".3f")
            distance = own["final_distance_mean"]["adversary"]
            known = (f"{own['success']['adversary']:.1f}", f"{distance:.3f}", interval)
        gain = (f"{own['return_gain']:+.2f}", _interval(own["ci95"]["return_gain"], "+.2f"))
        rows.append((criterion.replace("_", " "), own["name"], *gain, *known))
    headers: tuple[str, ...] = ("by", "opponent", "gain in return", "95 % interval")
    if has_landmarks:
        headers = (*headers, "success %", "final distance", "95 % interval")
    title = f"The strongest opponents in the place of {team}, on other start states"
    weak = ". All that were tried are weak: an optimistic figure" if optimistic else ""
    return Table(title + weak, headers, rows)


def _bounds(bounds: Mapping[str, Mapping[str, float]]) -> Table:
    rows = [
        (
            name.replace("_", " "),
            f"{of['success']:.1f}",
            f"{of['final_distance']:.3f}",
            *(_optional(of.get(key), ".1f") for key in ("agents", "coverage")),
        )
        for name, of in bounds.items()
    ]
    headers = ("adversary", "success %", "final distance", "agents %", "coverage %")
    return Table("What an adversary can reach", headers, rows)


def _told(private: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for team, own in private.items():
        length = len(own["accuracy"])
        for step in sorted({max(1, length * part // 5) for part in range(1, 6)}):
            known = (own["accuracy"][step - 1], own["probability"][step - 1], own["chance"][step - 1])
            rows.append((team, str(step), *(f"{value:.1f}" for value in known)))
    headers = ("private part of", "before step", "right %", "sure %", "chance %")
    return Table("How well the history of observations tells the private part", headers, rows)


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _rates(rates: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(f"{rates[name]:.1f}" for name in _RATES)


def _interval(ends: tuple[float, float] | None, form: str) -> str:
    return "" if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"
