"""What can be told about a private part of an observation by whoever watches.

A classifier sees the history of what a team's opponents observe and says, before each step, which candidate
stands in the private part of the team's observation. It needs no reward and works in any environment that
says what is private.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.evaluation.episodes import evaluation_env, greedy_policy
from distributed_maddpg.types import EnvSpec, FloatArray, PrivatePart

_HIDDEN, _BATCH, _LEARNING_RATE = 64, 512, 0.02
_MAX_NUMBERS = 16_000_000
"""Observed in all steps together."""
_MAX_STEPS = 100
"""Longer episodes are watched up to this step."""
_IGNORED = -100
"""`cross_entropy` leaves such labels out."""


class View(NamedTuple):
    """Who watches what."""

    agent: int
    part: PrivatePart
    """The agent's, which the opponents should not learn."""
    opponents: tuple[int, ...]
    """They tell each other what they observe."""
    width: int
    """Numbers that they observe together in a step."""


class Effort(NamedTuple):
    """How long a classifier learns, and from how much."""

    updates: int
    """Gradient steps."""
    env_steps: int
    """Of the episodes that it learns from, fewer where observations are long; a quarter as many test it."""
    copies: int
    """Of the environment."""


class Histories(NamedTuple):
    """Episodes as the opponents saw them."""

    obs: Tensor
    """[n, T, O] what the opponents observe, joined; zero after the end of an episode."""
    candidates: Tensor
    """[n, T] which candidate stood in the private part; `_IGNORED` after the end."""


def views(config: MADDPGConfig, spec: EnvSpec) -> dict[str, View]:
    """Return, for each team with a private part and opponents, its first agent with one as they see it."""
    parts, found = config.algorithm.private_parts(spec), {}
    for agent, (team, part) in enumerate(zip(spec.teams, parts, strict=True)):
        opponents = tuple(i for i, other in enumerate(spec.teams) if other != team)
        if part and opponents and team not in found:
            width = sum(spec.observation_sizes[i] for i in opponents)
            found[team] = View(agent, part, opponents, width)
    return found


