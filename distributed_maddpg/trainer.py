"""The public class: train, evaluate, save, restore and act."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint, save_checkpoint
from distributed_maddpg.config import EnvConfig, MADDPGConfig
from distributed_maddpg.envs import is_builtin
from distributed_maddpg.errors import BadInput, CheckpointError, StageError, TrainingError
from distributed_maddpg.evaluation.episodes import evaluate_weights
from distributed_maddpg.evaluation.scorecard import Evaluation, Scorecard
from distributed_maddpg.metrics import digest
from distributed_maddpg.pacing import Pacer
from distributed_maddpg.preflight import check_machine, check_settings
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
    critic_layout,
    join_states,
    policy_layout,
    state_part,
)

_WEIGHT_PARTS = ("policy", "critic", "target_policy", "target_critic", "critic2", "target_critic2")


class Runner(Protocol):
    """What the two ways of running the stages have in common."""

    pacer: Pacer

    @property
    def device(self) -> str:
        """Where the learner runs."""

    @property
    def device_reason(self) -> str:
        """Which setting led there, and the rates of both devices where both were tried."""

    def run(self, stop: Callable[[], bool]) -> bool:
        """Train until a report is due or `stop()` says so; return whether one is due."""

    def results(self) -> list[dict[str, Any]]:
        """Return what happened in each run in the iteration so far."""

    def next_iteration(self) -> None:
        """Start anew what is counted per iteration."""

    def pop_evaluations(self, run: int) -> list[Evaluation]:
        """Return the evaluations of a run that ended since the last call."""

    def weights(self, run: int) -> Weights:
        """Return a run's policies as they are now."""

    def learner_state(self, run: int) -> Arrays:
        """Return the learner's state of a run."""

    def drain(self) -> None:
        """Wait until nothing is under way; `run` lets things go on."""

    def capture(self, run: int, with_replay: bool) -> RunState:
        """Return the state of a run; training may go on while its transitions are read."""

    def restore(self, run: int, state: RunState) -> None:
        """Go on from what `capture` returned."""

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

    Nothing is started before the first call that needs it. Several runs that differ only in their seed can be
    trained side by side, see `for_seeds`.
    """

    def __init__(self, config: MADDPGConfig) -> None:
        """Check the configuration against this machine and the environment.

        Raises:
            BadInput: if it cannot run; nothing has been started then.
        """
        self._prepare(config)
        check_machine(config, self.spec)

    def _prepare(self, config: MADDPGConfig) -> None:
        """Take over settings for acting; what training needs of the machine is checked when it starts."""
        self.config = config
        self.spec: EnvSpec = check_settings(config)
        self._runner: Runner | None = None
        self._group, self._index = [self], 0
        self._restored: Checkpoint | None = None
        self._stop_requested = False
        self._stopped = False
        self._iteration = 0
        self.iteration_complete = True
        """Whether the latest call of `train` went on to a report; `request_stop` ends it before."""
        self.evaluations: list[dict[str, Any]] = []
        """All evaluations that ended during the latest call of `train`, oldest first."""
        self.on_event: Callable[[FaultEvent], None] = lambda _: None
        """Called when something goes wrong with a process, or is mended; of several runs, the first one's."""
        self._clock = _Clock()
        # A stream of its own, beside those of the workers.
        self._acting_rng = generator(config.seed, "exploration", config.num_workers + 1)

    @staticmethod
    def from_checkpoint(path: str | Path, config: MADDPGConfig | None = None, env_id: str = "") -> MADDPG:
        """Return an algorithm that continues from a checkpoint.

        Args:
            path: a checkpoint folder, or URL.
            config: settings to continue with instead of the checkpoint's own.
            env_id: the environment that is expected; needed where it is neither ours, mpe2's nor PettingZoo's
                own, because an environment that a checkpoint names is imported and called.

        Raises:
            CheckpointError: if it cannot be read, or its weights are not those of its settings.
            BadInput: if `config` does not fit the checkpoint's networks, or this machine, or if another
                environment is expected.
        """
        checkpoint = load_checkpoint(path)
        if config is None:
            check_environment(checkpoint, env_id)
            own = checkpoint.config.env.id
            if env_id and EnvConfig(env_id).id != own:
                raise BadInput("env.id", env_id, f"{path} was trained in {own}; leave the option out")
        return MADDPG.restored(checkpoint, config)

    @staticmethod
    def restored(checkpoint: Checkpoint, config: MADDPGConfig | None = None) -> MADDPG:
        """Return an algorithm that continues from a checkpoint that was read; see `from_checkpoint`."""
        algo = MADDPG.__new__(MADDPG)  # a machine that could not train it may still evaluate it
        settings = checkpoint_settings(checkpoint)
        own = config is None or config == settings
        try:
            algo._prepare(config or settings)
        except BadInput as error:
            if not own:
                raise
            raise CheckpointError(f"{checkpoint.path}: its settings cannot be used ({error})") from error
        _check_finite(checkpoint)
        problem = _incompatibility(algo, checkpoint)
        if problem and own:
            raise CheckpointError(f"{checkpoint.path}: does not fit its own settings ({BadInput(*problem)})")
        if problem:
            raise BadInput(*problem)
        algo._restored = checkpoint
        return algo

    @staticmethod
    def for_seeds(
        config: MADDPGConfig, num_seeds: int, checkpoints: Sequence[Checkpoint] = ()
    ) -> list[MADDPG]:
        """Return runs with the seeds `config.seed` and up, which share one learner and advance together.

        Train them with `train_together`; everything else is each one's own. On a CPU, reproducible modes give
        each the same weights as its seed alone. They are started and stopped as one.

        Args:
            config: of the first run.
            num_seeds: how many runs.
            checkpoints: to go on from, one of each run and all of the same moment.

        Raises:
            BadInput: if they cannot run.
            CheckpointError: if the checkpoints are not of these runs.
        """
        if num_seeds < 1:
            raise BadInput("num_seeds", num_seeds, "must be at least 1")
        seeds = range(config.seed, config.seed + num_seeds)
        configs = [dataclasses.replace(config, seed=seed) for seed in seeds]
        for checkpoint in checkpoints:
            checkpoint.check_resumable()
        if checkpoints and [each.config.seed for each in checkpoints] != list(seeds):
            raise CheckpointError(f"these are not checkpoints of the seeds {seeds[0]} to {seeds[-1]}")
        runs = (
            [MADDPG.restored(*each) for each in zip(checkpoints, configs, strict=True)] if checkpoints else []
        )
        runs = runs or [MADDPG(each) for each in configs]
        check_machine(config, runs[0].spec, num_seeds)
        for index, run in enumerate(runs):
            run._group, run._index = runs, index
        return runs

    def start(self) -> None:
        """Start the stages now instead of at the first call that needs them."""
        self._started()

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
        """Texts that the checkpoint kept beside it, by file name; None where there was no checkpoint."""
        return self._restored.tables if self._restored else None

    @property
    def device(self) -> str:
        """Where the learner runs."""
        return self._started().device

    @property
    def device_reason(self) -> str:
        """Which setting led there, and the rates of both devices where both were tried."""
        return self._started().device_reason

    def request_stop(self) -> None:
        """Let `train` return within moments; safe to call from a signal handler."""
        self._stop_requested = True

    @property
    def stop_requested(self) -> bool:
        """Whether `request_stop` was called."""
        return self._stop_requested

    def train(self) -> dict[str, Any]:
        """Train for one report interval; return nested plain numbers under RLlib's keys.

        Raises:
            TrainingError: if a stage fails; everything started is still ended by `stop`.
        """
        if len(self._group) > 1:
            raise TrainingError("this run is one of several; train them with train_together")
        return train_together([self])[0]

    def _complete(self, runner: Runner, result: dict[str, Any]) -> dict[str, Any]:
        """Add what this class knows of an iteration to what the stages reported."""
        self.evaluations = [evaluation.to_dict() for evaluation in runner.pop_evaluations(self._index)]
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
            seed: of the start states; default: a stream of the run's seed that training never uses.
        """
        return self.scorecard(num_episodes, seed).to_dict()

    def scorecard(self, num_episodes: int, seed: int | None = None) -> Scorecard:
        """Play as `evaluate` does; return the episodes themselves with what they say."""
        if num_episodes < 1:
            raise BadInput("num_episodes", num_episodes, "must be at least 1")
        key = integer_seed(self.config.seed if seed is None else seed, "evaluation", 0)
        if self._runner is None and self._restored is not None:
            return evaluate_weights(self.config, self.policy_parameters(), num_episodes, key)
        return self._started().evaluate(num_episodes, key, self._index)

    def compute_actions(
        self, obs: Mapping[str, npt.NDArray[Any]], explore: bool = False
    ) -> dict[str, npt.NDArray[Any]]:
        """Return an action per agent.

        Args:
            obs: `[O_i]`, or `[E, O_i]` for E copies, of every agent.
            explore: with the configured exploration noise, which begins afresh with each call.

        Returns:
            `[A_i]` or `[E, A_i]` float32 in [0, 1] for continuous agents, an integer or `[E]` for discrete.
        """
        missing = [agent for agent in self.spec.agents if agent not in obs]
        if missing:
            raise BadInput("obs", sorted(obs), f"lacks agent {missing[0]!r}")
        single = np.ndim(obs[self.spec.agents[0]]) == 1
        num_envs = 1 if single else len(obs[self.spec.agents[0]])
        stacked = tuple(
            _observation(agent, obs[agent], () if single else (num_envs,), size)
            for agent, size in zip(self.spec.agents, self.spec.observation_sizes, strict=True)
        )
        policies = JointPolicy(self.config.algorithm, self.spec, len(stacked[0]))
        policies.set_parameters(self.policy_parameters())
        if explore:
            policies.add_exploration(self.config.exploration, self._acting_rng)
            actions = policies.explore(stacked, self.env_steps)[1]
        else:
            actions = policies.act(stacked)
        return {
            agent: action[0].copy() if single else action.copy()
            for agent, action in zip(self.spec.agents, actions, strict=True)
        }

    def save(self, path: str | Path, replay: bool = True) -> str:
        """Write a checkpoint folder, whole or not at all; return its path.

        Args:
            path: a local folder, or a URL such as "s3://bucket/folder" where its fsspec package is installed.
            replay: with the stored transitions; without, a continued run fills its replay buffer anew.
        """
        self.drain()
        return str(save_checkpoint(path, self.capture(replay)))

    def drain(self) -> None:
        """Wait until nothing is under way, so that a checkpoint made next leaves nothing out."""
        self._started().drain()

    def capture(self, replay: bool = True, tables: Mapping[str, str] | None = None) -> Checkpoint:
        """Return a checkpoint of this moment to write later; training may go on while it is written.

        Args:
            replay: with the stored transitions.
            tables: texts to keep beside it, by file name.
        """
        captured = self._started().capture(self._index, replay)
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

    def policy_parameters(self) -> FloatArray:
        """Return the policies' parameters `[N, P]`; from a checkpoint, without starting anything."""
        if self._runner is None and self._restored is not None:
            policies: FloatArray = self._restored.state["learner/policy"]
            return policies
        return self._started().weights(self._index).policies

    def weights_digest(self) -> str:
        """Return the SHA-256 of all networks' weights; equal digests mean bit-identical training."""
        state = self._started().learner_state(self._index)
        return digest(*(state[part] for part in _WEIGHT_PARTS if part in state))

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint interval was passed since this was last asked."""
        return self._started().pacer.checkpoint_due()

    def stop(self) -> None:
        """End every process that was started; counters stay readable, training cannot go on."""
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

    def _started(self) -> Runner:
        if self._stopped:
            raise TrainingError(
                "this MADDPG was stopped; go on from a checkpoint with MADDPG.from_checkpoint"
            )
        if self._runner is None:
            check_machine(self.config, self.spec, len(self._group))
            runner = _make_runner([run.config for run in self._group], self.spec, self._group[0])
            self._runner = runner
            for run in self._group:
                run._runner = runner
                run._clock.start()
            try:
                for run in self._group:
                    if run._restored is not None:
                        run._restore(run._restored)
            except BaseException:
                self.stop()  # stages that took over a part must not go on
                raise
        return self._runner

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Let the stages, which were just started, go on from a checkpoint.

        Raises:
            CheckpointError: if a part of it does not fit.
        """
        stages, old = checkpoint.state, checkpoint.config
        worlds = [(each.env, each.rollout.num_envs) for each in (self.config, old)]
        if worlds[0] != worlds[1]:  # then the workers begin new episodes
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
            state = RunState(checkpoint.env_steps, checkpoint.updates, stages, checkpoint.replay)
            self._started().restore(self._index, state)
        except (KeyError, TypeError, ValueError, StageError) as error:
            raise CheckpointError(
                f"{checkpoint.path}: a part of it does not fit its settings ({error})"
            ) from error
        self._restored = dataclasses.replace(checkpoint, state={}, replay=None)  # it may be large


