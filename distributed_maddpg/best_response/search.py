"""The search for the opponent that gains most against a team: many are tried, the strongest counts.

No search proves that nothing stronger exists. So each result says which opponents were tried and how they
learned, and stands beside bounds that hold for every opponent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from distributed_maddpg.best_response.bounds import adversary_bounds
from distributed_maddpg.best_response.model_free import train_responses
from distributed_maddpg.best_response.observer import views, watch
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
from distributed_maddpg.envs.adversary_options import AdversaryOptions
from distributed_maddpg.evaluation.episodes import greedy_policy
from distributed_maddpg.evaluation.scorecard import Scorecard
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import FloatArray

_SEEDS = 2
_MODEL_FREE_UPDATES, _RECURRENT_STEPS, _WATCHER_UPDATES = 2_000, 7_000, 400
"""Of each opponent at a budget of 1. An update of the recurrent ones takes all steps of an episode."""
_LEAST_WATCHED = 0.05
"""Share of the steps that a watcher sees at the smallest budget."""


class _Sizes(NamedTuple):
    """How much is played for each opponent and each watcher."""

    selection_episodes: int
    selection_copies: int
    watched_env_steps: int


_COMPILED, _PYTHON = _Sizes(2_000, 200, 800_000), _Sizes(200, 10, 100_000)
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
        the gain in the team's mean return; for the adversary also that of the strongest one by final
        distance, and the bounds of `adversary_bounds`. `optimistic` says that the only opponents were those
        of `model_free.py`, which find little. `private` holds what `watch` finds.
    """
    torch.set_num_threads(1)  # as the learner does: more threads only wait for each other at these sizes
    spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)
    sizes = _COMPILED if before.has_landmarks else _PYTHON
    search = _Search(_compiled(config, before), parameters, sizes, budget, seed, note)
    found: dict[str, Any] = {"budget": budget, "teams": {}, "private": {}}
    for team in dict.fromkeys(spec.teams):
        found["teams"][team] = search.strongest(team, before)
    if before.has_landmarks:
        key = integer_seed(seed, "evaluation", 0)
        found["teams"][ADVERSARY]["bounds"] = adversary_bounds(search.config, parameters, key)
    for index, (team, view) in enumerate(views(config, spec).items()):
        note(f"learning to tell the private part of {team} from what its opponents see")
        updates = max(1, round(_WATCHER_UPDATES * budget))
        env_steps = round(search.sizes.watched_env_steps * min(1.0, max(_LEAST_WATCHED, budget)))
        key = integer_seed(seed, "response", 1000 + index)
        found["private"][team] = watch(search.config, parameters, view, updates, env_steps, key)
    return found


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
        sizes: _Sizes,
        budget: float,
        seed: int,
        note: Note,
    ) -> None:
        self.config, self._parameters, self.sizes = config, parameters, sizes
        self._budget, self._seed, self._note = budget, seed, note
        self._spec = env_spec(config.env.id, config.env.backend, config.env.kwargs)

    def strongest(self, team: str, before: Scorecard) -> dict[str, Any]:
        """Return what all opponents reach in the place of `team`, and the scorecards of the strongest."""
        own = [name == team for name in self._spec.teams]
        opponents = list(self._opponents(team, before.has_landmarks))
        scores = [measure(self._selection(team, opponent), own) for opponent in opponents]
        chosen = {"return": int(np.argmax([score.episode_return for score in scores]))}
        distances = [score.final_distance for score in scores if score.final_distance is not None]
        if team == ADVERSARY and distances:
            chosen["final_distance"] = int(np.argmin(distances))
        strongest: dict[str, Any] = {}
        for criterion, index in chosen.items():
            opponent = opponents[index]
            key, episodes = integer_seed(self._seed, "evaluation", 0), len(before.episodes.returns)
            after = play(self.config, self._parameters, {team: opponent}, episodes, key)
            gain = measure(after, own).episode_return - measure(before, own).episode_return
            named = {"name": opponent.name, "seed": opponent.seed, "return_gain": gain}
            strongest[criterion] = {**named, **after.with_intervals()}
        tried = [
            {
                "name": opponent.name,
                "seed": opponent.seed,
                **score._asdict(),
                "curve": [{"updates": updates, **own._asdict()} for updates, own in opponent.curve],
            }
            for opponent, score in zip(opponents, scores, strict=True)
        ]
        optimistic = not (team == ADVERSARY and before.has_landmarks)
        return {"opponents": tried, "strongest": strongest, "optimistic": optimistic}

    def _selection(self, team: str, opponent: Opponent) -> Scorecard:
        episodes, copies, _ = self.sizes
        seed = integer_seed(self._seed, "evaluation", 1)
        return play(self.config, self._parameters, {team: opponent}, episodes, seed, copies)

    def _opponents(self, team: str, has_landmarks: bool) -> Iterator[Opponent]:
        yield from self._model_free(team)
        if team == ADVERSARY and has_landmarks:
            options = AdversaryOptions.from_kwargs(self.config.env.kwargs)
            yield from scripted_adversaries(options)
            yield from self._recurrent(options)

    def _model_free(self, team: str) -> Iterator[Opponent]:
        updates = max(1, round(_MODEL_FREE_UPDATES * self._budget))
        self._note(f"training {_SEEDS} new {team} teams by MADDPG: {updates:,} updates")
        index = self._spec.teams.index(team)
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
                    episode_return, distance = progress.score
                    reached = f"return {episode_return:.2f}, final distance {distance:.3f}"
                    self._note(f"  {progress.updates:,} updates: {reached}")
                act = partial(recurrent_adversary, policy=policy, max_cycles=options.max_cycles)
                yield Opponent(f"recurrent, {objective}", act, number, tuple(curve))
