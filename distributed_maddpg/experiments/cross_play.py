"""Cross-play: every team of several checkpoints against every opponent."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from distributed_maddpg.checkpoint.remote import is_url
from distributed_maddpg.config import EnvConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.matchups import TeamSource, evaluate_teams
from distributed_maddpg.experiments.options import CrossPlayOptions, ReproduceOptions
from distributed_maddpg.files import write_atomic
from distributed_maddpg.metrics import flatten
from distributed_maddpg.report.heat_map import write_heat_maps
from distributed_maddpg.run.folder import newest_checkpoint
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.trainer import MADDPG

_COMPARED = ("success", "delta", "final_distance_mean", "agent_episode_returns_mean")
R = TypeVar("R")


class CrossPlayEntry(NamedTuple):
    """A checkpoint whose teams play."""

    label: str
    path: str
    source: TeamSource
    algorithms: Mapping[str, str]
    """The algorithm that trained each team."""


def read_entry(label: str, path: str, env_id: str = "", networks: str = "") -> CrossPlayEntry:
    """Read a checkpoint.

    Raises:
        BadInput: if `env_id` is another environment than the checkpoint's.
        CheckpointError: if it cannot be read.
    """
    algo = MADDPG.from_checkpoint(path, env_id=env_id, networks=networks)
    algorithms = dict(zip(algo.spec.teams, algo.config.algorithm.per_agent(algo.spec), strict=True))
    return CrossPlayEntry(label, path, TeamSource(algo.config, algo.policy_parameters()), algorithms)


def read_entries(paths: Sequence[str], env_id: str, networks: str = "") -> list[CrossPlayEntry]:
    """Read checkpoints, the newest of each run folder; they must be of one environment with two teams.

    Raises:
        BadInput: if they cannot play each other.
        CheckpointError: if one cannot be read.
    """
    if not paths:
        raise BadInput("checkpoints", "none", "name checkpoints or run folders")
    entries: list[CrossPlayEntry] = []
    for path, label in zip(paths, _labels(paths), strict=True):
        checkpoint = str(newest_checkpoint(path if is_url(path) else Path(path).resolve()))
        if checkpoint in (known.path for known in entries):
            raise BadInput("checkpoints", path, f"names {checkpoint}, as another one does; name it once")
        entries.append(read_entry(label, checkpoint, env_id, networks))
        if len(teams := entries[-1].algorithms) != 2:
            raise BadInput("checkpoints", path, f"has the teams {', '.join(teams)}; cross-play needs two")
    first = entries[0].source.config.env
    for entry in entries:
        env = entry.source.config.env
        if (env.id, env.kwargs) != (first.id, first.kwargs):
            plays = f"plays {_describe_env(env)}, the first one {_describe_env(first)}"
            raise BadInput("checkpoints", entry.path, f"{plays}; they must be the same")
    return entries


def _describe_env(env: EnvConfig) -> str:
    arguments = ", ".join(f"{name} {value}" for name, value in env.kwargs.items())
    return f"{env.id} with {arguments}" if arguments else env.id


def cross_play(
    entries: Sequence[CrossPlayEntry], options: CrossPlayOptions, note: Callable[[str], None]
) -> dict[str, Any]:
    """Play every team against every opponent; return plain numbers.

    Returns:
        The entries, the scorecard of each matchup with its confidence intervals, and where several
        algorithms trained the teams the means over all matchups of two algorithms.
    """
    columns, rows = entries[0].algorithms  # simple_adversary: adversary, agent
    seed = integer_seed(options.seed, "evaluation", 0)
    indices = {
        f"{rows} of {one.label} against {columns} of {other.label}": (i, j)
        for (i, one), (j, other) in itertools.product(enumerate(entries), repeat=2)
    }
    calls = {
        name: ({columns: entries[j].source, rows: entries[i].source}, options.episodes, seed)
        for name, (i, j) in indices.items()
    }
    if len(calls) < len(entries) ** 2:
        raise BadInput("checkpoints", [entry.label for entry in entries], "names one of them twice")
    note(f"{len(calls)} matchup{'s' if len(calls) > 1 else ''} of {options.episodes} episodes")
    found = dict(run_tasks(play_matchup, calls, options))
    matchups = [{rows: i, columns: j, **found[name]} for name, (i, j) in indices.items()]
    return {
        "teams": [rows, columns],
        "episodes": options.episodes,
        "seed": options.seed,
        "entries": [
            {"label": own.label, "path": own.path, "algorithms": dict(own.algorithms)} for own in entries
        ],
        "matchups": matchups,
        "by_algorithm": _by_algorithm(entries, matchups, rows, columns),
    }


def write_cross_play(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """Write `cross_play.json`, `.csv` and `.html`, a heat map of each number; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = result["teams"]
    labels = [entry["label"] for entry in result["entries"]]
    table = [
        {rows: labels[matchup[rows]], columns: labels[matchup[columns]], **_numbers(matchup)}
        for matchup in result["matchups"]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    paths = [folder / f"cross_play.{kind}" for kind in ("json", "csv", "html")]
    write_atomic(paths[0], json.dumps(result, indent=2) + "\n")
    write_atomic(paths[1], text.getvalue())
    shape = (len(labels), len(labels))
    maps = {
        name: np.reshape([row[name] for row in table], shape).tolist()
        for name in table[0]
        if name not in (rows, columns)
    }
    write_heat_maps(paths[2], "Cross-play", (rows, columns), labels, maps)
    return paths


def play_matchup(sources: Mapping[str, TeamSource], num_episodes: int, seed: int) -> dict[str, Any]:
    """Return the numbers of one matchup by which it is compared with others."""
    card = evaluate_teams(sources, num_episodes, seed).with_intervals()
    ci95 = {name: value for name, value in card["ci95"].items() if name in _COMPARED}
    return {**{name: card[name] for name in _COMPARED if name in card}, "ci95": ci95}


def run_tasks(
    work: Callable[..., R], calls: Mapping[str, tuple[Any, ...]], options: CrossPlayOptions | ReproduceOptions
) -> Iterator[tuple[str, R]]:
    """Call `work(*arguments)` for each of `calls`, in this process or in Ray tasks; yield name and result."""
    if options.in_process or not calls:
        return ((name, work(*arguments)) for name, arguments in calls.items())
    # Imported here: without tasks, Ray is never loaded.
    from distributed_maddpg.runtime.tasks import run_in_parallel  # noqa: PLC0415

    return run_in_parallel(work, calls, options.address, options.timeout_s)


def _by_algorithm(
    entries: Sequence[CrossPlayEntry], matchups: Sequence[Mapping[str, Any]], rows: str, columns: str
) -> list[dict[str, Any]]:
    """Return means over the matchups of each two algorithms; none where one trained all teams.

    Teams that learned in the same run are left out: they have adapted to each other.
    """
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for matchup in (own for own in matchups if own[rows] != own[columns]):
        pair = entries[matchup[rows]].algorithms[rows], entries[matchup[columns]].algorithms[columns]
        grouped.setdefault(pair, []).append(_numbers(matchup))
    if len(grouped) <= 1:
        return []
    return [
        {
            rows: own,
            columns: other,
            "matchups": len(group),
            **{name: float(np.mean([numbers[name] for numbers in group])) for name in group[0]},
        }
        for (own, other), group in grouped.items()
    ]


def _numbers(matchup: Mapping[str, Any]) -> dict[str, Any]:
    return flatten({name: matchup[name] for name in _COMPARED if name in matchup})


def _labels(paths: Sequence[str]) -> list[str]:
    """Return the shortest endings of the paths that differ from each other."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(own[-count:]) for own in parts]
        if len(set(labels)) == len(labels):
            return labels
    raise BadInput("checkpoints", list(paths), "names one of them twice")
