"""Ray Tune: `MADDPGTrainable` trains one configuration as a trial, in the trial's placement group.

Needs the extra `tune`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune

from distributed_maddpg.best_response.search import best_responses, check_budget
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.config.parsing import merge
from distributed_maddpg.envs import EnvFactory
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.matchups import TeamSource, evaluate_teams
from distributed_maddpg.evaluation.scorecard import Scorecard
from distributed_maddpg.experiments.cross_play import read_entries
from distributed_maddpg.run.folder import newest_checkpoint
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.trainer import MADDPG


class MADDPGTrainable(tune.Trainable):
    """A trial: `MADDPG` with the settings that Tune chose, and a fitness in every result.

    ```python
    space = {"preset": "default", "num_workers": 2, "algorithm.actor_lr": tune.loguniform(1e-3, 1e-1)}
    goal = tune.TuneConfig(metric="evaluation/success/agents", mode="max")
    tune.Tuner(MADDPGTrainable, param_space=space, tune_config=goal).fit()
    ```

    A step is one report interval. `tune.with_parameters` passes the arguments of `setup`.
    """

    def setup(
        self,
        config: Mapping[str, Any],
        env: EnvFactory | None = None,
        opponents: Sequence[str] = (),
        best_response_budget: float = 0.0,
    ) -> None:
        """Check the settings and read the opponents; processes start with the first step.

        Args:
            config: settings, see `trial_settings`.
            env: makes the environment, as in `MADDPG(config, env)`.
            opponents: checkpoints or run folders, as absolute paths or URLs, against which each of the
                trial's teams plays; the mean scores are in `cross_play/<team>` of each result.
            best_response_budget: if more than 0, each step ends with a search for the strongest opponents,
                see `evaluate --best-response`; their scores are in `best_response/<team>/<criterion>`.

        Raises:
            BadInput: if a setting or an argument cannot be used.
            CheckpointError: if an opponent cannot be read.
        """
        self._in_tune: bool = self.is_actor()  # type: ignore[no-untyped-call]
        self._env, self._budget = env, best_response_budget
        self._opponents = read_entries(opponents, "") if opponents else []
        self._prepare(config)

    def _prepare(self, config: Mapping[str, Any]) -> None:
        settings = trial_settings(config)
        if self._in_tune and settings.num_workers == 0 and not ray.get_gpu_ids():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all visible to who asked for none
        self._algo = MADDPG(settings, self._env)
        self._algo.name = self.trial_name
        if self._budget:
            check_budget(settings, self._budget)
        own = self._algo.config.env
        for entry in self._opponents:
            other = entry.source.config.env
            if (own.id, own.kwargs) != (other.id, other.kwargs):
                remedy = f"plays {other.id} with {other.kwargs}, the trial {own.id} with {own.kwargs}"
                raise BadInput("opponents", entry.path, f"{remedy}; they must be the same")

    @classmethod
    def default_resource_request(cls, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        """Return a bundle for the learner and one for each worker; other processes reserve nothing.

        The replay buffer runs on the node of the learner's bundle. Without workers this process is the
        learner. A GPU is reserved for `learner.device = "cuda"` only.

        Raises:
            BadInput: if a setting cannot be used; Tune asks before it starts the trial.
        """
        settings = trial_settings(config)
        bundles: list[dict[str, float]] = [{"CPU": settings.learner.reserved_cpus}]
        if settings.learner.device == "cuda":
            bundles[0]["GPU"] = 1
        if settings.num_workers:  # an empty first one: what this process reserves
            bundles = [{}, *bundles, *({"CPU": 1.0} for _ in range(settings.num_workers))]
        return tune.PlacementGroupFactory(bundles)

    def step(self) -> dict[str, Any]:
        """Train for one report interval; return RLlib's keys, with the scores of the newest policies.

        The trial is done when the configured number of environment steps is.
        """
        result = {**self._algo.train(), "done": self._algo.finished}
        episodes = self._algo.config.evaluation.episodes
        card = self._algo.scorecard(episodes)
        counts = {"num_env_steps": self._algo.env_steps, "num_updates": self._algo.updates}
        result["evaluation"] = {**counts, **card.to_dict()}
        if self._opponents:
            result["cross_play"] = self._cross_play(episodes)
        if self._budget:
            result["best_response"] = self._best_response(card)
        return result

    def _cross_play(self, episodes: int) -> dict[str, Any]:
        """Return the mean scores of each team against the other team of every opponent."""
        own = TeamSource(self._algo.config, self._algo.policy_parameters())
        seed = integer_seed(own.config.seed, "evaluation", 0)
        found = {}
        for team in dict.fromkeys(self._algo.spec.teams):
            players = [
                {other: own if other == team else entry.source for other in entry.algorithms}
                for entry in self._opponents
            ]
            found[team] = _mean([evaluate_teams(each, episodes, seed).to_dict() for each in players])
        return found

    def _best_response(self, card: Scorecard) -> dict[str, Any]:
        """Return the scores of the strongest opponents that play in the place of each team."""
        run = (self._algo.config, self._algo.policy_parameters())
        found = best_responses(*run, card, self._budget, run[0].seed, lambda _: None)
        return {
            team: {criterion: _numbers(scores) for criterion, scores in own["strongest"].items()}
            for team, own in found["teams"].items()
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a checkpoint folder into Tune's, which every command of this package then takes as well."""
        self._algo.drain()
        self._algo.save(Path(checkpoint_dir, f"step_{self._algo.env_steps}"))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]  # a dict if one was saved
        """Continue from the checkpoint in Tune's folder, with this trial's settings.

        Raises:
            BadInput: if the settings do not fit its networks.
            CheckpointError: if it cannot be read.
        """
        self._algo.stop()
        self._algo = MADDPG.from_checkpoint(newest_checkpoint(checkpoint), self._algo.config, env=self._env)
        self._algo.name = self.trial_name

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """End the last trial's processes and prepare another one in this process (`reuse_actors`)."""
        self._algo.stop()
        self._prepare(new_config)
        return True

    def cleanup(self) -> None:
        """End all processes; where this one is killed, Ray ends those that it started."""
        self._algo.stop()
        if self._in_tune:  # Ray's handler would raise in the midst of the exit that follows
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def trial_settings(config: Mapping[str, Any]) -> MADDPGConfig:
    """Return the settings of a trial.

    Args:
        config: as Tune's search space, sampled: settings nested or with dotted names, later ones over
            earlier ones, on those of the preset that `preset` names, `default` without it.

    Raises:
        BadInput: for an unknown setting, a wrong type or a value out of range.
    """
    nested: dict[str, Any] = {}
    for name, value in config.items():
        own = value.item() if isinstance(value, np.generic) else value
        for part in reversed(name.split(".")):
            own = {part: own}
        nested = merge(nested, own)
    preset = nested.pop("preset", "default")
    return MADDPGConfig.from_dict(nested, MADDPGConfig.preset(preset))


def _mean(scores: Sequence[Any]) -> Any:
    """Return the mean of numbers, or of each number of equally nested dicts."""
    if isinstance(scores[0], Mapping):
        return {name: _mean([each[name] for each in scores]) for name in scores[0]}
    return float(np.mean(scores))


def _numbers(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scorecard without its opponent's name and intervals, which Tune's tables have no place for."""
    return {name: value for name, value in scores.items() if name not in ("name", "number", "ci95")}
