"""The search for the opponent that gains most against a team: many are tried, the strongest counts.

No search proves that nothing stronger exists. So each result says which opponents were tried and how they
learned, and stands beside what an adversary reaches that knows nothing of the goal, or everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from distributed_maddpg import layouts
from distributed_maddpg.best_response.bounds import adversary_bounds
from distributed_maddpg.best_response.model_free import response_settings, train_responses
from distributed_maddpg.best_response.observer import Effort, views, watch
from distributed_maddpg.best_response.opponents import (
    ADVERSARY,
    Opponent,
    measure,
    play,
    scripted_adversaries,
)
from distributed_maddpg.best_response.recurrent import OBJECTIVES, RecurrentPolicy, recurrent_adversary, train
from distributed_maddpg.best_response.world import AdversaryWorld, GreedyAgents
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import env_spec
from distributed_maddpg.envs.mpe.simple_adversary import AdversaryOptions
from distributed_maddpg.errors import BadInput
from distributed_maddpg.evaluation.episodes import greedy_policy
from distributed_maddpg.evaluation.scorecard import Scorecard
from distributed_maddpg.evaluation.scores import mean_interval
from distributed_maddpg.preflight import check_machine
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import FloatArray

_SEEDS = 2
_MODEL_FREE_UPDATES, _RECURRENT_STEPS, _WATCHER_UPDATES = 2_000, 7_000, 400
"""Of each opponent at a budget of 1. Steps are updates times the steps of an episode, which each takes."""
_ENOUGH_UPDATES, _ENOUGH_STEPS = 100, 5_000
"""Recurrent opponents that learn for less show little."""
_MAX_AGENT_STEPS = 2_500
"""Good agents times steps of an episode; recurrent opponents need memory for all of them at once."""
_RECURRENT = "recurrent"
_LEAST_WATCHED = 0.05
"""Share of the steps that a watcher sees at the smallest budget."""


class _Sizes(NamedTuple):
    """How much is played for each opponent and each watcher, and in how many copies."""

    selection_episodes: int
    watched_env_steps: int
    copies: int


_COMPILED, _PYTHON = _Sizes(2_000, 800_000, 250), _Sizes(200, 100_000, 10)
"""In the compiled environment, whose steps cost next to nothing, and in others."""

Note = Callable[[str], None]


def best_responses(
    config: MADDPGConfig, parameters: FloatArray, before: Scorecard, budget: float, seed: int, note: Note
) -> dict[str, Any]:
    """Search for the strongest opponent of the other teams, in the place of each team in turn.

    Opponents are chosen by one set of start states, and what they reach is measured from another.

    Args:
        config: of the run.
        parameters: [N, P] its policies.
        before: of its greedy episodes with the start states of `seed`, as `MADDPG.scorecard` plays them.
        budget: multiplies the updates of each opponent that learns.
        seed: of the opponents' training and of the start states.
        note: takes a line for display.

    Returns:
        The budget, and for each team its `opponents`; the scorecard of the strongest one by return, with
        the gain in the team's mean return; for the adversary also those of the strongest ones by final
        distance and by success, and the `adversary_bounds`. `optimistic` says that no opponent found much or
        could have: none was recurrent and learned for long enough. `private` holds what `watch` finds.
    """
    torch.set_num_threads(1)  # more threads only wait for each other at these sizes
    search = _Search(_compiled(config, before), parameters, before, budget, seed, note)
    teams = {team: search.strongest(team) for team in dict.fromkeys(search.spec.teams)}
    if before.has_landmarks:
        key = integer_seed(seed, "evaluation", 0)
        teams[ADVERSARY]["bounds"] = adversary_bounds(search.config, parameters, key)
    return {"budget": budget, "teams": teams, "private": search.told()}


def check_budget(config: MADDPGConfig, budget: float) -> None:
    """Refuse a budget with which the opponents need more memory than this machine has.

    Raises:
        BadInput: if they do, or if the run normalises or has layers of its own: opponents read its
            observations as they are, and differentiate its policies as perceptrons.
    """
    for name, used in (("env.normalise", config.env.normalise), (layouts.SETTING, config.algorithm.networks)):
        if used:
            raise BadInput("--best-response", True, f"cannot be used with {name}; leave it out")
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs, config.env.measures)
    try:
        check_machine(response_settings(config, _model_free_updates(budget), 0), spec, _SEEDS)
    except BadInput as error:
        raise BadInput("--budget", budget, f"lower it; for the opponents that it trains, {error}") from None


def _model_free_updates(budget: float) -> int:
    return max(1, round(_MODEL_FREE_UPDATES * budget))


def _compiled(config: MADDPGConfig, before: Scorecard) -> MADDPGConfig:
    """Return the settings with the compiled `simple_adversary`, if that is the environment."""
    if not before.has_landmarks:
        return config
    kwargs = {name: value for name, value in config.env.kwargs.items() if name != "render_mode"}
    env = dataclasses.replace(config.env, backend="vectorized", kwargs=kwargs)
    return dataclasses.replace(config, env=env)


class _Search:
    """The search against one run."""

    def __init__(
        self,
        config: MADDPGConfig,
        parameters: FloatArray,
        before: Scorecard,
        budget: float,
        seed: int,
        note: Note,
    ) -> None:
        self.config, self._parameters, self._before = config, parameters, before
        self._budget, self._seed, self._note = budget, seed, note
        self.spec = env_spec(config.env.id, config.env.backend, config.env.kwargs, config.env.measures)
        self._sizes = _COMPILED if before.has_landmarks else _PYTHON

    def strongest(self, team: str) -> dict[str, Any]:
        """Return what all opponents reach in the place of `team`, and the scorecards of the strongest."""
        own, before = [name == team for name in self.spec.teams], self._before
        opponents = list(self._opponents(team))
        scores = [measure(self._selection(team, opponent), own) for opponent in opponents]
        returns, distances, successes = np.array(scores, np.float64).T
        chosen = {"return": int(returns.argmax())}
        if team == ADVERSARY and before.has_landmarks:
            chosen |= {"final_distance": int(distances.argmin()), "success": int(successes.argmax())}
        strongest: dict[str, Any] = {}
        for criterion, index in chosen.items():
            opponent = opponents[index]
            key, episodes = integer_seed(self._seed, "evaluation", 0), len(before.episodes.returns)
            after = play(self.config, self._parameters, {team: opponent}, episodes, key)
            gains = (after.episodes.returns - before.episodes.returns)[:, own].mean(axis=1)
            card = {"name": opponent.name, "number": opponent.number, **after.with_intervals()}
            card["return_gain"], card["ci95"]["return_gain"] = float(gains.mean()), mean_interval(gains)
            strongest[criterion] = card
        tried = [
            {
                "name": opponent.name,
                "number": opponent.number,
                **score._asdict(),
                "curve": [{"updates": updates, **own._asdict()} for updates, own in opponent.curve],
            }
            for opponent, score in zip(opponents, scores, strict=True)
        ]
        optimistic = not any(map(self._is_strong, opponents))
        return {"opponents": tried, "strongest": strongest, "optimistic": optimistic}

    def told(self) -> dict[str, Any]:
        """Return what opponents can tell of each team's private part."""
        found = {}
        for index, (team, view) in enumerate(views(self.config, self.spec).items()):
            self._note(f"learning to tell the private part of {team} from what its opponents see")
            updates = max(1, round(_WATCHER_UPDATES * self._budget))
            env_steps = round(self._sizes.watched_env_steps * min(1.0, max(_LEAST_WATCHED, self._budget)))
            key = integer_seed(self._seed, "response", 1000 + index)
            effort = Effort(updates, env_steps, self._sizes.copies)
            found[team] = watch(self.config, self._parameters, view, effort, key)
        return found

    def _selection(self, team: str, opponent: Opponent) -> Scorecard:
        seed = integer_seed(self._seed, "evaluation", 1)
        played = (self._sizes.selection_episodes, seed, self._sizes.copies)
        return play(self.config, self._parameters, {team: opponent}, *played)

    def _opponents(self, team: str) -> Iterator[Opponent]:
        yield from self._model_free(team)
        if team == ADVERSARY and self._before.has_landmarks:
            options = AdversaryOptions.from_kwargs(self.config.env.kwargs)
            yield from scripted_adversaries(options)
            if options.N * options.max_cycles <= _MAX_AGENT_STEPS:
                yield from self._recurrent(options)

    def _model_free(self, team: str) -> Iterator[Opponent]:
        updates = _model_free_updates(self._budget)
        self._note(f"training {_SEEDS} new {team} teams by MADDPG: {updates:,} updates")
        index = self.spec.teams.index(team)
        seeds = [integer_seed(self._seed, "response", 10 * index + number) for number in range(_SEEDS)]
        responses = train_responses(self.config, self._parameters, team, updates, seeds)
        for number, response in enumerate(responses):
            act = partial(greedy_policy, self.config, parameters=response.policies)
            yield Opponent("MADDPG", act, number, response.curve)

    def _recurrent(self, options: AdversaryOptions) -> Iterator[Opponent]:
        world = AdversaryWorld(options)
        agents = GreedyAgents(world, self.config.algorithm, self._parameters)
        updates = max(1, round(_RECURRENT_STEPS / options.max_cycles * self._budget))
        for index, objective in enumerate(OBJECTIVES):
            for number in range(_SEEDS):
                self._note(f"training an adversary with memory for its {objective}: {updates:,} updates")
                seed = integer_seed(self._seed, "response", 2000 + 10 * index + number)
                policy, curve = RecurrentPolicy(options, seed), []
                for progress in train(policy, world, agents, objective, updates, seed):
                    curve.append(progress)
                    episode_return, distance, _ = progress.score
                    reached = f"return {episode_return:.2f}, final distance {distance:.3f}"
                    self._note(f"  {progress.updates:,} updates: {reached}")
                act = partial(recurrent_adversary, policy=policy, max_cycles=options.max_cycles)
                yield Opponent(f"{_RECURRENT}, {objective}", act, number, tuple(curve))

    def _is_strong(self, opponent: Opponent) -> bool:
        if not opponent.name.startswith(_RECURRENT):
            return False
        updates = opponent.curve[-1].updates
        steps = updates * AdversaryOptions.from_kwargs(self.config.env.kwargs).max_cycles
        return updates >= _ENOUGH_UPDATES and steps >= _ENOUGH_STEPS
