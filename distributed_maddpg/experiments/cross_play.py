"""Every team of some checkpoints against every opponent of them."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distributed_maddpg.checkpoint.remote import is_url
from distributed_maddpg.config import EnvConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.matchups import TeamSource, evaluate_teams
from distributed_maddpg.experiments.exploitability import full_card
from distributed_maddpg.experiments.options import CrossPlayOptions
from distributed_maddpg.files import write_atomic
from distributed_maddpg.metrics import flatten
from distributed_maddpg.report.heat_map import write_heat_maps
from distributed_maddpg.run.folder import newest_checkpoint
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.trainer import MADDPG

_SHOWN = ("success", "delta", "final_distance_mean", "agent_episode_returns_mean")
_TEAMS = 2


@dataclass(frozen=True)
class Entrant:
    """A checkpoint whose teams play."""

    label: str
    path: str
    side: TeamSource
    algorithms: Mapping[str, str]
    """What each team learnt by."""


def read_entrants(paths: Sequence[str], env_id: str) -> list[Entrant]:
    """Read checkpoints, the newest of each run folder; they must be of one environment with two teams.

    Raises:
        BadInput: if they cannot play each other.
        CheckpointError: if one cannot be read.
    """
    if not paths:
        raise BadInput("checkpoints", "none", "name checkpoints or run folders")
    entrants: list[Entrant] = []
    for path, label in zip(paths, _labels(paths), strict=True):
        checkpoint = str(newest_checkpoint(path if is_url(path) else Path(path).resolve()))
        if checkpoint in (known.path for known in entrants):
            raise BadInput("checkpoints", path, f"names {checkpoint}, as another one does; name it once")
        algo = MADDPG.from_checkpoint(checkpoint, env_id=env_id)
        teams = algo.spec.teams
        if len(set(teams)) != _TEAMS:
            named = ", ".join(dict.fromkeys(teams))
            raise BadInput("checkpoints", path, f"has the teams {named}; it takes two to play")
        algorithms = dict(zip(teams, algo.config.algorithm.per_agent(algo.spec), strict=True))
        entrants.append(
            Entrant(label, checkpoint, TeamSource(algo.config, algo.policy_parameters()), algorithms)
        )
    first = entrants[0].side.config.env
    for entrant in entrants:
        env = entrant.side.config.env
        if (env.id, env.kwargs) != (first.id, first.kwargs):
            remedy = f"plays {_world(env)}, the first one {_world(first)}; they cannot meet"
            raise BadInput("checkpoints", entrant.path, remedy)
    return entrants


def _world(env: EnvConfig) -> str:
    arguments = ", ".join(f"{name} {value}" for name, value in env.kwargs.items())
    return f"{env.id} with {arguments}" if arguments else env.id


def cross_play(
    entrants: Sequence[Entrant], options: CrossPlayOptions, note: Callable[[str], None]
) -> dict[str, Any]:
    """Play every team against every opponent; return plain numbers.

    Returns:
        The entrants, the card of each pairing with its confidence intervals, and where teams learnt by
        several algorithms the means over all pairings of two of them.
    """
    columns, rows = dict.fromkeys(entrants[0].algorithms)  # simple_adversary: adversary, agent
    pairings = list(itertools.product(range(len(entrants)), repeat=2))
    seed = integer_seed(options.seed, "evaluation", 0)
    calls = {
        f"{rows} of {entrants[i].label} against {columns} of {entrants[j].label}": (
            {columns: entrants[j].side, rows: entrants[i].side},
            options.episodes,
            seed,
        )
        for i, j in pairings
    }
    if len(calls) < len(pairings):
        raise BadInput("checkpoints", [entrant.label for entrant in entrants], "names one of them twice")
    note(f"{len(calls)} pairing{'s' if len(calls) > 1 else ''} of {options.episodes} episodes")
    found = dict(_played(calls, options))
    matches = [{rows: i, columns: j, **found[name]} for (i, j), name in zip(pairings, calls, strict=True)]
    return {
        "teams": [rows, columns],
        "episodes": options.episodes,
        "seed": options.seed,
        "entrants": [
            {"label": own.label, "path": own.path, "algorithms": dict(own.algorithms)} for own in entrants
        ],
        "matches": matches,
        "by_algorithm": _by_algorithm(entrants, matches, rows, columns),
    }


def write_cross_play(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """Write `cross_play.json`, `.csv` and `.html`, a heat map of each number; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = result["teams"]
    labels = [entrant["label"] for entrant in result["entrants"]]
    table = [_row(match, rows, columns, labels) for match in result["matches"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    paths = [folder / f"cross_play.{kind}" for kind in ("json", "csv", "html")]
    write_atomic(paths[0], json.dumps(result, indent=2) + "\n")
    write_atomic(paths[1], text.getvalue())
    numbers = [name for name in table[0] if name not in (rows, columns)]
    shape = (len(labels), len(labels))
    maps = {name: np.reshape([row[name] for row in table], shape).tolist() for name in numbers}
    write_heat_maps(paths[2], "Cross-play", (rows, columns), labels, maps)
    return paths


def play_match(sides: Mapping[str, TeamSource], num_episodes: int, seed: int) -> dict[str, Any]:
    """Return the card of one pairing, by which it is compared with others."""
    card = full_card(evaluate_teams(sides, num_episodes, seed))
    ci95 = {name: value for name, value in card["ci95"].items() if name in _SHOWN}
    return {**{name: card[name] for name in _SHOWN if name in card}, "ci95": ci95}


def _played(
    calls: Mapping[str, tuple[Any, ...]], options: CrossPlayOptions
) -> Iterator[tuple[str, dict[str, Any]]]:
    if options.in_process:
        return ((name, play_match(*arguments)) for name, arguments in calls.items())
    from distributed_maddpg.runtime.tasks import run_in_parallel  # noqa: PLC0415 (without Ray, it is never loaded)

    return run_in_parallel(play_match, calls, options.address, options.timeout_s)


def _by_algorithm(
    entrants: Sequence[Entrant], matches: Sequence[Mapping[str, Any]], rows: str, columns: str
) -> list[dict[str, Any]]:
    """Return means over the pairings of each two algorithms; none where all learnt by one.

    Teams that learnt in the same run are left out: they know each other.
    """
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for match in (own for own in matches if own[rows] != own[columns]):
        pair = entrants[match[rows]].algorithms[rows], entrants[match[columns]].algorithms[columns]
        grouped.setdefault(pair, []).append(_numbers(match))
    if len(grouped) <= 1:
        return []
    return [
        {
            rows: own,
            columns: other,
            "matches": len(group),
            **{name: float(np.mean([numbers[name] for numbers in group])) for name in group[0]},
        }
        for (own, other), group in grouped.items()
    ]


def _numbers(match: Mapping[str, Any]) -> dict[str, Any]:
    return flatten({name: match[name] for name in _SHOWN if name in match})


def _row(match: Mapping[str, Any], rows: str, columns: str, labels: Sequence[str]) -> dict[str, Any]:
    return {rows: labels[match[rows]], columns: labels[match[columns]], **_numbers(match)}


def _labels(paths: Sequence[str]) -> list[str]:
    """Return what tells the paths apart: as many of their last parts as that takes."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(own[-count:]) for own in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise BadInput("checkpoints", list(paths), "names one of them twice")
