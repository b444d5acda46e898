"""Scores of evaluations by name: goals that end a run, and rankings that choose its best checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, did_you_mean
from distributed_maddpg.evaluation.episodes import evaluation_env
from distributed_maddpg.evaluation.scorecard import Scorecard
from distributed_maddpg.metrics import flatten
from distributed_maddpg.types import MPE2_MODULES, EnvSpec, EpisodeReport

_GOAL = re.compile(r"([^<>=]+)(>=|<=|=)([^<>=]+)")
_COUNTS = {"num_env_steps", "num_updates", "episodes", "eps"}
_NEED_EVALUATIONS = "needs evaluations; set pacing.evaluation_interval_env_steps above 0"


@dataclass(frozen=True)
class Goal:
    """A value that a score has to reach."""

    name: str
    """Of the score, such as "success.agents"."""
    value: float
    at_most: bool = False
    """Whether the score must be at most, not at least, the value."""

    def is_reached(self, scores: Mapping[str, float]) -> bool:
        """Whether these scores reach it; not if the score is missing or not a number."""
        score = scores.get(self.name, math.nan)
        return score <= self.value if self.at_most else score >= self.value

    def __str__(self) -> str:
        """Return it as on the command line."""
        return f"{self.name}{'<=' if self.at_most else '>='}{self.value:.12g}"


@dataclass(frozen=True)
class Ranking:
    """By which score checkpoints are compared."""

    name: str
    smallest: bool = False
    """Whether the smallest, not the largest, score is the best."""

    def is_better(self, score: float, best: float | None) -> bool:
        """Whether a score is finite and better than the best so far."""
        if best is None or not math.isfinite(score):
            return math.isfinite(score)
        return score < best if self.smallest else score > best

    def __str__(self) -> str:
        """Return it as on the command line."""
        return f"{self.name}:{'min' if self.smallest else 'max'}"


def parse_goals(texts: Iterable[str]) -> tuple[Goal, ...]:
    """Return the goals of `--stop-at`.

    Raises:
        BadInput: naming the option and the text.
    """
    return tuple(map(_parse_goal, texts))


def _parse_goal(text: str) -> Goal:
    match = _GOAL.fullmatch(text)
    try:
        value = float(match[3]) if match else math.nan
    except ValueError:
        value = math.nan
    if match is None or not math.isfinite(value):
        remedy = "must be NAME=NUMBER, 'NAME>=NUMBER' or 'NAME<=NUMBER', in quotes where it has < or >"
        raise BadInput("--stop-at", text, remedy)
    name = match[1].strip()
    return Goal(name, value, match[2] == "<=" or (match[2] == "=" and _is_distance(name)))


def parse_ranking(text: str) -> Ranking:
    """Return the ranking of `--keep-best`: "NAME", "NAME:max" or "NAME:min"."""
    name, _, order = text.rpartition(":")
    if name and order in ("min", "max"):
        return Ranking(name, order == "min")
    return Ranking(text, _is_distance(text))


def _is_distance(name: str) -> bool:
    """Whether a score is a distance by its name; then less is better, unless the user says otherwise."""
    return "distance" in name


def scores_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of an evaluation by their names, such as "success.agents"."""
    scores = {
        key: value for key, value in evaluation.items() if key not in _COUNTS and not key.endswith("_by_eps")
    }
    return {name.replace("/", "."): float(value) for name, value in flatten(scores).items()}


def check_scores(config: MADDPGConfig, spec: EnvSpec, goals: Sequence[Goal], ranking: Ranking | None) -> None:
    """Refuse names of scores that the environment's evaluations do not have.

    Raises:
        BadInput: naming the option, and the nearest name or all.
    """
    asked = [("--stop-at", str(goal), goal.name) for goal in goals]
    asked += [("--keep-best", ranking.name, ranking.name)] if ranking else []
    known = _score_names(config, spec) if asked else []
    for option, shown, name in asked:
        if config.pacing.evaluation_interval_env_steps == 0:
            raise BadInput(option, shown, _NEED_EVALUATIONS)
        if name not in known:
            raise BadInput(option, shown, f"evaluations have no such score; {did_you_mean(name, known)}")
    for goal in goals:
        _check_reachable(goal)


def _check_reachable(goal: Goal) -> None:
    """Refuse a percentage that no evaluation can reach."""
    if goal.name.startswith("success.") and not (goal.value >= 0 if goal.at_most else goal.value <= 100):
        raise BadInput(
            "--stop-at", str(goal), "success is in percent, from 0 to 100; no evaluation reaches that"
        )


def _score_names(config: MADDPGConfig, spec: EnvSpec) -> list[str]:
    """Return the names in the card of an episode that scores nothing, without playing one."""
    agents, landmarks = len(spec.agents), 0
    if config.env.id in MPE2_MODULES:  # no other environment knows distances
        with evaluation_env(config, 1, 0) as env:
            distances = env.final_distances()
            landmarks = 0 if distances is None else distances.shape[2]
    episode = EpisodeReport(
        np.zeros((1, agents)),
        np.ones(1, np.int64),
        np.zeros((1, agents, landmarks), np.float32),
        np.zeros((1, len(spec.measures))),
    )
    minimal = np.zeros((1, 3 if landmarks else 0), np.float32)
    measures = tuple(measure.name for measure in spec.measures)
    return list(scores_of(Scorecard(spec.agents, episode, 1, minimal, measures).to_dict()))
