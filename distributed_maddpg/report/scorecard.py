"""A scorecard as tables of text, for a terminal or a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from distributed_maddpg.report.tables import Table

_RATES = ("agents", "adversary", "coverage")
_RATE_HEADERS = tuple(f"{name} %" for name in _RATES)


def scorecard_tables(card: Mapping[str, Any]) -> list[Table]:
    """Return the tables of what `evaluate --json` prints, without those whose numbers it lacks."""
    makers = (_returns, _success, _by_eps, _matchups, _responses)
    return [table for maker in makers for table in maker(card)]


def _returns(card: Mapping[str, Any]) -> Iterator[Table]:
    means = card["agent_episode_returns_mean"]
    spread = card["ci95"]["agent_episode_returns_mean"]
    rows = [(agent, f"{mean:+.2f}", _interval(spread[agent], "+.2f")) for agent, mean in means.items()]
    title = f"Greedy returns, {card['episodes']} episodes from fresh start states"
    yield Table(title, ("agent", "mean", "95 % interval"), rows)


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
        rows.append((*matchup["players"].values(), *returns, *rates))
    first = card["matchups"][0]
    headers = [*first["players"], *(f"return of {agent}" for agent in first["agent_episode_returns_mean"])]
    if "success" in first:
        headers += [*_RATE_HEADERS, "delta"]
    yield Table("Trained and scripted teams against each other", tuple(headers), rows)


def _responses(card: Mapping[str, Any]) -> Iterator[Table]:
    if "best_response" not in card:
        return
    responses = {team: found for team, found in card["best_response"].items() if team != "updates"}
    rows: list[tuple[str, ...]] = []
    limits: list[tuple[str, ...]] = []
    for team, found in responses.items():
        known: tuple[str, ...] = ()
        if "success" in found:
            known = (*_rates(found["success"]), f"{found['final_distance_mean']['adversary']:.3f}")
        rows.append((team, f"{found['return_gain']:+.2f}", *known))
        for name, of in found.get("bounds", {}).items():
            limits.append((name, f"{of['success']:.1f}", f"{of['final_distance']:.3f}"))
    known_headers = (*_RATE_HEADERS, "adversary's final distance") if "success" in card else ()
    title = f"A new team against the trained others, after {card['best_response']['updates']:,} updates"
    yield Table(title, ("new team", "gain in return", *known_headers), rows)
    if limits:
        yield Table("The best an adversary can reach", ("adversary", "success %", "final distance"), limits)


def _rates(rates: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(f"{rates[name]:.1f}" for name in _RATES)


def _interval(ends: tuple[float, float] | None, form: str) -> str:
    return "" if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"
