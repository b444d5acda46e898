"""Plays the bytes of an exported policy beside the policies that this package acts with."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import numpy as safetensors

from distributed_maddpg.acting.exploration import MASKED_LOGIT
from distributed_maddpg.acting.joint_policy import JointPolicy
from distributed_maddpg.acting.policy import NumpyPolicy
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.export.formats import Format
from distributed_maddpg.export.policy import AgentPolicy
from distributed_maddpg.player import Policy
from distributed_maddpg.types import EnvSpec, FloatArray, Roster

if TYPE_CHECKING:
    from distributed_maddpg.trainer import MADDPG

TOLERANCE = 1e-5
NUM_OBSERVATIONS = 1000
_SPREAD = 4.0
"""Standard deviations of the observations tried: some of the normalised ones are beyond the clip at 10."""


@dataclass(frozen=True)
class Expected:
    """What this package's policy of an agent does on some observations."""

    obs: FloatArray
    """[B, O_i]"""
    mask: npt.NDArray[np.bool_] | None
    """[B, A_i] if the agent has action masks."""
    logits: FloatArray
    """[B, A_i], after the mask."""
    actions: npt.NDArray[Any]
    """[B, A_i] or [B]."""


def expected(algo: MADDPG, policies: Sequence[AgentPolicy], num_observations: int) -> list[Expected]:
    """Act with all policies on random observations, the same each time."""
    rng, spec = np.random.default_rng(0), algo.spec
    obs = tuple(_observations(policy, num_observations, rng) for policy in policies)
    roster = _random_masks(spec, policies, num_observations, rng)
    parameters = algo.policy_parameters()
    joint = JointPolicy(algo.config.algorithm, spec, num_observations)
    joint.set_parameters(parameters)
    actions = joint.act(obs, roster)
    network = NumpyPolicy(spec, algo.config.algorithm.policy_hidden_sizes, num_observations)
    network.set_parameters(parameters)
    logits = np.where(roster.allowed, network.logits(obs), MASKED_LOGIT)
    return [
        Expected(
            obs[agent],
            roster.allowed[agent, :, :size] if policies[agent].masked else None,
            logits[agent, :, :size],
            actions[agent],
        )
        for agent, size in enumerate(spec.action_sizes)
    ]


def _observations(policy: AgentPolicy, count: int, rng: np.random.Generator) -> FloatArray:
    size = policy.description["observation"]["size"]
    values = _SPREAD * rng.standard_normal((count, size), np.float32)
    if policy.description["observation"]["normalised"]:
        mean, scale = policy.arrays["observation_mean"], policy.arrays["observation_scale"]
        values = mean + values / np.where(scale > 0, scale, np.float32(1))
    return values


def _random_masks(
    spec: EnvSpec, policies: Sequence[AgentPolicy], count: int, rng: np.random.Generator
) -> Roster:
    """Return a roster in which all agents act; those with masks may do at least one thing."""
    everybody = np.ones((count, spec.num_agents), np.bool_)
    allowed = np.zeros((spec.num_agents, count, max(spec.action_sizes)), np.bool_)
    for agent, (policy, size) in enumerate(zip(policies, spec.action_sizes, strict=True)):
        allowed[agent, :, :size] = rng.random((count, size)) < 0.5 if policy.masked else True
        allowed[agent, np.arange(count), rng.integers(size, size=count)] = True
    return Roster(everybody, everybody, allowed)


def difference(policy: AgentPolicy, data: bytes, name: Format, right: Expected) -> tuple[float, str]:
    """Return by how much an exported policy differs from what is right, and what played it.

    Raises:
        TrainingError: if by more than rounding: `TOLERANCE`, times the largest logit where that is over one.
    """
    player, (actions, logits) = _played(data, name, right)
    found = float(np.abs(logits - right.logits).max())
    if right.actions.ndim > 1:
        found = max(found, float(np.abs(actions - right.actions).max()))
    else:
        found = max(found, _choice_gap(right.logits, right.actions, actions))
    own = right.logits[right.logits != MASKED_LOGIT]
    if not found <= TOLERANCE * max(1.0, float(np.abs(own).max())):  # NaN is refused, too
        raise TrainingError(
            f"the {name} file of {policy.agent} differs from its policy by {found:.2g} when {player} plays "
            f"{len(logits)} observations; nothing was written"
        )
    return found, player


def _played(data: bytes, name: Format, right: Expected) -> tuple[str, tuple[npt.NDArray[Any], FloatArray]]:
    """Return what played a file, and its actions and logits."""
    if name == "onnx":
        from distributed_maddpg.export.onnx_graph import onnx_player  # noqa: PLC0415 - loads torch

        player, play = onnx_player(data)
        return player, play(right.obs, right.mask)
    policy = _read(data, name)
    logits = policy.logits(right.obs)
    if right.mask is not None:
        logits = np.where(right.mask, logits, MASKED_LOGIT)
    return "distributed_maddpg.player", (policy.act(right.obs, right.mask), logits)


def _choice_gap(logits: FloatArray, chosen: npt.NDArray[Any], own: npt.NDArray[Any]) -> float:
    """Return by how much the logits of two choices differ at most: 0 if the choices are the same."""
    rows = np.arange(len(logits))
    return float(np.abs(logits[rows, chosen] - logits[rows, own]).max())


def _read(data: bytes, name: Format) -> Policy:
    if name == "npz":
        return Policy.load(io.BytesIO(data))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return Policy(json.loads(header["__metadata__"]["description"]), safetensors.load(data))
