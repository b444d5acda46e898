"""The command `evaluate`, which evaluates a checkpoint."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from distributed_maddpg.benchmarks.options import check_numbers
from distributed_maddpg.cli.output import print_result
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.errors import BadInput


@dataclass(frozen=True)
class EvaluateCommand:
    """Play greedy episodes from fresh start states with a checkpoint's policies."""

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint; or a run folder, or a folder or URL of checkpoints, of which the newest is used."""
    episodes: int = 1000
    """Number of episodes."""
    seed: int = 0
    """Seed of the start states; the same seed gives the same numbers."""
    env_id: Annotated[str, tyro.conf.arg(name="env.id")] = ""
    """Confirms the checkpoint's environment, which is then imported and run. Needed unless it belongs to this
    package, mpe2 or PettingZoo."""
    matchups: bool = True
    """Also play the teams against scripted ones: up to nine more evaluations."""
    best_response: bool = False
    """Also train a new opponent of each team, to show how far the team can be exploited. The opponents are
    weak, so the figures are optimistic: stronger ones may gain more."""
    best_response_updates: int = 5_000
    """Updates for which each new opponent learns, rounded up to whole fragments; 5,000 take about 25 s."""
    json: bool = False
    """Print one JSON object on stdout instead of tables."""

    def __post_init__(self) -> None:
        """Check the options."""
        check_numbers(self, positive=("episodes", "best_response_updates"), not_negative=("seed",))
        updates = self.best_response_updates
        if not self.best_response and updates != EvaluateCommand.best_response_updates:
            raise BadInput("--best-response-updates", updates, "needs --best-response")


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(EvaluateCommand, "evaluate", arguments)

    from distributed_maddpg.evaluation.matchups import evaluate_matchups  # noqa: PLC0415
    from distributed_maddpg.experiments.exploitability import best_responses  # noqa: PLC0415
    from distributed_maddpg.report.scorecard import scorecard_tables  # noqa: PLC0415
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
        scorecard = algo.scorecard(command.episodes, command.seed)
        card = scorecard.with_intervals()
        if command.matchups:
            card["matchups"] = evaluate_matchups(*run, command.episodes, command.seed)
        if command.best_response:
            budget = (command.best_response_updates, command.seed)
            card["best_response"] = best_responses(*run, scorecard, *budget, progress.note)
    result = {"checkpoint": path, "seed": command.seed, **card}
    print_result(result, scorecard_tables(card), command.json, progress)
