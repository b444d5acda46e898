"""The learner: minibatches in, updates of all agents, versioned weights out (floor F3)."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distributed_maddpg.algo.maddpg import METRICS, MADDPGUpdate
from distributed_maddpg.config import AlgorithmConfig, LearnerConfig, MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import EnvSpec, FloatArray, Weights

_STATE_PARTS = ("policy", "critic", "target_policy", "target_critic")
_OPTIMISERS = ("policy_optimiser", "critic_optimiser")
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def choose_device(name: str) -> torch.device:
    """Return the device for a `learner.device` setting.

    Raises:
        BadInput: if a GPU is asked for where torch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("learner.device", name, "torch sees no GPU on this machine; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory instead of returning it to the system.

    Every update frees and takes the same few hundred kilobytes. By default glibc maps such blocks afresh each
    time, and the page faults cost a third of the update: 72 updates/s became 101 (batch 1024, N=2, 64-64).
    """
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from other C libraries
    if mallopt is not None:
        mallopt(m_mmap_threshold, 1 << 28)
        mallopt(m_trim_threshold, 1 << 29)


class Learner:
    """Owns the networks on its device and counts what it has done to them."""

    def __init__(self, algorithm: AlgorithmConfig, config: LearnerConfig, spec: EnvSpec, seed: int) -> None:
        """Initialise from the run's seed."""
        torch.set_num_threads(config.num_threads)
        keep_freed_memory()
        self.device = choose_device(config.device)
        self._update = MADDPGUpdate(algorithm, spec, self.device, integer_seed(seed, "learner"))
        self._metrics = torch.zeros(len(METRICS), spec.num_agents, device=self.device)
        self._metrics_count = 0
        self.updates = 0
        """Updates of all agents made."""
        self.weights_version = 0
        """How many times weights were published."""

    def learn(self, batches: FloatArray) -> None:
        """Make one update per batch of `[K, B, width]` packed transitions."""
        for batch in torch.tensor(batches, device=self.device):  # a copy: Ray hands out read-only arrays
            self._metrics += self._update(batch)
        self._metrics_count += len(batches)
        self.updates += len(batches)

    def publish(self) -> Weights:
        """Return the policies' parameters under a new version number."""
        self.weights_version += 1
        return self.weights()

    def weights(self) -> Weights:
        """Return the policies' parameters as they are, under the latest version number."""
        return Weights(self.weights_version, self.updates, self._update.policy.flat.cpu().numpy().copy())

    def take_metrics(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return each metric's mean per agent, `[N]`, since the last call; NaN where nothing was learnt."""
        count = self._metrics_count or float("nan")
        means = (self._metrics.cpu().numpy() / count).astype(np.float64)
        self._metrics.zero_()
        self._metrics_count = 0
        return dict(zip(METRICS, means, strict=True))

    def get_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything that learning depends on as named arrays."""
        state = {name: _array(getattr(self._update, name).flat) for name in _STATE_PARTS}
        for name in _OPTIMISERS:
            optimiser = getattr(self._update, name)
            moments = optimiser.state[optimiser.param_groups[0]["params"][0]]
            for part in _MOMENTS:
                if part in moments:  # torch creates them at the first step
                    state[f"{name}.{part}"] = _array(moments[part])
        state["generator"] = self._update.generator.get_state().numpy().copy()
        state["updates"] = np.array(self.updates, np.int64)
        state["weights_version"] = np.array(self.weights_version, np.int64)
        return state

    def set_state(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Take over what `get_state` returned; continues exactly from there.

        Raises:
            ValueError: if a part is missing or has another shape.
        """
        for name in _STATE_PARTS:
            _copy_into(name, getattr(self._update, name).flat, state)
        for name in _OPTIMISERS:
            optimiser = getattr(self._update, name)
            parameter = optimiser.param_groups[0]["params"][0]
            if f"{name}.step" in state:
                moments = {
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                    "step": torch.zeros((), device=self.device),
                }
                for part in _MOMENTS:
                    _copy_into(f"{name}.{part}", moments[part], state)
                optimiser.state[parameter] = moments
        generator, saved = self._update.generator, torch.tensor(state["generator"])
        if saved.shape == generator.get_state().shape:
            generator.set_state(saved)
        else:  # saved on another kind of device, whose generators have another state: go on with fresh noise
            generator.manual_seed(int(state["updates"]))
        self.updates = int(state["updates"])
        self.weights_version = int(state["weights_version"])


def make_learner(config: MADDPGConfig, spec: EnvSpec) -> Learner:
    """Build the learner of a run."""
    return Learner(config.algorithm, config.learner, spec, config.seed)


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = tensor.detach().cpu().numpy().copy()
    return values


def _copy_into(name: str, tensor: torch.Tensor, state: dict[str, npt.NDArray[Any]]) -> None:
    if name not in state:
        raise ValueError(f"learner state lacks {name!r}")
    if state[name].shape != tuple(tensor.shape):
        raise ValueError(
            f"learner state {name!r} has shape {state[name].shape}, expected {tuple(tensor.shape)}"
        )
    tensor.detach().copy_(torch.tensor(state[name]))  # torch.tensor also takes Ray's read-only arrays
