"""The command that measures a checkpoint."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from distributed_maddpg.cli.output import present
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.errors import BadInput

_MAX_UPDATES = 10**9


@dataclass(frozen=True)
class EvaluateCommand:
    """Play greedy episodes from fresh start states with a checkpoint's policies."""

    checkpoint: tyro.conf.Positional[str]
    """Checkpoint, or a run folder, or a folder or URL of checkpoints for the newest one."""
    episodes: int = 1000
    """How many episodes."""
    seed: int = 0
    """Seed of the start states; the same seed gives the same numbers."""
    env_id: Annotated[str, tyro.conf.arg(name="env.id")] = ""
    """The checkpoint's environment, to allow that it is imported and run; needed for one of your own."""
    matchups: bool = True
    """Also play the teams against scripted ones: up to nine more evaluations."""
    best_response: bool = False
    """Also train a fresh opponent of each team, which shows how far the team can be exploited."""
    best_response_updates: int = 5_000
    """Updates that each of them learns for, rounded up to a fragment's; about 25 s."""
    json: bool = False
    """Print one JSON object on stdout instead of a table."""


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(EvaluateCommand, "evaluate", arguments)
    if command.episodes < 1:
        raise BadInput("episodes", command.episodes, "must be at least 1")
    if command.seed < 0:
        raise BadInput("seed", command.seed, "must be zero or a positive integer")
    if not 1 <= command.best_response_updates <= _MAX_UPDATES:
        remedy = f"must be at least 1 and at most {_MAX_UPDATES}"
        raise BadInput("best_response_updates", command.best_response_updates, remedy)
    if not command.best_response and command.best_response_updates != EvaluateCommand.best_response_updates:
        raise BadInput("best_response_updates", command.best_response_updates, "needs --best-response")

    from distributed_maddpg.evaluation.matchups import evaluate_matchups  # noqa: PLC0415
    from distributed_maddpg.experiments.exploitability import best_responses, full_card  # noqa: PLC0415
    from distributed_maddpg.report.card import card_tables  # noqa: PLC0415
    from distributed_maddpg.run.folder import newest_checkpoint  # noqa: PLC0415
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415
    from distributed_maddpg.trainer import MADDPG  # noqa: PLC0415

    progress = Progress()
    path = str(newest_checkpoint(command.checkpoint))
    with (
        contextlib.redirect_stdout(sys.stderr),
        MADDPG.from_checkpoint(path, env_id=command.env_id) as algo,
    ):
        run = (algo.config, algo.policy_parameters())
        card = full_card(algo.scorecard(command.episodes, command.seed))
        if command.matchups:
            card["matchups"] = evaluate_matchups(*run, command.episodes, command.seed)
        if command.best_response:
            budget = (command.best_response_updates, command.episodes, command.seed)
            card["best_response"] = best_responses(*run, *budget, progress.note)
    result = {"checkpoint": path, "seed": command.seed, **card}
    present(result, card_tables(card), command.json, progress)