def checkpoint_settings(checkpoint: Checkpoint) -> MADDPGConfig:
    """Return a checkpoint's settings but for the cluster's address: no file decides whom we talk to."""
    return dataclasses.replace(checkpoint.config, ray=dataclasses.replace(checkpoint.config.ray, address=""))


def check_environment(checkpoint: Checkpoint, env_id: str) -> None:
    """Refuse to import and call what a checkpoint names, unless it is well known or was named to us as well.

    Raises:
        CheckpointError: saying how to allow it.
    """
    own = checkpoint.config.env.id
    if not is_builtin(own) and own != env_id:
        raise CheckpointError(
            f"its environment {own!r} would be imported and run, which a file alone must not decide; "
            f"if you trust it, name it: --env.id {own} (in Python env_id={own!r})"
        )


def train_together(runs: Sequence[MADDPG]) -> list[dict[str, Any]]:
    """Train all runs that `MADDPG.for_seeds` made for one report interval; return each one's result.

    Raises:
        TrainingError: if a stage fails; everything started is still ended by `stop`.
    """
    if list(runs) != runs[0]._group:
        raise TrainingError("train_together takes all runs that MADDPG.several made, in their order")
    runner = runs[0]._started()
    env_steps, updates = runner.pacer.env_steps, runner.pacer.updates
    started = time.perf_counter()
    complete = runner.run(lambda: any(run.stop_requested for run in runs))
    results = runner.results()
    seconds = time.perf_counter() - started
    rates = {
        "time_this_iter_s": seconds,
        "env_steps_per_s": (runner.pacer.env_steps - env_steps) / seconds,
        "updates_per_s": (runner.pacer.updates - updates) / seconds,
    }
    finished = [run._complete(runner, {**own, **rates}) for run, own in zip(runs, results, strict=True)]
    for run in runs:
        run.iteration_complete = complete
        run._iteration += complete
    if complete:
        runner.next_iteration()
    return finished


