"""Any PettingZoo or Gymnasium environment as a vector environment, stepped copy by copy.

An AEC environment whose agents act at once is converted to a parallel one. If its agents take turns, each
step is a move, in which the others do not act. A Gymnasium environment has one agent, agent_0.

Every episode starts with `reset(seed=...)` and a seed from the copy's own random stream. So an environment
with unknown internals can be saved without pickle: as the episode's seed and the actions since its start.
This requires that the environment honours its seed, and that episodes end, because their actions are kept in
memory.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from pettingzoo import AECEnv
from pettingzoo.utils.conversions import aec_to_parallel

from distributed_maddpg.envs import streams
from distributed_maddpg.envs.base import (
    Actions,
    Observations,
    State,
    StepResult,
    VectorEnv,
    check_keys,
    checked_integers,
    count_error,
)
from distributed_maddpg.envs.gymnasium import SingleAgentEnv
from distributed_maddpg.envs.masks import (
    MaskedObservationCodec,
    find_mask,
    has_mask,
    unmasked_observation_codec,
)
from distributed_maddpg.envs.measures import EpisodeMeasures
from distributed_maddpg.envs.roster import RosterLog
from distributed_maddpg.envs.spaces import (
    ActionCodec,
    ObservationCodec,
    action_codec,
    as_array,
    warn_of_unbounded,
)
from distributed_maddpg.envs.turns import TurnBasedEnv
from distributed_maddpg.errors import BadInput, EnvironmentFailed, NotReproducible, reason
from distributed_maddpg.seeding import pack_generator
from distributed_maddpg.types import EnvSpec, FloatArray, Roster, checked_array

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints to stdout, which carries JSON

_INT31_LIMIT = 2**31
_INITIAL_HISTORY_STEPS = 32
_NUMBERS, _FLAGS = (float, int, np.floating, np.integer), (bool, np.bool_)
_RESET = ("observations", "infos")
_STEP = ("observations", "rewards", "terminations", "truncations", "infos")
_RESET_REMEDY = "its reset needs a seed: def reset(self, seed=None, options=None)"
_NO_SEED = re.compile(r"reset\(\) got an unexpected keyword argument '(seed|options)'")
_RESERVED_NAMES = ("env_steps", "updates", "episodes")  # other columns of returns.csv

# Observations, rewards, of each agent whether it terminated and whether it was truncated, and infos.
_Step = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, tuple[bool, bool]], Mapping[str, Any]]


class PettingZooVectorEnv(VectorEnv):
    """E copies of an environment, whose agents may come and leave during an episode.

    Args:
        factory: creates one copy.
        num_envs: E.
        seed: copy i draws its episode seeds from `streams.stream(seed, i)`, whatever E is.
        env_id: name of the environment in errors.
        measures: keys of infos that are measures, beside those that the environment declares.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        num_envs: int,
        seed: int,
        env_id: str = "env",
        measures: Sequence[str] = (),
    ) -> None:
        self.num_envs = num_envs
        made = [factory() for _ in range(num_envs)]
        self._id = env_id
        if len({id(env) for env in made}) < num_envs:
            raise BadInput(
                "env.id", env_id, "returns the same environment twice; make a new one in each call"
            )
        self.envs = tuple(map(self._as_parallel, made))
        (agents, self.action_codecs, self._obs_codecs), *others = map(self._agents_and_codecs, self.envs)
        if any(other != (agents, self.action_codecs, self._obs_codecs) for other in others):
            raise BadInput("env.id", env_id, "makes copies with different agents or spaces")
        warn_of_unbounded(env_id, self.action_codecs)
        self._episode_measures = EpisodeMeasures(env_id, made[0], measures, num_envs)
        self.spec = EnvSpec(
            agents,
            tuple(codec.size for codec in self._obs_codecs),
            tuple(codec.size for codec in self.action_codecs),
            tuple(codec.kind for codec in self.action_codecs),
            varying=len(agents) > 1,  # nobody says in advance whether all stay to the end
            masked=self._masked(factory),
            measures=self._episode_measures.measures,
        )
        self._rosters = RosterLog(env_id, self.action_codecs, bool(self.spec.masked), num_envs)
        self._streams = [streams.stream(seed, copy) for copy in range(num_envs)]
        self._episode_seed = np.zeros(num_envs, np.int64)
        self._episode_step = np.zeros(num_envs, np.int64)
        self._steps_begun = [0] * num_envs  # of each copy's episode; only for errors
        self._action_history = [codec.zeros(num_envs, _INITIAL_HISTORY_STEPS) for codec in self.action_codecs]
        self._started = False

    def _as_parallel(self, env: Any) -> Any:
        """Return one copy with the parallel API."""
        if isinstance(env, AECEnv):
            at_once = (getattr(env, "metadata", None) or {}).get("is_parallelizable")
            return aec_to_parallel(env) if at_once else TurnBasedEnv(env)
        single = isinstance(env, gymnasium.Env) and not hasattr(env, "possible_agents")
        return SingleAgentEnv(env) if single else env

    def _agents_and_codecs(
        self, env: Any
    ) -> tuple[tuple[str, ...], list[ActionCodec], list[ObservationCodec | MaskedObservationCodec]]:
        """Return names of one copy's agents and what converts their actions and observations."""
        given = getattr(env, "possible_agents", ())
        agents = () if isinstance(given, str) else tuple(given)
        if not agents:
            raise BadInput("env.id", self._id, "the environment has no possible_agents")
        for agent in agents:
            if not isinstance(agent, str) or not agent or not agent.isprintable():
                raise BadInput("env.id", self._id, f"the agent {agent!r} must have a printable name")
            if agent in _RESERVED_NAMES or agents.count(agent) > 1:
                raise BadInput("env.id", self._id, f"the name {agent!r} of an agent is already taken")
        actions = [action_codec(self._id, agent, env.action_space(agent)) for agent in agents]
        observations = [
            unmasked_observation_codec(self._id, agent, env.observation_space(agent), codec.kind)
            for agent, codec in zip(agents, actions, strict=True)
        ]
        return agents, actions, observations

    def _masked(self, factory: Callable[[], Any]) -> tuple[bool, ...]:
        """Return which agents have action masks: none, or all discrete ones, if any has one at the start."""
        discrete = [codec.agent for codec in self.action_codecs if codec.kind == "discrete"]
        found = any(has_mask(self.envs[0].observation_space(agent)) for agent in discrete)
        if discrete and not found:
            infos = self._first_infos(factory)
            found = any(find_mask(None, infos.get(agent)) is not None for agent in discrete)
        return tuple(codec.kind == "discrete" for codec in self.action_codecs) if found else ()

    def _first_infos(self, factory: Callable[[], Any]) -> Mapping[str, Any]:
        """Return the infos of an episode's start, of a copy that is closed again."""
        try:
            env = self._as_parallel(factory())
            infos = env.reset(seed=0)[1]
            env.close()
        except (Exception, SystemExit, GeneratorExit):  # noqa: BLE001 - fails again, and is reported
            return {}
        return _infos(infos)

    def reset(self, seed: int | None = None) -> Observations:
        """Start a new episode in every copy; with `seed`, re-seed all random streams first."""
        if seed is not None:
            self._seed_streams(seed)
        obs = self._empty_obs()
        self._rosters.begin_step()
        for e in range(self.num_envs):
            self._start_episode(e, obs)
        self._started = True
        return obs

    def step(self, actions: Actions) -> StepResult:
        """Step every copy once; copies in which all agents ended are reset at once.

        Args:
            actions: per agent [E, A_i] floats (clipped to [0, 1], then scaled to the space) or [E] integers;
                those of agents that do not act are ignored.

        Returns:
            See `StepResult`. Flags of `terminated` stay set until the episode is over for all agents.

        Raises:
            ValueError: for an invalid action; the environment is unchanged.
            BadInput: if an environment does not keep to PettingZoo's parallel API.
            EnvironmentFailed: if a copy raises anything; names the copy and the step of its episode.
        """
        if not self._started:
            raise RuntimeError("call reset() or set_state() before step()")
        if len(actions) != len(self.agents):
            raise count_error(len(actions), len(self.agents))
        taken = [
            codec.checked(array, self.num_envs)
            for codec, array in zip(self.action_codecs, actions, strict=True)
        ]
        rewards, final_obs = np.zeros((self.num_envs, len(self.agents)), np.float32), self._empty_obs()
        over, rosters = np.zeros(self.num_envs, np.bool_), self._rosters
        rosters.begin_step()
        for e in range(self.num_envs):
            observations, reward, ends, infos = self._step_copy(e, [array[e] for array in taken])
            with np.errstate(over="ignore"):  # the worker drops values beyond float32's range
                rewards[e] = [self._number(reward.get(agent, 0.0), agent) for agent in self.agents]
            before = rosters.now.present[e].copy()
            rewards[e, ~before] = 0.0
            over[e] = rosters.step(e, ends, self._listed(e), self._on_turn(e))
            self._write_observations(observations, final_obs, e, rosters.is_observed(e, before, observations))
            rosters.set_allowed(e, observations, infos)
        terminated = rosters.terminated.copy()
        truncated = over & ~terminated.all(axis=1)
        still = self._without_absent(final_obs, over)
        obs = self._reset_ended_copies(np.flatnonzero(over).tolist(), still)
        return StepResult(obs, rewards, terminated, truncated, final_obs)

    def get_state(self) -> State:
        """Return generators, episode seeds and the actions of the running episodes.

        Returns:
            generator_state [E, 6] uint64, episode_seed [E], episode_step [E], and per agent `actions_<agent>`
            [E, T, A_i] or [E, T], where T is the length of the longest running episode; shorter ones are
            padded with zeros.
        """
        if not self._started:
            raise RuntimeError("call reset() before get_state()")
        length = int(self._episode_step.max())
        state: State = {
            "generator_state": np.stack([pack_generator(generator) for generator in self._streams]),
            "episode_seed": self._episode_seed.copy(),
            "episode_step": self._episode_step.copy(),
        }
        past = np.arange(length) >= self._episode_step[:, None]  # [E, T]
        for agent, history in zip(self.agents, self._action_history, strict=True):
            actions = history[:, :length].copy()
            actions[past] = 0
            state[f"actions_{agent}"] = actions
        return state

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue exactly from a saved state: reset each copy with its episode seed, replay its actions.

        Raises:
            ValueError: names the array that is missing, unknown, of a wrong shape or out of range.
            NotReproducible: if an environment does not honour its seed; call `reset` to continue.
        """
        names = [f"actions_{agent}" for agent in self.agents]
        check_keys(state, ["generator_state", "episode_seed", "episode_step", *names])
        packed = streams.checked_generator_states(state, self.num_envs)
        seeds = checked_integers(state, "episode_seed", (self.num_envs,), _INT31_LIMIT)
        steps = checked_integers(state, "episode_step", (self.num_envs,), _INT31_LIMIT)
        replayed = self._checked_history(state, int(steps.max()))
        self._streams = [streams.unpack(row) for row in packed]
        self._started = True
        self._rosters.begin_step()
        for e in range(self.num_envs):
            self._rosters.set_first_allowed(e, *self._reset_copy_with_seed(e, int(seeds[e])))
            for t in range(int(steps[e])):
                ended = self._replay_step(e, [array[e, t] for array in replayed])
                if ended:
                    raise NotReproducible(
                        f"copy {e} ended while its actions were replayed: {self._id} does not honour its seed"
                    )

    def _replay_step(self, e: int, actions: list[Any]) -> bool:
        """Step one copy with a saved action; return whether its episode ended."""
        try:
            observations, _, ends, infos = self._step_copy(e, actions)
            over = self._rosters.step(e, ends, self._listed(e), self._on_turn(e))
            self._rosters.set_allowed(e, observations, infos)
        except Exception as error:  # an environment may raise anything for a damaged state
            cause = reason(error)
            raise ValueError(f"copy {e} raised while its saved actions were replayed ({cause})") from error
        return over

    def roster(self) -> Roster | None:
        """Return who takes part in the next step; None for one agent without action masks."""
        return self._rosters.now if self.spec.varying or self.spec.masked else None

    def final_roster(self) -> Roster | None:
        """Return who would have acted on the last observations of the latest step, see `VectorEnv`."""
        return self._rosters.final if self.spec.varying or self.spec.masked else None

    def final_distances(self) -> FloatArray | None:
        """Return None: landmarks of a PettingZoo environment are unknown."""
        return None

    def final_measures(self) -> npt.NDArray[np.float64]:
        """Return the measures [E, K] of each copy's latest finished episode."""
        return self._episode_measures.final

    def numbers_in_infos(self) -> list[str]:
        """Return the keys of numbers in the infos of the latest step, of which no measure is made."""
        return self._episode_measures.unused_numbers()

    def close(self) -> None:
        """Close every copy."""
        for env in self.envs:
            env.close()

    def _seed_streams(self, seed: int) -> None:
        self._streams = [streams.stream(seed, copy) for copy in range(self.num_envs)]

    def _start_episode(self, e: int, obs: Observations) -> None:
        """Start the next episode of one copy, and write its first observations."""
        first, infos = self._reset_copy(e)
        self._write_observations(first, obs, e, self._rosters.now.present[e].tolist())
        self._rosters.set_first_allowed(e, first, infos)

    def _reset_copy(self, e: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Reset one copy; return its first observations and infos."""
        return self._reset_copy_with_seed(e, int(self._streams[e].integers(_INT31_LIMIT)))

    def _reset_copy_with_seed(self, e: int, episode_seed: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        self._episode_seed[e], self._episode_step[e] = episode_seed, 0
        return self._begin_episode(self._reset_with_seed(e, episode_seed), e)

    def _reset_with_seed(self, e: int, episode_seed: int) -> Any:
        """Return what an environment's reset returns; BadInput if it takes no seed."""
        env = self.envs[e]
        try:
            return env.reset(seed=episode_seed)
        except BadInput:
            raise
        except Exception as error:  # an environment may raise anything
            # The message tells of the environment inside a wrapper.
            unseeded = not _takes_seed(env.reset) or _NO_SEED.search(str(error))
            if isinstance(error, TypeError) and unseeded:
                raise BadInput("env.id", self._id, _RESET_REMEDY) from error
            raise EnvironmentFailed.at(error, e, 0) from error

    def _begin_episode(self, reset_result: Any, e: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Note who starts an episode; return the first observations and the infos."""
        observations, infos = self._parts(reset_result, "reset", _RESET)
        self._steps_begun[e] = 0
        self._episode_measures.start(e)
        self._rosters.reset(e, self._listed(e), self._on_turn(e))
        return self._by_agent(observations, "reset", _RESET), _infos(infos)

    def _listed(self, e: int) -> Collection[str]:
        """Return who is in the episode of one copy, by the environment."""
        return tuple(self.envs[e].agents or ())

    def _on_turn(self, e: int) -> Collection[str] | None:
        """Return who acts next in one copy; None for all."""
        env = self.envs[e]
        return env.agents_on_turn if isinstance(env, TurnBasedEnv) else None

    def _parts(self, result: Any, call: str, names: tuple[str, ...]) -> Sequence[Any]:
        """Return what a call returned; BadInput unless it is what the parallel API prescribes."""
        if not isinstance(result, tuple | list) or len(result) != len(names):
            raise BadInput("env.id", self._id, f"its {call} must return ({', '.join(names)})")
        return result

    def _number(self, reward: Any, agent: str) -> float | np.number[Any]:
        """Return a reward that may be an array of one number."""
        if isinstance(reward, _NUMBERS):
            return reward
        value = as_array(reward)
        if value.size != 1 or value.dtype.kind not in "fiub":
            raise BadInput("env.id", self._id, f"{agent} got the reward {reward!r}; it must be one number")
        number: float = value.item()
        return number

    def _flag(self, end: Any, agent: str) -> bool:
        """Return a termination or truncation that may be an array of one flag."""
        if isinstance(end, _FLAGS):
            return bool(end)
        value = as_array(end)
        if value.size != 1 or value.dtype.kind not in "fiub":
            remedy = f"{agent} got the termination or truncation {end!r}; it must be true or false"
            raise BadInput("env.id", self._id, remedy)
        return bool(value.item())

    def _step_copy(self, e: int, actions: list[Any]) -> _Step:
        """Record the actions and step one copy; return what `_Step` says."""
        self._record_actions(e, actions)
        self._steps_begun[e] += 1
        decoded = zip(self.agents, self.action_codecs, actions, self._rosters.now.acting[e], strict=True)
        taken = {agent: codec.decode(a) for agent, codec, a, acts in decoded if acts}
        try:
            returned = self.envs[e].step(taken)
        except BadInput:
            raise
        except Exception as error:  # as for a reset
            raise EnvironmentFailed.at(error, e, self._steps_begun[e]) from error
        *parts, infos = self._parts(returned, "step", _STEP)
        observations, rewards, terminations, truncations = (
            part if type(part) is dict else self._by_agent(part, "step", _STEP) for part in parts
        )
        ends = {}
        for agent, present in zip(self.agents, self._rosters.now.present[e].tolist(), strict=True):
            for name, part in zip(_STEP[1:4], (rewards, terminations, truncations), strict=True):
                if present and agent not in part:
                    raise BadInput("env.id", self._id, f"its step returned no {name} of {agent}")
            if agent in terminations and agent in truncations:
                ends[agent] = self._flag(terminations[agent], agent), self._flag(truncations[agent], agent)
        self._episode_measures.step(e, infos)
        return observations, rewards, ends, _infos(infos)

    def _by_agent(self, part: Any, call: str, names: tuple[str, ...]) -> Mapping[str, Any]:
        """Return a part of what a call returned; BadInput unless it is a dict."""
        if not isinstance(part, Mapping):
            remedy = f"its {call} must return ({', '.join(names)}), each a dict with a value for each agent"
            raise BadInput("env.id", self._id, remedy)
        return part

    def _record_actions(self, e: int, actions: list[Any]) -> None:
        t = int(self._episode_step[e])
        if t == self._action_history[0].shape[1]:
            self._action_history = [
                np.concatenate([old, np.zeros_like(old)], axis=1) for old in self._action_history
            ]
        for history, action in zip(self._action_history, actions, strict=True):
            history[e, t] = action
        self._episode_step[e] = t + 1

    def _reset_ended_copies(self, ended: list[int], final_obs: Observations) -> Observations:
        """Reset the copies whose episode ended; return the current observations of all copies."""
        if not ended:
            return final_obs
        obs = tuple(array.copy() for array in final_obs)
        for e in ended:
            self._episode_measures.end(e)
            self._start_episode(e, obs)
        return obs

    def _without_absent(self, final_obs: Observations, over: npt.NDArray[np.bool_]) -> Observations:
        """Return observations in which those of agents that were truncated before the others are zeros."""
        rosters = self._rosters
        gone = rosters.final.present & ~rosters.now.present & ~over[:, None]
        if not gone.any():
            return final_obs
        return tuple(
            np.where(own[:, None], np.float32(0), o) for own, o in zip(gone.T, final_obs, strict=True)
        )

    def _checked_history(self, state: Mapping[str, npt.NDArray[Any]], length: int) -> list[npt.NDArray[Any]]:
        """Return the saved actions of each agent after checking shape, type and values."""
        histories = []
        for agent, codec in zip(self.agents, self.action_codecs, strict=True):
            one = codec.zeros(1, 1)  # not of the saved length, which may be any number
            shape = (self.num_envs, length, *one.shape[2:])
            array = checked_array(dict(state), f"actions_{agent}", shape, one.dtype)
            for t in range(length):
                codec.checked(array[:, t], self.num_envs)
            histories.append(array)
        return histories

    def _empty_obs(self) -> Observations:
        return tuple(np.empty((self.num_envs, codec.size), np.float32) for codec in self._obs_codecs)

    def _write_observations(
        self, observations: Mapping[str, Any], obs: Observations, e: int, observed: list[bool]
    ) -> None:
        """Write one copy's observations of some agents, and zeros for the others."""
        each = zip(self.agents, self._obs_codecs, obs, observed, strict=True)
        with np.errstate(over="ignore"):  # as for rewards
            for agent, codec, array, own in each:
                if not own:
                    array[e] = 0.0
                elif agent in observations:
                    codec.encode(observations[agent], array[e])
                else:
                    call = "step" if self._steps_begun[e] else "reset"
                    raise BadInput("env.id", self._id, f"its {call} returned no observation of {agent}")


def _infos(infos: Any) -> Mapping[str, Any]:
    """Return infos, or none where an environment returned something else."""
    return infos if isinstance(infos, Mapping) else {}


def _takes_seed(reset: Callable[..., Any]) -> bool:
    """Return whether a reset can be called with a seed; True where its parameters are unknown."""
    try:
        inspect.signature(reset).bind(seed=0)
    except TypeError:
        return False
    except ValueError:  # written in C
        return True
    return True
