"""The public class: train, evaluate, save, restore and act."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.inputs import roster_of_masks, stacked_observations
from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint, save_checkpoint
from distributed_maddpg.config import EnvConfig, MADDPGConfig
from distributed_maddpg.config.sections import require
from distributed_maddpg.envs import EnvFactory, factory_id, is_factory_id
from distributed_maddpg.errors import BadInput, CheckpointError, StageError, TrainingError
from distributed_maddpg.evaluation.episodes import evaluate_weights
from distributed_maddpg.evaluation.scorecard import Evaluation, Scorecard
from distributed_maddpg.metrics import digest
from distributed_maddpg.normalisation import without_normaliser
from distributed_maddpg.pacing import Pacer
from distributed_maddpg.preflight import (
    check_acts,
    check_environment_allowed,
    check_environment_runs,
    check_finite,
    check_machine,
    check_networks_allowed,
    check_settings,
    checked_action_codecs,
    checkpoint_settings,
    incompatibility,
)
from distributed_maddpg.seeding import generator, integer_seed, pack_generator, restore_generator
from distributed_maddpg.types import (
    Arrays,
    EnvSpec,
    FaultEvent,
    FloatArray,
    RunState,
    Weights,
    checked_array,
    checked_count,
    join_states,
    state_part,
)

if TYPE_CHECKING:
    from distributed_maddpg.envs.spaces import ActionCodec

MAX_SEEDS = 1_000
_WEIGHT_PARTS = (
    "policy",
    "critic",
    "target_policy",
    "target_critic",
    "critic2",
    "target_critic2",
    "normaliser",
)


class Runner(Protocol):
    """The interface of `SerialRunner` and `RayRunner`."""

    pacer: Pacer

    @property
    def device(self) -> str:
        """Where the learner runs."""

    @property
    def device_reason(self) -> str:
        """The setting that chose the device, and the rates of both devices where both were timed."""

    def run(self, stop: Callable[[], bool]) -> bool:
        """Train until a report is due or `stop()` returns true; return whether one is due."""

    def results(self) -> list[dict[str, Any]]:
        """Return each run's metrics of the iteration so far."""

    def export(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Offer the complete results of an iteration to who watches the run; in one process, to nobody."""

    def next_iteration(self) -> None:
        """Reset what is counted per iteration."""

    def pop_evaluations(self, run: int) -> list[Evaluation]:
        """Return a run's evaluations since the last call."""

    def weights(self, run: int) -> Weights:
        """Return a run's current policies."""

    def learner_state(self, run: int) -> Arrays:
        """Return the learner's state of a run."""

    def drain(self) -> None:
        """Wait for all calls in flight, and start no more until `run` is called."""

    def capture(self, run: int, with_replay: bool) -> RunState:
        """Return the state of a run; training may continue while its transitions are read."""

    def restore(self, run: int, state: RunState) -> None:
        """Continue from what `capture` returned."""

    def evaluate(self, num_episodes: int, seed: int, run: int) -> Scorecard:
        """Play greedy episodes with a run's current policies."""

    def close(self) -> None:
        """End everything that was started."""


class MADDPG:
    """Multi-agent DDPG on one environment, in process (`num_workers=0`) or over Ray processes.

    ```python
    with MADDPG(MADDPGConfig.preset("default")) as algo:
        while not algo.finished:
            result = algo.train()
        algo.save("checkpoints/last")
    ```

    Nothing is started before the first call that needs it. For several runs that differ only in their seed,
    see `for_seeds`.
    """

    def __init__(self, config: MADDPGConfig, env: EnvFactory | None = None) -> None:
        """Check the configuration against this machine and the environment.

        Args:
            config: the settings.
            env: makes one PettingZoo parallel environment, in place of the one that `config.env.id` names,
                whose `env.kwargs` and `algorithm.policy_head` are then reset. Ray sends it to the workers. It
                is not saved: pass it to `from_checkpoint` again.

        Raises:
            BadInput: if it cannot run; nothing has been started then.
        """
        _require_config(config)
        _check_callable(env)
        self._prepare(_for_factory(config, env), env)
        check_environment_runs(self.config, env)
        check_machine(self.config, self.spec)

    def _prepare(self, config: MADDPGConfig, env: EnvFactory | None) -> None:
        """Set up for acting; the machine is checked when training starts."""
        self.config, self._env_factory = config, env
        self.spec: EnvSpec = check_settings(config, env)
        self._runner: Runner | None = None
        self._group, self._index = [self], 0
        self._restored: Checkpoint | None = None
        self._stop_requested = False
        self._stopped = False
        self._iteration = 0
        self.iteration_complete = True
        """Whether the latest call of `train` reached its report; `request_stop` ends it before."""
        self.evaluations: list[dict[str, Any]] = []
        """All evaluations that finished during the latest call of `train`, oldest first."""
        self.evaluated_policies: list[FloatArray] = []
        """The policies of each of them, as `policy_parameters` returns them."""
        self.on_event: Callable[[FaultEvent], None] = lambda _: None
        """Called when a process is lost or recovers; with several runs, set that of the first."""
        self.name = ""
        """Tag of this run's metrics in Ray, to be set before the start; `train` takes the folder's name."""
        self._clock = _Clock()
        # A random stream that no worker uses.
        self._acting_rng = generator(config.seed, "exploration", config.num_workers + 1)

    @staticmethod
    def from_checkpoint(
        path: str | Path,
        config: MADDPGConfig | None = None,
        env_id: str = "",
        env: EnvFactory | None = None,
        networks: str = "",
    ) -> MADDPG:
        """Return an algorithm that continues from a checkpoint.

        Args:
            path: a checkpoint folder, or URL.
            config: settings to continue with instead of the checkpoint's own.
            env_id: confirms the checkpoint's environment, which is then imported and run; needed unless it
                belongs to this package, mpe2 or PettingZoo.
            env: makes the environment, as in `MADDPG(config, env)`; needed where training was given one.
            networks: confirms the checkpoint's `algorithm.networks`, which are then imported and run.

        Raises:
            CheckpointError: if it cannot be read, or its weights are not those of its settings.
            BadInput: if `config` does not fit the checkpoint's networks or this machine, or `env_id` names
                another environment.
        """
        require(isinstance(path, str | Path), "path", path, "must be a path or URL")
        checkpoint = load_checkpoint(path)
        if config is None and env is not None:
            check_networks_allowed(checkpoint, networks)
        if config is None and env is None:
            check_environment_allowed(checkpoint, env_id, networks)
            trained_env = checkpoint.config.env.id
            if env_id and EnvConfig(env_id).id != trained_env:
                raise BadInput("env.id", env_id, f"{path} was trained in {trained_env}; leave the option out")
        return MADDPG.from_loaded_checkpoint(checkpoint, config, env)

    @staticmethod
    def from_loaded_checkpoint(
        checkpoint: Checkpoint, config: MADDPGConfig | None = None, env: EnvFactory | None = None
    ) -> MADDPG:
        """Return an algorithm that continues from a loaded checkpoint; see `from_checkpoint`."""
        _check_callable(env)
        algo = MADDPG.__new__(MADDPG)  # skips the machine checks of __init__, which evaluation does not need
        settings = checkpoint_settings(checkpoint)
        uses_own_settings = config is None or config == settings
        try:
            algo._prepare(config or settings, env)
        except BadInput as error:
            if env is not None or not uses_own_settings:
                raise
            raise CheckpointError(f"{checkpoint.path}: its settings cannot be used ({error})") from error
        check_finite(checkpoint)
        problem = incompatibility(algo.config, algo.spec, checkpoint)
        if problem and uses_own_settings:
            raise CheckpointError(f"{checkpoint.path}: does not fit its own settings ({BadInput(*problem)})")
        if problem:
            raise BadInput(*problem)
        check_acts(algo.config, algo.spec, checkpoint)
        algo._restored = checkpoint
        return algo

    @staticmethod
    def for_seeds(
        config: MADDPGConfig,
        num_seeds: int,
        checkpoints: Sequence[Checkpoint] = (),
        env: EnvFactory | None = None,
    ) -> list[MADDPG]:
        """Return runs with the seeds `config.seed` and up, which share one learner and advance together.

        Train them with `train_together`; all other methods work on one run. In the reproducible modes on a
        CPU each run ends with the same weights as if it were trained alone. All are started and stopped
        together.

        Args:
            config: of the first run.
            num_seeds: how many runs.
            checkpoints: to continue from, one of each run and all of the same moment.
            env: as in `MADDPG(config, env)`.

        Raises:
            BadInput: if they cannot run.
            CheckpointError: if the checkpoints are not of these runs.
        """
        _require_config(config)
        _require_integer("num_seeds", num_seeds, 1, MAX_SEEDS)
        seeds = range(config.seed, config.seed + num_seeds)
        for checkpoint in checkpoints:
            checkpoint.check_resumable()
        if checkpoints and [each.config.seed for each in checkpoints] != list(seeds):
            raise CheckpointError(f"these are not checkpoints of the seeds {seeds[0]} to {seeds[-1]}")

        def make(index: int) -> MADDPG:
            own = dataclasses.replace(config, seed=seeds[index])
            if checkpoints:
                return MADDPG.from_loaded_checkpoint(checkpoints[index], own, env)
            return MADDPG(own, env)

        runs = [make(0)]
        check_machine(config, runs[0].spec, num_seeds)
        runs += map(make, range(1, num_seeds))
        for index, run in enumerate(runs):
            run._group, run._index = runs, index
        return runs

    def start(self) -> None:
        """Start the stages now instead of with the first call that needs them."""
        self._ensure_started()

    @property
    def finished(self) -> bool:
        """Whether the configured number of environment steps and their updates are done."""
        return self._runner is not None and self._runner.pacer.finished

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""
        if self._runner is not None:
            return self._runner.pacer.env_steps
        return self._restored.env_steps if self._restored else 0

    @property
    def updates(self) -> int:
        """Updates of all agents so far."""
        if self._runner is not None:
            return self._runner.pacer.updates
        return self._restored.updates if self._restored else 0

    @property
    def restored_tables(self) -> Mapping[str, str] | None:
        """Tables that the checkpoint holds, by file name; None without a checkpoint."""
        return self._restored.tables if self._restored else None

    @property
    def device(self) -> str:
        """Where the learner runs."""
        return self._ensure_started().device

    @property
    def device_reason(self) -> str:
        """The setting that chose the device, and the rates of both devices where both were timed."""
        return self._ensure_started().device_reason

    def request_stop(self) -> None:
        """Make `train` return soon; safe to call from a signal handler."""
        self._stop_requested = True

    @property
    def stop_requested(self) -> bool:
        """Whether `request_stop` was called."""
        return self._stop_requested

    def train(self) -> dict[str, Any]:
        """Train for one report interval; return nested plain numbers, under RLlib's keys where it has them.

        Raises:
            TrainingError: if a stage fails; `stop` still ends everything that was started.
        """
        if len(self._group) > 1:
            raise TrainingError("this run is one of several; train them with train_together")
        return train_together([self])[0]

    def _complete(self, runner: Runner, result: dict[str, Any]) -> dict[str, Any]:
        """Add iteration number, time and evaluation to the stages' metrics."""
        popped = runner.pop_evaluations(self._index)
        self.evaluations = [evaluation.to_dict() for evaluation in popped]
        self.evaluated_policies = [evaluation.policies for evaluation in popped]
        return {
            **result,
            "training_iteration": self._iteration + 1,
            "time_total_s": self._clock.seconds(),
            "evaluation": self.evaluations[-1] if self.evaluations else {},
        }

    def evaluate(self, num_episodes: int = 100, seed: int | None = None) -> dict[str, Any]:
        """Play greedy episodes from fresh start states; return plain numbers.

        Args:
            num_episodes: how many.
            seed: of the start states; default: a random stream of the run's seed that training does not use.
        """
        return self.scorecard(num_episodes, seed).to_dict()

    def scorecard(self, num_episodes: int, seed: int | None = None) -> Scorecard:
        """Play as `evaluate` does; return the episodes with their scores."""
        _require_integer("num_episodes", num_episodes, 1)
        seed = self.config.seed if seed is None else seed
        _require_integer("seed", seed, 0)
        key = integer_seed(seed, "evaluation", 0)
        if self._runner is None and self._restored is not None:
            policies = self.policy_parameters()
            return evaluate_weights(self.config, policies, num_episodes, key, self._env_factory)
        return self._ensure_started().evaluate(num_episodes, key, self._index)

    def compute_actions(
        self,
        obs: Mapping[str, npt.NDArray[Any]],
        explore: bool = False,
        action_masks: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Return an action for each agent in `obs`, which may be any subset, as execution is decentralised.

        Args:
            obs: `[O_i]`, or `[E, O_i]` for E copies, of one or more agents.
            explore: whether to add the configured exploration noise, which starts again with each call.
            action_masks: `[A_i]` or `[E, A_i]` of discrete agents, nonzero for what they may do.

        Returns:
            `[A_i]` or `[E, A_i]` float32 in [0, 1] for continuous agents, an integer or `[E]` for discrete.

        Raises:
            BadInput: if `obs` names no agent or an unknown one, or holds a wrong shape or values that are
                not finite, or too large for finite actions; if a mask has a wrong shape or allows nothing.
        """
        stacked, batched = stacked_observations(self.spec, obs)
        num_envs = len(stacked[0])
        roster = roster_of_masks(self.spec, action_masks, num_envs) if action_masks is not None else None
        policies = JointPolicy(self.config.algorithm, self.spec, num_envs)
        policies.set_parameters(self.policy_parameters())
        if not policies.have_finite_logits(stacked):
            largest = max(float(np.abs(values).max(initial=0)) for values in stacked)
            raise BadInput("obs", largest, "is too large for the policies, whose actions would not be finite")
        if explore:
            policies.add_exploration(self.config.exploration, self._acting_rng)
            actions = policies.explore(stacked, self.env_steps, roster)[1]
        else:
            actions = policies.act(stacked, roster)
        return {
            agent: action.copy() if batched else action[0].copy()
            for agent, action in zip(self.spec.agents, actions, strict=True)
            if agent in obs
        }

    def save(self, path: str | Path, replay: bool = True) -> str:
        """Write a checkpoint folder atomically; return its path.

        Args:
            path: a local folder, or a URL such as "s3://bucket/folder" where its fsspec package is installed.
            replay: with the stored transitions; without them, a resumed run fills its replay buffer again.
        """
        require(isinstance(path, str | Path), "path", path, "must be a path or URL")
        self.drain()
        return str(save_checkpoint(path, self.capture(replay)))

    def drain(self) -> None:
        """Wait for all calls in flight, so that all parts of the next checkpoint are of one moment."""
        self._ensure_started().drain()

    def capture(self, replay: bool = True, tables: Mapping[str, str] | None = None) -> Checkpoint:
        """Return a checkpoint of the present state; training may continue while it is written.

        Args:
            replay: with the stored transitions.
            tables: texts to store in it, by file name.
        """
        captured = self._ensure_started().capture(self._index, replay)
        own = {
            "iteration": np.array(self._iteration),
            "time_total_s": np.array(self._clock.seconds()),
            "acting_generator": pack_generator(self._acting_rng),
        }
        return Checkpoint(
            self.config,
            self.spec.agents,
            captured.env_steps,
            captured.updates,
            {**captured.stages, **join_states({"algorithm": own})},
            captured.replay,
            dict(tables or {}),
        )

    def policies_checkpoint(self, env_steps: int, updates: int, policies: FloatArray) -> Checkpoint:
        """Return a checkpoint of policies alone, which can be evaluated and act but not be trained further.

        Args:
            env_steps: at which they were taken.
            updates: that they include.
            policies: as `policy_parameters` returns them.
        """
        parts = {"policy": policies}
        if self.config.env.normalise:
            parts["policy"], parts["normaliser"] = without_normaliser(policies, self.spec)
        state = join_states({"learner": parts})
        return Checkpoint(self.config, self.spec.agents, env_steps, updates, state)

    def policy_parameters(self) -> FloatArray:
        """Return the policies' parameters `[N, P]`; before the stages start, those of the checkpoint.

        With `env.normalise` they are `[N, P + 2 O]` and take observations as the environment gives them.
        """
        if self._runner is None and self._restored is not None:
            return self._restored.policies
        return self._ensure_started().weights(self._index).policies

    def action_codecs(self) -> tuple[ActionCodec, ...]:
        """Return what converts each agent's actions to those of its space; this creates one environment."""
        return checked_action_codecs(self.config, self._env_factory)

    def weights_digest(self) -> str:
        """Return the SHA-256 of all networks' weights; equal digests mean bit-identical training."""
        state = self._ensure_started().learner_state(self._index)
        return digest(*(state[part] for part in _WEIGHT_PARTS if part in state))

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint interval was passed since this was last asked."""
        return self._ensure_started().pacer.checkpoint_due()

    def stop(self) -> None:
        """End every process that was started; counters can still be read, training cannot continue."""
        if self._runner is not None and not self._stopped:
            for run in self._group:
                run._stopped = True
            self._runner.close()

    def __enter__(self) -> MADDPG:
        """Return the algorithm itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _ensure_started(self) -> Runner:
        if self._stopped:
            raise TrainingError(
                "this MADDPG was stopped; continue from a checkpoint with MADDPG.from_checkpoint"
            )
        if self._runner is None:
            if self._restored is not None:
                check_environment_runs(self.config, self._env_factory)
            check_machine(self.config, self.spec, len(self._group))
            runner = _make_runner(self._group)
            self._runner = runner
            for run in self._group:
                run._runner = runner
                run._clock.start()
            try:
                for run in self._group:
                    if run._restored is not None:
                        run._restore(run._restored)
            except BaseException:
                self.stop()  # stages that are restored in part must not continue
                raise
        return self._runner

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Restore the stages, which were just started, from a checkpoint.

        Raises:
            CheckpointError: if a part of it does not fit.
        """
        stages, old = checkpoint.state, checkpoint.config
        environments = [(each.env, each.rollout.num_envs) for each in (self.config, old)]
        if environments[0] != environments[1]:  # the workers start new episodes
            stages = {name: array for name, array in stages.items() if not name.startswith("worker_")}
        try:
            own = state_part(stages, "algorithm")
            self._iteration = checked_count(own, "iteration")
            seconds = float(checked_array(own, "time_total_s", (), np.float64))
            if not 0 <= seconds < np.inf:
                raise ValueError(f"time_total_s is {seconds}")
            self._clock.start(seconds)
            restore_generator(self._acting_rng, checked_array(own, "acting_generator", (6,), np.uint64))
            counts = [
                *checked_array(stages, "pacing/counts", (5,), np.int64)[:2],
                checked_count(stages, "learner/updates"),
            ]
            if counts != [checkpoint.env_steps, checkpoint.updates, checkpoint.updates]:
                raise ValueError("its counts disagree")
            replay = checkpoint.replay
            if replay is not None:
                chunks = map(self.spec.transitions.with_flags, replay.chunks)
                replay = dataclasses.replace(replay, chunks=chunks)
            state = RunState(checkpoint.env_steps, checkpoint.updates, stages, replay)
            self._ensure_started().restore(self._index, state)
        except (KeyError, TypeError, ValueError, StageError) as error:
            raise CheckpointError(
                f"{checkpoint.path}: a part of it does not fit its settings ({error})"
            ) from error
        self._restored = dataclasses.replace(checkpoint, state={}, replay=None)  # they may be large


def _never() -> bool:
    return False


def train_together(runs: Sequence[MADDPG], stop: Callable[[], bool] = _never) -> list[dict[str, Any]]:
    """Train all runs of `MADDPG.for_seeds` for one report interval; return each one's result.

    Args:
        runs: all of them, in their order.
        stop: asked after each round of collecting and learning; true ends the interval there.

    Raises:
        TrainingError: if a stage fails; everything started is still ended by `stop`.
    """
    if not runs or list(runs) != runs[0]._group:
        raise TrainingError("train_together takes all runs of MADDPG.for_seeds, in their order")
    runner = runs[0]._ensure_started()
    env_steps, updates = runner.pacer.env_steps, runner.pacer.updates
    started = time.perf_counter()
    complete = runner.run(lambda: stop() or any(run.stop_requested for run in runs))
    results = runner.results()
    seconds = time.perf_counter() - started
    rates = {
        "time_this_iter_s": seconds,
        "env_steps_per_s": (runner.pacer.env_steps - env_steps) / seconds,
        "updates_per_s": (runner.pacer.updates - updates) / seconds,
    }
    finished = [run._complete(runner, {**own, **rates}) for run, own in zip(runs, results, strict=True)]
    runner.export(finished)
    for run in runs:
        run.iteration_complete = complete
        run._iteration += complete
    if complete:
        runner.next_iteration()
    return finished


def _require_config(config: MADDPGConfig) -> None:
    require(isinstance(config, MADDPGConfig), "config", config, "must be a MADDPGConfig")


def _require_integer(name: str, value: int, least: int, most: int | None = None) -> None:
    fits = isinstance(value, Integral) and least <= value and (most is None or value <= most)
    require(fits, name, value, f"must be an integer from {least}" + (f" to {most}" if most else ""))


class _Clock:
    """Wall time since the stages were started."""

    def __init__(self) -> None:
        self._started: float | None = None

    def start(self, seconds: float = 0.0) -> None:
        """Start at `seconds`."""
        self._started = time.perf_counter() - seconds

    def seconds(self) -> float:
        return 0.0 if self._started is None else time.perf_counter() - self._started


def _make_runner(runs: Sequence[MADDPG]) -> Runner:
    configs, first = [run.config for run in runs], runs[0]
    if first._restored is not None:
        first._restored.check_resumable()
    # Each runner is imported only when used: without workers, Ray is never loaded.
    if first.config.num_workers == 0:
        from distributed_maddpg.serial import SerialRunner  # noqa: PLC0415

        return SerialRunner(configs, first.spec, env_factory=first._env_factory)
    from distributed_maddpg.runtime.driver import RayRunner  # noqa: PLC0415

    names = [run.name for run in runs]
    return RayRunner(configs, first.spec, lambda event: first.on_event(event), first._env_factory, names)


def _check_callable(env: EnvFactory | None) -> None:
    if env is not None and not callable(env):
        remedy = "must be a callable that returns a PettingZoo parallel environment"
        raise BadInput("env", env, remedy)


def _for_factory(config: MADDPGConfig, env: EnvFactory | None) -> MADDPGConfig:
    """Return settings whose `env.id` names the callable, so that checkpoints record it."""
    if env is None or is_factory_id(config.env.id):
        return config
    return MADDPGConfig.from_dict({"env": {"id": factory_id(env)}}, config)
