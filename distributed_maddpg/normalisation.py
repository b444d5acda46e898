"""Normalisation of observations and scaling of rewards, by their running mean and variance.

Rows in the replay buffer stay as the environment gave them. Workers report the moments of what they observed,
the run adds them up, and the learner gets the resulting `normaliser` with each call: it normalises the rows
that it draws, and publishes the means and scales of observations with the policies, behind their parameters.
So everybody who acts with a version of the weights normalises alike.

A normaliser is an array `[N, 2 O + 1]` float32: for each agent the means of its observation's columns, their
scales (1 / standard deviation) and the scale of its rewards, padded with zeros to the widest observation.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.moments import Moments
from distributed_maddpg.types import (
    Arrays,
    EnvSpec,
    FloatArray,
    TransitionLayout,
    checked_array,
)

LIMIT = np.float32(10.0)
"""Normalised observations are clipped to this many standard deviations."""
_EPSILON = 1e-8
"""Added to variances, for columns that do not vary."""


class FragmentMoments:
    """Moments of what a worker sees: observations acted on, and discounted returns, since the last `pop`.

    The columns are the joint observation, then for each agent the sum over its episode so far of its rewards,
    each discounted by its age: `G = gamma G + r`. Agents that are not in the episode are not counted.
    """

    def __init__(self, num_envs: int, spec: EnvSpec, gamma: float) -> None:
        """Start E episodes."""
        self._layout, self._gamma = spec.transitions, gamma
        self._returns = np.zeros((num_envs, spec.num_agents))
        self._agent_of_column = np.r_[
            np.repeat(np.arange(spec.num_agents), spec.observation_sizes), np.arange(spec.num_agents)
        ]
        self._moments = Moments.none(num_columns(spec))

    def add(self, rows: FloatArray, cut: npt.NDArray[np.bool_]) -> None:
        """Add consecutive 1-step transitions.

        Args:
            rows: [T, E, width]
            cut: [T, E] after which returns start again: the last of an episode, or an agent was truncated.
        """
        obs = rows[:, :, : self._layout.obs[-1].stop]
        returns = np.empty((*cut.shape, self._returns.shape[1]))
        for t in range(len(rows)):
            self._returns = self._gamma * self._returns + rows[t, :, self._layout.rewards]
            returns[t] = self._returns
            self._returns[cut[t]] = 0.0
        values = np.concatenate([obs, returns], axis=2).reshape(cut.size, -1)  # [T * E, C]
        counted = None
        if self._layout.varying:
            present = rows[:, :, self._layout.present].reshape(cut.size, -1) > 0  # [T * E, N]
            counted = present[:, self._agent_of_column]
        self._moments = self._moments.merged(Moments.of(values, counted))

    def restart(self) -> None:
        """Begin new episodes in all copies."""
        self._returns[:] = 0.0

    def pop(self) -> Moments:
        """Return the moments since the last call."""
        moments, self._moments = self._moments, Moments.none(len(self._moments.mean))
        return moments

    def get_state(self) -> Arrays:
        """Return the running sums `[E, N]`; moments are popped before a state is saved."""
        return {"returns": self._returns.copy()}

    def set_state(self, state: Arrays) -> None:
        """Continue from what `get_state` returned; ValueError for a wrong shape or type."""
        self._returns = checked_array(state, "returns", self._returns.shape, np.float64)


class RunMoments:
    """The moments that all workers of a run have reported, and the normaliser they give.

    Args:
        spec: of the environment.
        groups: agents with one policy, whose moments are joined: what tells them apart must not be removed.
    """

    def __init__(self, spec: EnvSpec, groups: tuple[tuple[int, ...], ...] = ()) -> None:
        self._spec, self._groups = spec, groups
        self._moments = Moments.none(num_columns(spec))

    def add(self, moments: Moments | None) -> None:
        """Add what a worker reported."""
        if moments is not None:
            self._moments = self._moments.merged(moments)

    def normaliser(self) -> FloatArray:
        """Return the normaliser `[N, 2 O + 1]`; without any moments it makes observations zero."""
        spec, width = self._spec, max(self._spec.observation_sizes)
        joint = sum(spec.observation_sizes)
        own = [
            self._moments.columns(np.r_[columns, joint + agent])
            for agent, columns in enumerate(spec.transitions.obs)
        ]
        for group in self._groups:
            together = reduce(Moments.merged, (own[agent] for agent in group))
            for agent in group:
                own[agent] = together
        array = np.zeros((spec.num_agents, 2 * width + 1), np.float32)
        for row, moments, size in zip(array, own, spec.observation_sizes, strict=True):
            if moments.count.any():
                scales = 1.0 / np.sqrt(moments.variance + _EPSILON)
                row[:size], row[width : width + size], row[-1] = moments.mean[:-1], scales[:-1], scales[-1]
        return array

    def get_state(self) -> Arrays:
        """Return count, means and sums of squared deviations."""
        moments = self._moments
        return {
            "count": moments.count.copy(),
            "mean": moments.mean.copy(),
            "squares": moments.squares.copy(),
        }

    def set_state(self, state: Arrays) -> None:
        """Continue from what `get_state` returned.

        Raises:
            ValueError: naming the array that is missing, of a wrong shape or type, or impossible.
        """
        shape = (len(self._moments.mean),)
        mean, squares = (checked_array(state, name, shape, np.float64) for name in ("mean", "squares"))
        count = checked_array(state, "count", shape, np.int64)
        finite = np.isfinite(mean).all() and np.isfinite(squares).all()
        if not finite or (squares < 0).any() or (count < 0).any():
            raise ValueError("count, mean or squares holds numbers that cannot be moments")
        self._moments = Moments(count, mean, squares)


def run_moments(spec: EnvSpec, config: MADDPGConfig) -> RunMoments | None:
    """Return the moments of a run that has not seen anything; None if it does not normalise."""
    if not config.env.normalise:
        return None
    return RunMoments(spec, spec.homogeneous_groups if config.algorithm.share_policies else ())


def num_columns(spec: EnvSpec) -> int:
    """Return C: columns of the joint observation and a return of each agent."""
    return sum(spec.observation_sizes) + spec.num_agents


def unknown(spec: EnvSpec) -> FloatArray:
    """Return the normaliser of a run that has not seen anything."""
    return RunMoments(spec).normaliser()


def checked_normaliser(state: Arrays, spec: EnvSpec) -> FloatArray:
    """Return the normaliser of a saved state; ValueError unless it fits and is finite."""
    shape = (spec.num_agents, 2 * max(spec.observation_sizes) + 1)
    array: FloatArray = checked_array(state, "normaliser", shape, np.float32)
    if not np.isfinite(array).all():
        raise ValueError("normaliser holds values that are not finite")
    return array


def with_normaliser(policies: FloatArray, normaliser: FloatArray) -> FloatArray:
    """Return policies `[N, P + 2 O]` that normalise: the parameters `[N, P]`, then means and scales."""
    return np.concatenate([policies, normaliser[:, :-1]], axis=1)


def without_normaliser(policies: FloatArray, spec: EnvSpec) -> tuple[FloatArray, FloatArray]:
    """Return the parameters `[N, P]` of policies `[N, P + 2 O]` that normalise, and a normaliser for them.

    The scale of the rewards, which policies do not have, is that of a run that has not seen anything.
    """
    normaliser = unknown(spec)
    own = normaliser.shape[1] - 1
    normaliser[:, :-1] = policies[:, -own:]
    return policies[:, :-own], normaliser


class RowTransform(NamedTuple):
    """What normalises packed rows: `clip((row - shift) * scale, -limit, limit)`, each `[width]`."""

    shift: FloatArray
    scale: FloatArray
    limit: FloatArray
    layout: TransitionLayout

    def apply(self, rows: FloatArray) -> None:
        """Normalise rows `[n, width]` in place."""
        there = observed(rows, self.layout)
        with np.errstate(over="ignore"):  # and is clipped
            rows -= self.shift
            rows *= self.scale
        np.clip(rows, -self.limit, self.limit, out=rows)
        for columns, own in there:
            rows[:, columns] *= own


def observed(rows: Any, layout: TransitionLayout) -> list[tuple[slice, Any]]:
    """Return columns of observations, with whether their agent was there; none if all agents always are.

    The zeros of an absent agent must stay zeros when rows are normalised. Rows do not hold who is there after
    the step, but who acts: another agent whose next observation is zero in all columns counts as absent.

    Args:
        rows: [..., n, width], numpy or torch.
        layout: of the rows.

    Returns:
        Pairs of columns and flags [..., n, 1].
    """
    if not layout.varying:
        return []
    found: list[tuple[slice, Any]] = []
    for agent, (obs, next_obs) in enumerate(zip(layout.obs, layout.next_obs, strict=True)):
        present = rows[..., layout.present][..., agent, None] > 0
        acts = rows[..., layout.next_acting][..., agent, None] > 0
        found += [(obs, present), (next_obs, acts | (rows[..., next_obs] != 0).any(-1)[..., None])]
    return found


def row_transform(normaliser: FloatArray, layout: TransitionLayout) -> RowTransform:
    """Return what normalises the observations of packed rows, and scales their rewards."""
    shift, scale = np.zeros(layout.width, np.float32), np.ones(layout.width, np.float32)
    limit = np.full(layout.width, np.inf, np.float32)
    width = (normaliser.shape[1] - 1) // 2
    for agent, own in enumerate(normaliser):
        for columns in (layout.obs[agent], layout.next_obs[agent]):
            size = columns.stop - columns.start
            shift[columns], scale[columns], limit[columns] = own[:size], own[width : width + size], LIMIT
    scale[layout.rewards] = normaliser[:, -1]
    return RowTransform(shift, scale, limit, layout)
