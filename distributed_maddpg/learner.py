"""The learner: minibatches in, updates of all agents, versioned weights out."""

from __future__ import annotations

import ctypes
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from distributed_maddpg.algo.cuda_graphs import CUDAGraphUpdates
from distributed_maddpg.algo.device_replay import DeviceReplay
from distributed_maddpg.algo.fused.update import FusedUpdate, reason_against
from distributed_maddpg.algo.handwritten import HandwrittenUpdate
from distributed_maddpg.algo.maddpg import MADDPGUpdate
from distributed_maddpg.algo.restore_point import RestorePoint
from distributed_maddpg.config import AlgorithmConfig, LearnerConfig, MADDPGConfig
from distributed_maddpg.errors import BadInput, Diverged
from distributed_maddpg.normalisation import (
    RowTransform,
    checked_normaliser,
    row_transform,
    unknown,
    with_normaliser,
)
from distributed_maddpg.replay.ring import DEAD_WRITER, Draw, Ring
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.threads import ThreadTuner, most_threads
from distributed_maddpg.types import Arrays, EnvSpec, FloatArray, Weights, checked_array, checked_count

_RATE_TEST_ROWS, _RATE_TEST_UPDATES, _RATE_TEST_S = 1 << 16, 8, 0.5
"""Of `measure_update_rate`: rows to sample from, updates per call (as between publications), seconds."""
_CUDA_GENERATOR_BYTES = 16
_MIRROR_SHARE = 0.8
"""Of the GPU's free memory, which the replay buffer's rows may take."""
_LOG = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """Return the torch device for a `learner.device` setting.

    Raises:
        BadInput: for "cuda" if torch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("learner.device", name, "torch sees no GPU on this machine; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory instead of returning it to the system.

    Every call frees and allocates the same few hundred kilobytes, most of them in the update by torch's
    operations. By default glibc maps such blocks again each time, and the page faults cost a third of that.
    """
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from other C libraries
    if mallopt is not None:
        mallopt(m_mmap_threshold, 1 << 28)
        mallopt(m_trim_threshold, 1 << 29)


