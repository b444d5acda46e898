"""The rollout worker: steps environments with the policies, and packs transitions with their discounts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.compilation import compiled
from distributed_maddpg.config import AlgorithmConfig, ExplorationConfig, MADDPGConfig
from distributed_maddpg.envs import EnvFactory, make_vector_env
from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.envs.episode_log import EpisodeLog
from distributed_maddpg.envs.finite import all_finite, bad_observation, first_not_finite
from distributed_maddpg.errors import NotReproducible, TrainingError
from distributed_maddpg.layouts import initial_policies
from distributed_maddpg.moments import Moments
from distributed_maddpg.normalisation import FragmentMoments, unknown, with_normaliser
from distributed_maddpg.seeding import generator, integer_seed
from distributed_maddpg.types import (
    Arrays,
    EnvSpec,
    EpisodeReport,
    FloatArray,
    Roster,
    TransitionLayout,
    Weights,
    checked_array,
    checked_count,
    join_states,
    state_part,
)

_MAX_DROPPED_IN_A_ROW = 5
"""Number of consecutive dropped fragments that ends the run; the environment is then taken as broken."""


class _NotFinite(Exception):
    """A value of a fragment is not finite; the message names it."""


@compiled
def _pack_observations(rows: FloatArray, start: int, obs: tuple[FloatArray, ...]) -> None:
    """Write observations `[E, O_i]` side by side into rows `[E, width]`, starting at column `start`."""
    for e in range(rows.shape[0]):
        at = start
        for i in range(len(obs)):
            for k in range(obs[i].shape[1]):
                rows[e, at + k] = obs[i][e, k]
            at += obs[i].shape[1]


@compiled
def pack_rows(
    rows: FloatArray,
    obs_and_next: tuple[tuple[FloatArray, ...], tuple[FloatArray, ...]],
    actions: FloatArray,
    action_sizes: npt.NDArray[np.int64],
    rewards: FloatArray,
    discounts: FloatArray,
) -> None:
    """Write 1-step transitions in the column order of `TransitionLayout`, with few passes over the rows.

    Args:
        rows: [E, width], written up to the discounts.
        obs_and_next: observations before and after the step, [E, O_i] per agent.
        actions: [N, E, A] as the critic sees them; padded columns are skipped.
        action_sizes: [N] the A_i.
        rewards: [E, N].
        discounts: [E, N] gamma, or 0 where the agent terminated.
    """
    num_agents, joint = len(action_sizes), 0
    for i in range(num_agents):
        joint += obs_and_next[0][i].shape[1]
    rewards_at = joint + action_sizes.sum()
    discounts_at = rewards_at + num_agents + joint
    _pack_observations(rows, 0, obs_and_next[0])
    _pack_observations(rows, rewards_at + num_agents, obs_and_next[1])
    for e in range(rows.shape[0]):
        at = joint
        for i in range(num_agents):
            for k in range(action_sizes[i]):
                rows[e, at + k] = actions[i, e, k]
            at += action_sizes[i]
            rows[e, rewards_at + i] = rewards[e, i]
            rows[e, discounts_at + i] = discounts[e, i]


def pack_roster(rows: FloatArray, layout: TransitionLayout, now: Roster, after: Roster) -> None:
    """Write who took part in 1-step transitions, and what they might do, into rows `[E, width]`.

    Args:
        rows: [E, width], of which the other columns are written.
        layout: of the rows.
        now: before the step.
        after: of the observations that the step led to.
    """
    rows[:, layout.present], rows[:, layout.acting] = now.present, now.acting
    rows[:, layout.next_acting] = after.acting
    for agent, (own, following) in enumerate(zip(layout.allowed, layout.next_allowed, strict=True)):
        size = own.stop - own.start
        rows[:, own], rows[:, following] = now.allowed[agent, :, :size], after.allowed[agent, :, :size]


@compiled
def accumulate_n_step(
    rows: FloatArray,
    ended: npt.NDArray[np.bool_],
    n_step: int,
    gamma: np.float32,
    num_agents: int,
    starts: tuple[int, int, int],
) -> None:
    """Turn 1-step transitions into transitions of up to n steps, in place (n-step return, Sutton 1988).

    The discount of k steps is gamma^k, or 0 for an agent that terminated in one of them, whose rewards end
    there. A transition has fewer than n steps if its episode or the fragment ends earlier.

    Args:
        rows: [T, E, width], consecutive steps of the same E copies.
        ended: [T, E] where an episode ended, or transitions must end for another reason.
        n_step: maximum number of steps.
        gamma: discount per step.
        num_agents: N.
        starts: first columns of the rewards, of the discounts, and of what belongs to the first step again.
    """
    rewards_at, discounts_at, end = starts
    for t in range(rows.shape[0]):
        for e in range(rows.shape[1]):
            last, factor = t, np.float32(1.0)
            while last + 1 < min(rows.shape[0], t + n_step) and not ended[last, e]:
                last += 1
                factor *= gamma
                for i in range(num_agents):
                    if rows[t, e, discounts_at + i] != 0.0:
                        rows[t, e, rewards_at + i] += factor * rows[last, e, rewards_at + i]
                        rows[t, e, discounts_at + i] = factor * rows[last, e, discounts_at + i]
            for k in range(rewards_at + num_agents, discounts_at):
                rows[t, e, k] = rows[last, e, k]
            for k in range(discounts_at + num_agents, end):
                rows[t, e, k] = rows[last, e, k]


def describe_column(layout: TransitionLayout, agents: tuple[str, ...], column: int) -> str:
    """Return what a column of a packed row holds, and of which agent, such as "reward of agent_0"."""
    parts = {
        "observation": layout.obs,
        "action": layout.actions,
        "reward": [slice(at, at + 1) for at in range(layout.rewards.start, layout.rewards.stop)],
        "next observation": layout.next_obs,
        "discount": [slice(at, at + 1) for at in range(layout.discounts.start, layout.discounts.stop)],
    }
    return next(
        f"{part} of {agent}"
        for part, columns in parts.items()
        for agent, span in zip(agents, columns, strict=True)
        if span.start <= column < span.stop
    )


class RolloutWorker:
    """E environment copies, the policies that act in them, and their exploration noise."""

    def __init__(
        self,
        algorithm: AlgorithmConfig,
        exploration: ExplorationConfig,
        env: VectorEnv,
        rng: np.random.Generator,
        greedy: Sequence[bool] = (),
        normalise: bool = False,
    ) -> None:
        """Reset `env`; exploration noise is drawn from `rng`, `greedy` agents get none.

        With `normalise`, moments of what is observed are collected for `pop_moments`.
        """
        spec = env.spec
        self._env, self._spec = env, spec
        self._policies = JointPolicy(algorithm, spec, env.num_envs)
        self._explorer = self._policies.add_exploration(exploration, rng, greedy)
        self._episode_log = EpisodeLog(env.num_envs, spec)
        self._action_sizes = np.array(spec.action_sizes)
        self._n_step, self._gamma = algorithm.n_step, np.float32(algorithm.gamma)
        self._moments = FragmentMoments(env.num_envs, spec, algorithm.gamma) if normalise else None
        self._obs = env.reset()
        self._vector_steps = 0
        self._dropped: list[str] = []
        self.weights_version = -1
        """Version of the current weights; -1 before the first `set_weights`."""

    def set_weights(self, weights: Weights) -> None:
        """Use these weights from the next step on.

        Raises:
            TrainingError: if they are not finite; the previous weights stay in use.
        """
        finite = np.isfinite(weights.policies).all(axis=1)
        if not finite.all():
            agent = self._spec.agents[int(finite.argmin())]
            raise TrainingError(
                f"weights version {weights.version}: the policy of {agent} is not finite; "
                "resume from an earlier checkpoint"
            )
        self._policies.set_parameters(weights.policies)
        self.weights_version = weights.version

    def get_state(self) -> Arrays:
        """Return the state of environments, running episodes and noise; the learner keeps the weights."""
        parts = {
            "env": self._env.get_state(),
            "obs": {str(agent): array.copy() for agent, array in enumerate(self._obs)},
            "episodes": self._episode_log.get_state(),
            "exploration": self._explorer.get_state(),
        }
        if self._moments is not None:
            parts["moments"] = self._moments.get_state()
        return {**join_states(parts), "vector_steps": np.array(self._vector_steps)}

    def set_state(self, state: Arrays) -> str:
        """Continue exactly from what `get_state` returned.

        Returns:
            A line for the log if the environment could not be restored and new episodes were started;
            otherwise "".

        Raises:
            ValueError: if the state does not fit this worker's environments.
        """
        self._explorer.set_state(state_part(state, "exploration"))
        self._vector_steps = checked_count(state, "vector_steps")
        try:
            self._env.set_state(state_part(state, "env"))
        except NotReproducible as error:
            self._reset_episodes()
            return f"starts new episodes: {error}"
        sizes = self._spec.observation_sizes
        obs = state_part(state, "obs")
        self._obs = tuple(
            checked_array(obs, str(agent), (self._env.num_envs, size), np.float32)
            for agent, size in enumerate(sizes)
        )
        self._episode_log.set_state(state_part(state, "episodes"))
        if self._moments is not None:
            self._moments.set_state(state_part(state, "moments"))
        return ""

    def close(self) -> None:
        """Release the environments."""
        self._env.close()

    def collect(self, num_steps: int, env_steps: int) -> tuple[FloatArray, EpisodeReport]:
        """Step every copy `num_steps` times.

        If a value is not finite, the fragment is dropped with its episodes, reported by
        `pop_dropped`, and collected again after all copies are reset.

        Args:
            num_steps: T vector steps.
            env_steps: environment steps of the whole run so far, for the exploration schedule.

        Returns:
            Packed transitions `[T * E, width]`, all finite, and the episodes that ended.

        Raises:
            TrainingError: if too many consecutive fragments had to be dropped.
        """
        for _ in range(_MAX_DROPPED_IN_A_ROW):
            before = self._vector_steps
            try:
                return self._collect(num_steps, env_steps)
            except _NotFinite as fault:
                line, num_dropped = str(fault), (self._vector_steps - before) * self._env.num_envs
            self._dropped.append(f"dropped {num_dropped} env steps: {line}")
            self._reset_episodes()
        raise TrainingError(
            f"environment: {_MAX_DROPPED_IN_A_ROW} fragments in a row were not finite, the last: {line}; "
            "check what the environment computes, especially at the bounds of the actions"
        )

    def pop_dropped(self) -> tuple[str, ...]:
        """Return a line per fragment dropped since the last call: size, value, agent, copy, step."""
        lines, self._dropped = tuple(self._dropped), []
        return lines

    def pop_moments(self) -> Moments | None:
        """Return the moments of what was observed since the last call; None without normalisation."""
        return None if self._moments is None else self._moments.pop()

    def _reset_episodes(self) -> None:
        """Reset all copies; random streams continue."""
        self._obs = self._env.reset()
        self._episode_log = EpisodeLog(self._env.num_envs, self._spec)
        self._policies.reset_noise(np.ones(self._env.num_envs, np.bool_))
        if self._moments is not None:
            self._moments.restart()

    def _collect(self, num_steps: int, env_steps: int) -> tuple[FloatArray, EpisodeReport]:
        """Collect one fragment; raise `_NotFinite` at the first value that is not finite."""
        num_envs = self._env.num_envs
        layout = self._spec.transitions
        rows = np.empty((num_steps, num_envs, layout.width), np.float32)
        cut = np.zeros((num_steps, num_envs), np.bool_)
        reports: list[EpisodeReport] = []
        unchecked = True
        for step in range(num_steps):
            # `_step` checks the packed rows, which leave out the first observations after a reset. Policies
            # must not see NaN, because environments refuse NaN actions.
            if unchecked and (line := bad_observation(self._obs, self._spec.agents)):
                raise _NotFinite(f"{line} after vector step {self._vector_steps}")
            report = self._step(rows[step], cut[step], env_steps + step * num_envs)
            unchecked = report is not None
            if report is not None:
                reports.append(report)
        if self._moments is not None:
            self._moments.add(rows, cut)
        if self._n_step > 1:
            starts = layout.rewards.start, layout.discounts.start, layout.present.start
            accumulate_n_step(rows, cut, self._n_step, self._gamma, self._spec.num_agents, starts)
            if not all_finite(rows.reshape(-1, layout.width)):
                raise _NotFinite(f"sum of {self._n_step} rewards before vector step {self._vector_steps}")
        return rows.reshape(num_steps * num_envs, -1), EpisodeReport.concatenate(
            reports, self._spec.num_agents
        )

    def _step(self, rows: FloatArray, cut: npt.NDArray[np.bool_], env_steps: int) -> EpisodeReport | None:
        """Take one vector step; return the episodes that ended, or None.

        Args:
            rows: [E, width] receives the transitions; the discount is gamma, or 0 where the agent terminated.
            cut: [E] receives in which copies an n-step transition must end here: those whose episode ended,
                or in which an agent was truncated, whose value of its last observation counts.
            env_steps: environment steps of the whole run so far.

        Raises:
            _NotFinite: if a value in the rows is not finite.
        """
        roster = self._env.roster()
        actions, env_actions = self._policies.explore(self._obs, env_steps, roster)
        result = self._env.step(env_actions)
        self._vector_steps += 1
        pack_rows(
            rows,
            (self._obs, result.final_obs),
            actions,
            self._action_sizes,
            result.rewards,
            self._gamma * ~result.terminated,
        )
        transition = rows[:, : self._spec.transitions.discounts.stop]
        if not all_finite(transition):
            copy, column = first_not_finite(transition)
            what = describe_column(self._spec.transitions, self._spec.agents, column)
            raise _NotFinite(
                f"{what} in copy {copy} is {rows[copy, column]:g} at vector step {self._vector_steps}"
            )
        self._obs = result.obs
        ended, report = self._episode_log.step(result, self._env)
        cut[:] = ended
        after, following = self._env.final_roster(), self._env.roster()
        if roster is not None and after is not None and following is not None:
            pack_roster(rows, self._spec.transitions, roster, after)
            cut |= (after.present & ~following.present).any(axis=1)
        if report is not None:
            self._policies.reset_noise(ended)
        return report


def make_rollout_worker(
    config: MADDPGConfig,
    index: int,
    incarnation: int = 0,
    greedy: Sequence[bool] = (),
    env_factory: EnvFactory | None = None,
) -> RolloutWorker:
    """Build worker `index` of a run, with its own environment copies, random streams and initial weights.

    Args:
        config: of the run.
        index: of the worker.
        incarnation: 0 for the first worker of this index; a replacement has any other number, so that it
            does not repeat random streams.
        greedy: which agents act without exploration.
        env_factory: creates the environment, if it was given as a callable.
    """
    env = make_vector_env(
        config.env.id if env_factory is None else env_factory,
        config.rollout.num_envs,
        integer_seed(config.seed, "env", index, incarnation),
        backend=config.env.backend,
        measures=config.env.measures,
        **config.env.kwargs,
    )
    rng = generator(config.seed, "exploration", index, incarnation)
    worker = RolloutWorker(config.algorithm, config.exploration, env, rng, greedy, config.env.normalise)
    worker.set_weights(Weights(0, 0, first_policies(config, env.spec)))
    return worker


def first_policies(config: MADDPGConfig, spec: EnvSpec) -> FloatArray:
    """Return the policies `[N, P]` with which a run starts, with `env.normalise` `[N, P + 2 O]`."""
    start = initial_policies(config.algorithm, spec, integer_seed(config.seed, "learner"))
    return with_normaliser(start, unknown(spec)) if config.env.normalise else start
