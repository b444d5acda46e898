"""Results of experiments as tables of text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from distributed_maddpg.evaluation.scores import SUCCESS_EPS
from distributed_maddpg.report.tables import Table, markdown_table


def cross_play_tables(result: Mapping[str, Any]) -> list[Table]:
    """Return a matrix of each success rate, or return, and means by algorithm where there are several."""
    rows, columns = result["teams"]
    labels = [entry["label"] for entry in result["entries"]]
    numbers = [_compared_numbers(matchup) for matchup in result["matchups"]]  # row by row
    tables = []
    for name in numbers[0]:
        cells = iter(f"{own[name]:.1f}" for own in numbers)
        lines = [(label, *itertools.islice(cells, len(labels))) for label in labels]
        tables.append(Table(f"{name}: {rows} of a row against {columns} of a column", ("", *labels), lines))
    if result["by_algorithm"]:
        title = "Means by the algorithms that trained the teams"
        tables.append(_by_algorithm(result, title))
    return tables


def _by_algorithm(result: Mapping[str, Any], title: str) -> Table:
    rows, columns = result["teams"]
    groups = result["by_algorithm"]
    names = [name for name in groups[0] if name.startswith(("success/", "delta", "agent_episode"))]
    headers = (rows, columns, "matchups", *map(_header, names))
    lines = [
        (str(of[rows]), str(of[columns]), str(of["matchups"]), *(f"{of[name]:.1f}" for name in names))
        for of in groups
    ]
    return Table(title, headers, lines)


def _header(name: str) -> str:
    kind, _, who = name.rpartition("/")
    return f"{who} %" if kind == "success" else f"return {who}" if kind else name


def _compared_numbers(matchup: Mapping[str, Any]) -> dict[str, float]:
    """Return success in percent, or returns where the environment has no landmarks."""
    if "success" not in matchup:
        return dict(matchup["agent_episode_returns_mean"])
    return {**{f"{name} %": rate for name, rate in matchup["success"].items()}, "delta": matchup["delta"]}


def reproduction_tables(result: Mapping[str, Any]) -> list[Table]:
    """Return our success beside the published one, the distances and returns, and the cross-play."""
    rows, crossed = result["rows"], result["cross_play"]
    tables = [_published_comparison(rows), _distances(rows)]
    if crossed["by_algorithm"]:
        title = "Cross-play: teams of different runs against each other"
        tables.append(_by_algorithm(crossed, title))
    return tables


def reproduction_document(result: Mapping[str, Any], command: str) -> str:
    """Return a reproduction as Markdown, ready for a documentation folder."""
    options, settings = result["options"], result["settings"]
    steps = settings["pacing"]["total_env_steps"]
    kwargs = settings["env"]["kwargs"]
    cycles = kwargs.get("max_cycles", 25)
    paid = "squared distance" if kwargs.get("squared_adversary_reward") else "distance"
    moved = "new" if kwargs.get("velocity_first") else "old"
    head = (
        f"# Physical deception, {options['num_good_agents']} good agents\n\n"
        f"`{command}`: preset `{options['preset']}`, {steps // cycles:,} episodes of {cycles} steps, "
        f"{options['seeds']} seed{'s' if options['seeds'] > 1 else ''} a row. "
        f"Reward of the adversary: minus its {paid} from the goal. "
        f"Positions are integrated with the {moved} velocity. "
        f"Greedy policies, {options['episodes']} episodes from fresh start states, "
        f"within {SUCCESS_EPS} at the end."
    )
    if options["budget"] == "small":
        head += "\n\nThe small budget shows only that the experiment runs, nothing about learning."
    parts = [head]
    for table in reproduction_tables(result):
        parts += [f"## {table.title}", markdown_table(table)]
    notes = [_SOURCES, _OF_SEEDS if options["seeds"] > 1 else _OF_ONE_SEED]
    return "\n\n".join([*parts, *notes]) + "\n"


_SOURCES = """Figures of the paper are quoted from memory and not verified; the replication evaluated its
training policies with their noise."""
_OF_SEEDS = """Brackets are 95 % bootstrap intervals of the mean over seeds. With five seeds such an interval
contains the true mean in only about 80 % of cases. All runs play the same start states, and the intervals
leave out the error due to these. IQM is the interquartile mean."""
_OF_ONE_SEED = "With one seed there is no interval, and the interquartile mean (IQM) is the seed's value."


def _published_comparison(rows: list[Mapping[str, Any]]) -> Table:
    headers = ("good agents", "adversary", "agents %", "adversary %", "delta", "coverage %")
    lines = [
        (
            row["agent_by"],
            row["adversary_by"],
            *(_with_interval(row[name], ".1f") for name in ("agents", "adversary", "delta", "coverage")),
            *(_rates(row["published"].get(source)) for source in ("paper", "replication")),
        )
        for row in rows
    ]
    title = "Success, beside the published agents / adversary (delta)"
    return Table(title, (*headers, "paper", "replication"), lines)


def _distances(rows: list[Mapping[str, Any]]) -> Table:
    names = ("agents_distance", "adversary_distance", "return_agent_0", "return_adversary_0")
    headers = ("good agents", "adversary", *(name.replace("_", " ") for name in names))
    lines = [
        (row["agent_by"], row["adversary_by"], *(_with_interval(row[name], ".2f") for name in names))
        for row in rows
    ]
    return Table("Distance from the goal in the last frame, and returns", headers, lines)


def _with_interval(of: Mapping[str, Any], form: str) -> str:
    interval = f" [{of['ci95'][0]:{form}}, {of['ci95'][1]:{form}}]" if of["ci95"] else ""
    return f"{of['mean']:{form}}{interval}, IQM {of['iqm']:{form}}"


def _rates(rates: tuple[float, float] | None) -> str:
    return "" if rates is None else f"{rates[0]:.1f} / {rates[1]:.1f} ({rates[0] - rates[1]:.1f})"