def multiplies_bf16() -> bool:
    """Return whether this CPU has instructions for bfloat16 products; True if torch cannot tell."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class Learner:
    """Trains the networks of one run, or of several that differ only in their seed.

    On a CPU the runs are updated one after the other, which keeps each one's memory in the cache; on a GPU
    they share one stack. Methods for a single run take its index.
    """

    def __init__(
        self,
        algorithm: AlgorithmConfig,
        config: LearnerConfig,
        spec: EnvSpec,
        seeds: Sequence[int],
        total_updates: int = 0,
        normalise: bool = False,
    ) -> None:
        """Initialise one run per seed; learning rates fall over `total_updates`, 0 keeps them constant.

        With `normalise`, rows are normalised as `normalise_by` says.
        """
        self._tuner = None if config.num_threads else ThreadTuner(most_threads())
        torch.set_num_threads(config.num_threads or 1)
        keep_freed_memory()
        self.device = choose_device("cpu" if algorithm.networks else config.device)
        self.device_reason = f"{config.device}: {self.device.type}"
        """The setting and the device that it led to; if both devices were timed, with their rates."""
        self.plain_update = ""
        """Why a CPU does not use the fused update, for display after `device_reason`."""
        self.num_runs = len(seeds)
        if self.device.type == "cpu" and (reason := reason_against(algorithm, config.precision)):
            self.plain_update = f", plain update: {reason}"
            self.device_reason += self.plain_update
        if config.precision == "bf16" and self.device.type == "cpu" and not multiplies_bf16():
            _LOG.warning("learner.precision = bf16 is slow: this CPU has no instructions for it")
        self._stacks = self._make_stacks(algorithm, config, spec, seeds)
        self._runs_per_stack = len(seeds) // len(self._stacks)
        self.mirror_fits = True
        """Whether a GPU has the memory for the rows of all rings."""
        shape = (len(self._stacks[0].metrics), self._runs_per_stack * spec.num_agents)
        self._metrics = [torch.zeros(shape, device=self.device) for _ in self._stacks]
        stacked = zip(self._stacks, self._metrics, strict=True)
        self._restore_points = [RestorePoint(update, metrics) for update, metrics in stacked]
        self._seeds, self._agents, self._algorithm = tuple(seeds), spec.agents, algorithm
        self._num_agents, self._total_updates = spec.num_agents, total_updates
        self._spec = spec
        self.batch_size = config.batch_size
        self._metrics_count = 0
        self._device_replays: list[DeviceReplay] = []
        self._ring_epochs: dict[int, int] = {}
        self._graph_updates: list[CUDAGraphUpdates] = []
        self.updates = 0
        """Number of updates of all agents, the same for each run."""
        self.weights_version = 0
        """Number of publications; workers compute version 0, the initial weights, themselves."""
        self._normalisers: list[FloatArray] = []
        self._transforms: list[RowTransform] = []
        if normalise:
            self.normalise_by([unknown(spec)] * self.num_runs)
        self._last_published = [self.weights(run) for run in range(self.num_runs)]

    def normalise_by(self, normalisers: Sequence[FloatArray]) -> None:
        """Normalise each run's rows by its own of these, `[N, 2 O + 1]`, and publish it with its weights."""
        self._normalisers = list(normalisers)
        self._transforms = [row_transform(own, self._spec.transitions) for own in normalisers]

    def _make_stacks(
        self, algorithm: AlgorithmConfig, config: LearnerConfig, spec: EnvSpec, seeds: Sequence[int]
    ) -> Sequence[MADDPGUpdate]:
        """Return one update for all runs on a GPU, and one for each on a CPU."""
        streams = [integer_seed(seed, "learner") for seed in seeds]
        if algorithm.networks:
            return [MADDPGUpdate(algorithm, spec, self.device, [stream]) for stream in streams]
        if self.device.type == "cuda" or self.plain_update:
            stacks = [streams] if self.device.type == "cuda" else [[stream] for stream in streams]
            return [HandwrittenUpdate(algorithm, spec, self.device, own, config.precision) for own in stacks]
        threads = config.num_threads or most_threads()
        pool = ThreadPoolExecutor(max(1, threads - 1), "learner")
        return [FusedUpdate(algorithm, spec, stream, threads, pool) for stream in streams]

    def freeze(self, agents: Sequence[bool], policies: FloatArray) -> None:
        """Stop updating the policies `[N, P]` of some of the N agents, in every run."""
        for update in self._stacks:
            update.freeze(agents, torch.from_numpy(policies).to(self.device))
        self._last_published = [self.weights(run) for run in range(self.num_runs)]

    def learn(self, minibatches: Sequence[Draw]) -> None:
        """Make one update per minibatch of `batch_size` rows, which were drawn for each run.

        Raises:
            Diverged: if a value is no longer finite; the state from before the call is restored.
            RuntimeError: if the rows cannot be read, see `Draw.copied`; the same.
        """
        updates = len(minibatches[0].index) // self.batch_size
        started = time.perf_counter()
        if self._transforms:
            minibatches = list(map(_normalised, minibatches, self._transforms))
        with self._undo_if_diverged(updates):
            factors = [self._lr_factor(made) for made in range(self.updates, self.updates + updates)]
            for index, (update, metrics) in enumerate(zip(self._stacks, self._metrics, strict=True)):
                update.updates_made = self.updates
                own = minibatches[index * self._runs_per_stack : (index + 1) * self._runs_per_stack]
                if isinstance(update, FusedUpdate):
                    [draw] = own
                    update.num_threads = self.num_threads
                    places = draw.index.reshape(-1, self.batch_size)
                    if not update.learn(draw.ring.rows, places, draw.counters(), factors, metrics.numpy()):
                        raise RuntimeError(DEAD_WRITER)
                    continue
                for batch, factor in zip(_stack(own, updates).to(self.device), factors, strict=True):
                    update.scale_learning_rates(factor)
                    metrics += update(batch)

        if self._tuner:
            self._tuner.add(updates * self.num_runs, time.perf_counter() - started)

    @property
    def samples_on_device(self) -> bool:
        """Whether to use `mirror` and `learn_mirrored`: faster on a GPU, because the host is not involved."""
        return self.device.type == "cuda" and self.mirror_fits

    def mirror(self, rings: Sequence[Ring]) -> None:
        """Copy the new rows of each run's ring, `[capacity, width]`, to the device."""
        if not self._device_replays:
            capacity, width = rings[0].rows.shape
            self._device_replays = [
                DeviceReplay(capacity, width, update.generators) for update in self._stacks
            ]
            stacks = zip(self._stacks, self._device_replays, self._metrics, strict=True)
            self._graph_updates = [CUDAGraphUpdates(*stack, self.batch_size) for stack in stacks]
        for run, ring in enumerate(rings):
            replay, place = self._device_replays[run // self._runs_per_stack], run % self._runs_per_stack
            if self._transforms:
                replay.normalise_by(place, self._transforms[run])
            epoch, self._ring_epochs[run] = self._ring_epochs.get(run), ring.epoch
            if epoch != self._ring_epochs[run]:  # new, cleared or repaired
                replay.clear(place)
            rows, newest = ring.read_from(replay.inserted[place])
            if len(rows):  # none if all new rows are being overwritten; keep the copied ones then
                replay.add(place, torch.from_numpy(rows), newest)

    def learn_mirrored(self, updates: int) -> None:
        """Make the given number of updates on rows copied by `mirror`; synchronise once, at the end.

        Raises:
            ValueError: if no rows were copied.
            Diverged: if a value is no longer finite; the state from before the call is restored.
        """
        if not self._graph_updates:
            raise ValueError("cannot sample from an empty replay buffer")
        # Leaving the block synchronises the device, so that the time counts as learning, not as publishing.
        with self._undo_if_diverged(updates):
            for update, graphs in zip(self._stacks, self._graph_updates, strict=True):
                update.updates_made = self.updates
                update.scale_learning_rates(self._lr_factor(self.updates))
                graphs.learn(updates)

    @contextmanager
    def _undo_if_diverged(self, updates: int) -> Iterator[None]:
        """Count the updates made in the block, or restore all runs and raise `Diverged`.

        The device is synchronised once, for the sum of all values. Single tensors are checked only if it is
        not finite.
        """
        for point in self._restore_points:
            point.save()
        try:
            yield
        except BaseException:
            self._restore()
            raise
        if not torch.stack([point.total() for point in self._restore_points]).sum().isfinite().item():
            for stack, point in enumerate(self._restore_points):
                if found := point.find_not_finite():
                    raise self._roll_back(stack, *found, updates)
        self._metrics_count += updates
        self.updates += updates

    def _roll_back(self, stack: int, name: str, networks: list[int], updates: int) -> Diverged:
        """Restore all runs; return the error that names the tensor and the agents of the first bad run."""
        self._restore()
        run, first, config = networks[0] // self._num_agents, self.updates, self._algorithm
        agents = [self._agents[i % self._num_agents] for i in networks if i // self._num_agents == run]
        seed = f" with seed {self._seeds[stack * self._runs_per_stack + run]}" if self.num_runs > 1 else ""
        return Diverged(
            f"learner{seed}: {name} of {', '.join(agents)} stopped being finite between updates {first} and "
            f"{first + updates}; the weights are those of update {first}; "
            f"lower algorithm.critic_lr = {config.critic_lr:g} or algorithm.actor_lr = {config.actor_lr:g}, "
            f"lower algorithm.max_grad_norm = {config.max_grad_norm:g} (0 is none), or scale rewards down"
        )

    def _restore(self) -> None:
        for point in self._restore_points:
            point.restore()

    @property
    def num_threads(self) -> int:
        """Threads of the fused update at present; 0 if it is not used."""
        first = self._stacks[0]
        if not isinstance(first, FusedUpdate):
            return 0
        return self._tuner.threads if self._tuner else first.num_threads

    @property
    def is_settled(self) -> bool:
        """Whether the number of threads is not being looked for at present."""
        if self._tuner is None or not self.num_threads or self.samples_on_device:
            return True
        return self._tuner.is_settled

    def pop_time_spent(self) -> dict[str, float]:
        """Return the seconds that the fused update's threads spent in each part since the last call."""
        total: Counter[str] = Counter()
        for update in self._stacks:
            if isinstance(update, FusedUpdate):
                total.update(update.pop_time_spent())
        return dict(total)

    def publish(self) -> list[Weights]:
        """Return each run's current policies under a new version number."""
        self.weights_version += 1
        self._last_published = [self.weights(run) for run in range(self.num_runs)]
        return self._last_published

    def last_published(self) -> list[Weights]:
        """Return each run's weights of the last `publish`, which the workers use."""
        return self._last_published

    def weights(self, run: int = 0) -> Weights:
        """Return a run's current policies under the latest version number."""
        policies = _to_numpy(self._own(run, self._stack_of(run).policy.flat))
        if self._normalisers:
            policies = with_normaliser(policies, self._normalisers[run])
        return Weights(self.weights_version, self.updates, policies)

    def metrics(self) -> list[dict[str, npt.NDArray[np.float64]]]:
        """Return each run's means per agent, `[N]`, over the iteration so far; NaN without updates."""
        means = torch.cat(self._metrics, dim=1).cpu().numpy() / (self._metrics_count or float("nan"))
        runs = np.split(means.astype(np.float64), self.num_runs, axis=1)
        return [dict(zip(self._stacks[0].metrics, run, strict=True)) for run in runs]

    def next_iteration(self) -> None:
        """Reset the metrics."""
        for metrics in self._metrics:
            metrics.zero_()
        self._metrics_count = 0

    def get_state(self, run: int = 0) -> Arrays:
        """Return the complete learning state of a run, including the metrics so far, as named arrays."""
        update = self._stack_of(run)
        rows = update.per_network_state().items()
        state = {name: _to_numpy(self._own(run, tensor)) for name, tensor in rows}
        for name, optimiser in update.optimisers.items():
            state[f"{name}.step"] = _to_numpy(optimiser.steps)
        state["generator"] = update.generators[run % self._runs_per_stack].get_state().numpy().copy()
        state["updates"] = np.array(self.updates, np.int64)
        state["weights_version"] = np.array(self.weights_version, np.int64)
        published = self._last_published[run]
        state["published"], state["published_updates"] = published.policies, np.array(published.updates)
        state["metrics"] = _to_numpy(self._own(run, self._metrics[run // self._runs_per_stack].T).T)
        state["metrics_count"] = np.array(self._metrics_count, np.int64)
        if self._normalisers:
            state["normaliser"] = self._normalisers[run].copy()
        return state

    def set_state(self, state: Arrays, run: int = 0) -> None:
        """Continue exactly from what `get_state` returned.

        Raises:
            ValueError: if an array is missing, has another shape or type, or an invalid value.
        """
        update = self._stack_of(run)
        for name, tensor in update.per_network_state().items():
            _copy_into(name, self._own(run, tensor), state)
        for name, optimiser in update.optimisers.items():
            _copy_into(f"{name}.step", optimiser.steps, state)
        _copy_into("metrics", self._own(run, self._metrics[run // self._runs_per_stack].T).T, state)
        shape = self._last_published[run].policies.shape
        published = checked_array(state, "published", shape, np.float32)
        if not np.isfinite(published).all():
            raise ValueError("published holds values that are not finite")
        counts = ("updates", "weights_version", "published_updates", "metrics_count")
        updates, version, published_updates, metrics_count = (checked_count(state, name) for name in counts)
        generator = update.generators[run % self._runs_per_stack]
        saved = torch.from_numpy(checked_array(state, "generator", (None,), np.uint8))
        if saved.shape == generator.get_state().shape:
            try:
                generator.set_state(saved)
            except RuntimeError as error:
                raise ValueError(f"generator holds no valid state ({error})") from None
        elif len(saved) in (_CUDA_GENERATOR_BYTES, len(torch.Generator().get_state())):
            generator.manual_seed(updates)  # saved on another device type: a new stream
        else:
            raise ValueError(f"generator has {len(saved)} bytes, which fits no torch generator")
        self.updates, self.weights_version, self._metrics_count = updates, version, metrics_count
        self._last_published[run] = Weights(version, published_updates, published)
        self._set_normaliser(state, run)
        if self._device_replays:  # the run's ring may be a different one now
            self._device_replays[run // self._runs_per_stack].clear(run % self._runs_per_stack)

    def _set_normaliser(self, state: Arrays, run: int) -> None:
        if self._normalisers:
            own = checked_normaliser(state, self._spec)
            self.normalise_by([*self._normalisers[:run], own, *self._normalisers[run + 1 :]])

    def _lr_factor(self, updates: int) -> float:
        """Return the factor of the learning rates after the given number of updates."""
        if updates >= self._total_updates:  # always, if they are constant
            return self._algorithm.lr_end if self._total_updates else 1.0
        return 1.0 - (1.0 - self._algorithm.lr_end) * updates / self._total_updates

    def _stack_of(self, run: int) -> MADDPGUpdate:
        """Return the stack that holds a run."""
        return self._stacks[run // self._runs_per_stack]

    def _own(self, run: int, rows: torch.Tensor) -> torch.Tensor:
        """Return a run's own of its stack's rows."""
        return rows.chunk(self._runs_per_stack)[run % self._runs_per_stack]


def make_learner(config: MADDPGConfig, spec: EnvSpec, seeds: Sequence[int] = ()) -> Learner:
    """Build the learner of a run, or of several that differ only in their seed.

    With `learner.device = "auto"` and a GPU, both devices are measured for half a second each, because small
    networks can be faster on a CPU. A reproducible run uses the GPU without measuring: timing must not decide
    its result.
    """
    seeds = seeds or (config.seed,)
    reproducible = config.sync or config.num_workers == 0
    chosen = config.learner.device != "auto" or bool(config.algorithm.networks)
    if chosen or reproducible or not torch.cuda.is_available():
        return _new_learner(config, spec, seeds)
    gpu, cpu = (measure_update_rate(_with_device(device, config), spec, seeds) for device in ("cuda", "cpu"))
    device, reason = faster_device(gpu, cpu)
    learner = _new_learner(_with_device(device, config), spec, seeds)
    learner.device_reason = reason + learner.plain_update
    _LOG.info("learner.device = %s", reason)
    return learner


def _new_learner(config: MADDPGConfig, spec: EnvSpec, seeds: Sequence[int]) -> Learner:
    total, normalise = config.pacing.total_updates, config.env.normalise
    learner = Learner(config.algorithm, config.learner, spec, seeds, total, normalise)
    if learner.device.type == "cuda":
        needed = 4 * len(seeds) * config.replay.capacity * spec.transitions.width
        free, _ = torch.cuda.mem_get_info()
        learner.mirror_fits = needed < _MIRROR_SHARE * free
        if not learner.mirror_fits:
            _LOG.warning(
                "the replay buffer's rows, %.1f GB, would not fit the GPU's free %.1f GB: minibatches are "
                "sent to it instead; lower replay.capacity for faster updates",
                needed / 1e9,
                free / 1e9,
            )
    return learner


def _with_device(device: Literal["cuda", "cpu"], config: MADDPGConfig) -> MADDPGConfig:
    return replace(config, learner=replace(config.learner, device=device))


def faster_device(gpu: float, cpu: float) -> tuple[Literal["cuda", "cpu"], str]:
    """Return the device with more updates/s, and a line for display that says why."""
    on_gpu, on_cpu = (
        f"{name} {rate:,.0f} updates/s".replace(",", " ") for name, rate in (("cuda", gpu), ("cpu", cpu))
    )
    return ("cuda", f"auto: {on_gpu}, {on_cpu}") if gpu > cpu else ("cpu", f"auto: {on_cpu}, {on_gpu}")


def measure_update_rate(config: MADDPGConfig, spec: EnvSpec, seeds: Sequence[int]) -> float:
    """Return updates/s of such a learner on random rows, sampled in the same way as in training."""
    learner = Learner(config.algorithm, config.learner, spec, seeds, normalise=config.env.normalise)
    rng = np.random.default_rng(0)
    ring = Ring(_RATE_TEST_ROWS, spec.transitions.width)
    ring.add(rng.random(ring.rows.shape, dtype=np.float32))
    rings = [ring] * learner.num_runs
    _learn_as_in_training(learner, rings, rng)  # the first call also allocates memory and captures graphs
    while not learner.is_settled:
        _learn_as_in_training(learner, rings, rng)
    updates, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _RATE_TEST_S:
        _learn_as_in_training(learner, rings, rng)
        updates += _RATE_TEST_UPDATES
    return updates / elapsed


def _learn_as_in_training(learner: Learner, rings: Sequence[Ring], rng: np.random.Generator) -> None:
    if learner.samples_on_device:
        learner.mirror(rings)
        learner.learn_mirrored(_RATE_TEST_UPDATES)
        return
    learner.learn([ring.draw(rng, _RATE_TEST_UPDATES * learner.batch_size) for ring in rings])


def _normalised(draw: Draw, transform: RowTransform) -> Draw:
    rows = draw.copied()
    transform.apply(rows)
    return Draw.of(rows)


def _stack(minibatches: Sequence[Draw], updates: int) -> torch.Tensor:
    """Return the rows of the runs as `[K, S, B, width]` for K updates."""
    rows = [torch.from_numpy(draw.copied()) for draw in minibatches]
    return torch.stack([own.view(updates, -1, own.shape[1]) for own in rows], dim=1)


def _to_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = tensor.numpy(force=True).copy()
    return values


def _copy_into(name: str, tensor: torch.Tensor, state: Arrays) -> None:
    array = checked_array(state, name, tuple(tensor.shape), np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    tensor.copy_(torch.from_numpy(array))