def watch(
    config: MADDPGConfig, parameters: FloatArray, view: View, effort: Effort, seed: int
) -> dict[str, Any]:
    """Train a classifier on the greedy episodes of a run, and test it on new ones.

    Args:
        config: of the run.
        parameters: [N, P] its policies.
        view: who watches what.
        effort: of the classifier.
        seed: of episodes and of the classifier.

    Returns:
        Before each step of an episode, in percent: how often the classifier was right (`accuracy`), the mean
        `probability` that it gave to the truth, and the accuracy of always naming the most frequent
        candidate (`chance`).
    """
    env_steps, copies = min(effort.env_steps, _MAX_NUMBERS // view.width), effort.copies
    training = histories(config, parameters, view, env_steps, copies, seed)
    classifier = _train(training, len(view.part.choices), effort.updates, seed)
    test = histories(config, parameters, view, env_steps // 4, copies, seed + 1)
    counted = test.candidates != _IGNORED
    truth = test.candidates.clamp(min=0)
    with torch.no_grad():
        probabilities = torch.softmax(classifier(test.obs), dim=2)
    right = (probabilities.argmax(dim=2) == truth) & counted
    given = probabilities.gather(2, truth[:, :, None]).squeeze(2) * counted
    frequencies = (nn.functional.one_hot(truth, len(view.part.choices)) * counted[:, :, None]).sum(dim=0)
    per_step = 100.0 / counted.sum(dim=0).clamp(min=1)
    return {
        "chance": (frequencies.amax(dim=1) * per_step).tolist(),
        "accuracy": (right.sum(dim=0) * per_step).tolist(),
        "probability": (given.sum(dim=0) * per_step).tolist(),
    }


def histories(
    config: MADDPGConfig, parameters: FloatArray, view: View, env_steps: int, copies: int, seed: int
) -> Histories:
    """Play greedy episodes with policies `[N, P]` for `env_steps` steps of all copies together."""
    with evaluation_env(config, copies, seed, copies) as env:
        act, obs = greedy_policy(config, env, parameters), env.reset()
        seen, candidates, ended = [], [], []
        for _ in range(max(1, env_steps // copies)):
            seen.append(np.concatenate([obs[opponent] for opponent in view.opponents], axis=1))
            candidates.append(_candidate(obs[view.agent], view.part))
            if (roster := env.roster()) is not None:
                candidates[-1][~roster.present[:, view.agent]] = _IGNORED
            result = env.step(act(obs))
            ended.append(result.truncated | result.terminated.all(axis=1))
            obs = result.obs
    return _in_episodes(np.stack(seen), np.stack(candidates), np.stack(ended))


def _candidate(obs: FloatArray, part: PrivatePart) -> npt.NDArray[np.int64]:
    """Return which candidate stands in the private part, or is nearest to it, of observations `[E, O]`."""
    private = obs[:, slice(*part.columns)]
    constants = np.array([constants for _, constants in part.choices], np.float32)
    known = np.concatenate([obs, np.broadcast_to(constants.ravel(), (len(obs), constants.size))], axis=1)
    apart = [np.square(known[:, places] - private).sum(axis=1) for places in part.places(0, obs.shape[1])]
    nearest: npt.NDArray[np.int64] = np.stack(apart).argmin(axis=0)
    return nearest


def _in_episodes(
    obs: FloatArray, candidates: npt.NDArray[np.int64], ended: npt.NDArray[np.bool_]
) -> Histories:
    """Divide the steps `[S, E, ...]` of E copies into episodes."""
    spans = [
        (copy, start, min(stop, start + _MAX_STEPS))
        for copy in range(ended.shape[1])
        for start, stop in pairwise((0, *(1 + np.flatnonzero(ended[:-1, copy])), len(ended)))
    ]
    longest = max(stop - start for _, start, stop in spans)
    found = Histories(
        torch.zeros(len(spans), longest, obs.shape[2]),
        torch.full((len(spans), longest), _IGNORED),
    )
    for row, (copy, start, stop) in enumerate(spans):
        found.obs[row, : stop - start] = torch.from_numpy(obs[start:stop, copy])
        found.candidates[row, : stop - start] = torch.from_numpy(candidates[start:stop, copy])
    return found


class _Classifier(nn.Module):
    """From the history of observations to logits of the candidates, step by step."""

    def __init__(self, obs: Tensor, num_candidates: int) -> None:
        """Build it for observations like those of histories `obs [n, T, O]`."""
        super().__init__()
        inputs = _with_changes(obs)
        self._mean, self._std = inputs.mean(dim=(0, 1)), inputs.std(dim=(0, 1)) + 1e-6
        self.encode = nn.Linear(inputs.shape[2], _HIDDEN)
        self.memory = nn.GRU(_HIDDEN, _HIDDEN, batch_first=True)
        self.candidates = nn.Linear(_HIDDEN, num_candidates)

    def forward(self, obs: Tensor) -> Tensor:
        """Return logits `[n, T, C]` for histories `[n, T, O]`."""
        encoded = torch.relu(self.encode((_with_changes(obs) - self._mean) / self._std))
        logits: Tensor = self.candidates(self.memory(encoded)[0])
        return logits


def _with_changes(obs: Tensor) -> Tensor:
    """Return `[n, T, 2 O]`: observations `[n, T, O]` and what changed in them since the step before."""
    changes = torch.diff(obs, dim=1, prepend=obs[:, :1])
    return torch.cat((obs, changes), dim=2)


def _train(training: Histories, num_candidates: int, updates: int, seed: int) -> _Classifier:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = _Classifier(training.obs, num_candidates)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, updates)
    for _ in range(updates):
        rows = torch.randint(len(training.obs), (_BATCH,), generator=generator)
        logits = classifier(training.obs[rows]).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, training.candidates[rows].flatten(), ignore_index=_IGNORED)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return classifier