def _observation(agent: str, values: Any, copies: tuple[int, ...], size: int) -> FloatArray:
    """Return an agent's observation as `[E, O_i]`, after checking it."""
    array = np.asarray(values)
    if array.shape != (*copies, size) or array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise BadInput(f"obs[{agent!r}]", array.shape, f"must be finite numbers of shape {(*copies, size)}")
    return array.astype(np.float32).reshape(-1, size)


def _check_finite(checkpoint: Checkpoint) -> None:
    """Refuse weights that cannot be any network's, whatever the settings.

    Raises:
        CheckpointError: naming them.
    """
    policy_alone = bool(checkpoint.resume_problem)
    for part in ("policy",) if policy_alone else ("policy", "critic", "target_policy", "target_critic"):
        array = checkpoint.state.get(f"learner/{part}")
        if array is None or array.dtype != np.float32 or not np.isfinite(array).all():
            raise CheckpointError(
                f"{checkpoint.path}: the {part} weights are missing, or not all finite numbers"
            )


def _incompatibility(algo: MADDPG, checkpoint: Checkpoint) -> tuple[str, object, str] | None:
    """Return why a checkpoint's weights are not of these settings (field, value, remedy), or None."""
    config, spec = algo.config, algo.spec
    if spec.agents != checkpoint.agents:
        return "env.kwargs", config.env.kwargs, f"gives agents {spec.agents}, not {checkpoint.agents}"
    trained = checkpoint.config.algorithm.heads(spec)
    if config.algorithm.heads(spec) != trained:
        return "algorithm.policy_head", config.algorithm.policy_head, f"it was trained with {trained[0]}"
    policy_sizes, critic_sizes = config.algorithm.policy_hidden_sizes, config.algorithm.critic_hidden_sizes
    layouts = {
        "policy": ("algorithm.policy_hidden_sizes", policy_sizes, policy_layout(spec, policy_sizes)),
        "critic": ("algorithm.critic_hidden_sizes", critic_sizes, critic_layout(spec, critic_sizes)),
    }
    for kind, (field, value, layout) in layouts.items():
        shape = (layout.num_networks, layout.num_parameters)
        for part in (kind, f"target_{kind}"):
            if checkpoint.resume_problem and part != "policy":
                continue  # an earlier format version, of which the policies alone are read
            array = checkpoint.state.get(f"learner/{part}")
            if array is None or array.shape != shape or array.dtype != np.float32:
                return field, value, f"needs float32 {part} weights of shape {shape}"
    return _learning_incompatibility(config, checkpoint, spec)


