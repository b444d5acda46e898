"""The command `evaluate`, which evaluates a checkpoint."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from distributed_maddpg.benchmarks.options import check_numbers
from distributed_maddpg.cli.output import print_result
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.errors import BadInput
from distributed_maddpg.files import writing_to

if TYPE_CHECKING:
    from distributed_maddpg.evaluation.scorecard import Scorecard
    from distributed_maddpg.run.progress import Progress
    from distributed_maddpg.trainer import MADDPG

_MAX_BUDGET = 1_000
"""Two days; a typing error would otherwise end with the first opponent's, after months."""


@dataclass(frozen=True)
class EvaluateCommand:
    """Play greedy episodes from fresh start states with a checkpoint's policies.

    Examples:
        distributed-maddpg evaluate runs/first
        distributed-maddpg evaluate runs/first --best --episodes 1e4 --json
        distributed-maddpg evaluate runs/first --best-response --budget 0.5
        distributed-maddpg evaluate runs/first --record episodes.npz
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint; or a run folder, or a folder or URL of checkpoints, of which the newest is used."""
    best: bool = False
    """Use the checkpoint that train --keep-best kept instead of the newest."""
    episodes: int = 1000
    """Number of episodes."""
    seed: int = 0
    """Seed of the start states; the same seed gives the same numbers."""
    env_id: Annotated[str, tyro.conf.arg(name="env.id")] = ""
    """Confirms the checkpoint's environment, which is then imported and run. Needed unless it belongs to this
    package, mpe2 or PettingZoo."""
    networks: Annotated[str, tyro.conf.arg(name="algorithm.networks")] = ""
    """Confirms the checkpoint's networks of somebody's own layers, which are then imported and run."""
    matchups: bool = True
    """Also play the teams against scripted ones: up to nine more evaluations."""
    best_response: bool = False
    """Also search for the strongest opponent of each team, and learn to tell from outside what is private to
    a team. In environments other than simple_adversary the opponents are weak and the figures optimistic."""
    budget: float = 1.0
    """Multiplies how long each opponent of --best-response learns. With 1 the command takes about three
    minutes; with four good agents, five."""
    record: str = ""
    """File to write the episodes to, a new .npz: states, observations, actions, rewards, for numpy and others
    (docs/episodes.md)."""
    json: bool = False
    """Print one JSON object on stdout instead of tables."""

    def __post_init__(self) -> None:
        """Check the options."""
        check_numbers(self, positive=("episodes",), not_negative=("seed",))
        check_numbers(self, positive=("budget",), below=_MAX_BUDGET)
        if not self.best_response and self.budget != EvaluateCommand.budget:
            raise BadInput("--budget", self.budget, "needs --best-response")


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(EvaluateCommand, "evaluate", arguments)

    from distributed_maddpg.best_response.search import best_responses, check_budget  # noqa: PLC0415
    from distributed_maddpg.evaluation.episode_file import episode_file  # noqa: PLC0415
    from distributed_maddpg.evaluation.matchups import evaluate_matchups  # noqa: PLC0415
    from distributed_maddpg.report.scorecard import scorecard_tables  # noqa: PLC0415
    from distributed_maddpg.run.folder import best_checkpoint, newest_checkpoint  # noqa: PLC0415
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415
    from distributed_maddpg.trainer import MADDPG  # noqa: PLC0415

    progress = Progress()
    if command.record:
        episode_file("--record", command.record)
    path = str((best_checkpoint if command.best else newest_checkpoint)(command.checkpoint))
    with (
        contextlib.redirect_stdout(sys.stderr),
        MADDPG.from_checkpoint(path, env_id=command.env_id, networks=command.networks) as algo,
    ):
        run = (algo.config, algo.policy_parameters())
        if command.best_response:
            check_budget(algo.config, command.budget)
        scorecard = algo.scorecard(command.episodes, command.seed)
        card = scorecard.with_intervals()
        if command.record:
            _record(command, path, algo, scorecard, progress)
        if command.matchups:
            card["matchups"] = evaluate_matchups(*run, command.episodes, command.seed)
        if command.best_response:
            found = best_responses(*run, scorecard, command.budget, command.seed, progress.note)
            card["best_response"] = found
    result = {"checkpoint": path, "seed": command.seed, **card}
    print_result(result, scorecard_tables(card), command.json, progress)


def _record(
    command: EvaluateCommand, path: str, algo: MADDPG, scorecard: Scorecard, progress: Progress
) -> None:
    """Play the evaluated episodes once more, and write them to a file."""
    from distributed_maddpg.evaluation.episode_file import check_same_episodes, write_episodes  # noqa: PLC0415
    from distributed_maddpg.evaluation.matchups import TeamSource  # noqa: PLC0415
    from distributed_maddpg.evaluation.recording import record_episodes  # noqa: PLC0415
    from distributed_maddpg.seeding import integer_seed  # noqa: PLC0415

    source = TeamSource(algo.config, algo.policy_parameters())
    key = integer_seed(command.seed, "evaluation", 0)
    recording = record_episodes(dict.fromkeys(algo.spec.teams, source), command.episodes, key)
    check_same_episodes(recording, scorecard.episodes)
    about = {"checkpoint": path, "seed": command.seed}
    with writing_to("--record", command.record):
        num_bytes = write_episodes(Path(command.record), recording, algo.config, about)
    steps = int(recording.lengths.sum())
    progress.note(
        f"wrote {command.record}: {command.episodes:,} episodes, {steps:,} steps, {num_bytes:,} bytes"
    )