def _learning_incompatibility(
    config: MADDPGConfig, checkpoint: Checkpoint, spec: EnvSpec
) -> tuple[str, object, str] | None:
    """Return why learning cannot go on with these settings from a checkpoint that fits its own, or None."""
    own, old = config.algorithm, checkpoint.config.algorithm
    if own.per_agent(spec) != old.per_agent(spec) and "matd3" in own.per_agent(spec):
        return "algorithm.name", own.name, f"needs a second critic, and it was trained with {old.name}"
    if own.updates_per_policy_update(spec) > 1 and old.updates_per_policy_update(spec) == 1:
        return "algorithm.policy_delay", own.policy_delay, "it was trained without; begin another run"
    if own.gamma != old.gamma:
        return "algorithm.gamma", own.gamma, f"its transitions are stored with {old.gamma}; begin another run"
    return None


class _Clock:
    """Wall time since training could begin."""

    def __init__(self) -> None:
        self._started: float | None = None

    def start(self, seconds: float = 0.0) -> None:
        """Start with so many seconds from before."""
        self._started = time.perf_counter() - seconds

    def seconds(self) -> float:
        return 0.0 if self._started is None else time.perf_counter() - self._started


def _make_runner(configs: Sequence[MADDPGConfig], spec: EnvSpec, first: MADDPG) -> Runner:
    if first._restored is not None:
        first._restored.check_resumable()
    # Each root is imported only when used: without workers, Ray is never loaded.
    if configs[0].num_workers == 0:
        from distributed_maddpg.serial import SerialRunner  # noqa: PLC0415

        return SerialRunner(configs, spec)
    from distributed_maddpg.runtime.driver import RayRunner  # noqa: PLC0415

    return RayRunner(configs, spec, lambda event: first.on_event(event))
