"""What a caller passes to act on, checked and stacked for all agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.config.sections import require
from distributed_maddpg.errors import BadInput, did_you_mean
from distributed_maddpg.types import EnvSpec, FloatArray, Roster


def stacked_observations(
    spec: EnvSpec, obs: Mapping[str, npt.NDArray[Any]]
) -> tuple[tuple[FloatArray, ...], bool]:
    """Return observations `[E, O_i]` of all agents, and whether they came in batches.

    Agents that are not in `obs` get zeros.

    Raises:
        BadInput: if `obs` names no agent or an unknown one, or holds a wrong shape or values that are not
            finite.
    """
    if not isinstance(obs, Mapping) or not obs:
        raise BadInput("obs", obs, "must hold the observation of at least one agent, by its name")
    _check_agents("obs", obs, spec)
    arrays = {agent: _as_array(f"obs[{agent!r}]", values) for agent, values in obs.items()}
    shape = next(iter(arrays.values())).shape
    copies = shape[:1] if len(shape) > 1 else ()
    num_envs = copies[0] if copies else 1
    stacked = tuple(
        _observation(f"obs[{agent!r}]", arrays[agent], (*copies, size))
        if agent in obs
        else np.zeros((num_envs, size), np.float32)
        for agent, size in zip(spec.agents, spec.observation_sizes, strict=True)
    )
    return stacked, bool(copies)


def roster_of_masks(spec: EnvSpec, masks: Mapping[str, npt.NDArray[Any]], num_envs: int) -> Roster:
    """Return a roster in which all agents act, as their action masks `[A_i]` or `[E, A_i]` allow.

    Raises:
        BadInput: if a mask is not of a discrete agent, has a wrong shape or type, or allows nothing.
    """
    if not isinstance(masks, Mapping):
        raise BadInput("action_masks", type(masks).__name__, "must hold masks by the names of agents")
    _check_agents("action_masks", masks, spec)
    everybody = np.ones((num_envs, spec.num_agents), np.bool_)
    allowed = np.zeros((spec.num_agents, num_envs, max(spec.action_sizes)), np.bool_)
    for agent, (name, size) in enumerate(zip(spec.agents, spec.action_sizes, strict=True)):
        allowed[agent, :, :size] = True
        if name in masks:
            field = f"action_masks[{name!r}]"
            require(
                spec.action_types[agent] == "discrete", field, masks[name], "only discrete agents have masks"
            )
            allowed[agent, :, :size] = _mask(field, _as_array(field, masks[name]), size, num_envs)
    return Roster(everybody, everybody, allowed)


def _mask(field: str, mask: npt.NDArray[Any], size: int, num_envs: int) -> npt.NDArray[np.bool_]:
    """Check an agent's action mask and return it as flags."""
    fits = mask.shape in ((size,), (num_envs, size))
    require(fits, field, mask.shape, f"must have shape {(size,)} or {(num_envs, size)}")
    numbers = mask.dtype.kind in "fiub" and bool(np.isfinite(mask).all())
    require(numbers, field, mask, "must be an array of flags")
    allowed: npt.NDArray[np.bool_] = mask != 0
    require(bool(allowed.any(axis=-1).all()), field, mask, "must allow an action")
    return allowed


def _check_agents(field: str, given: Mapping[str, Any], spec: EnvSpec) -> None:
    if unknown := [agent for agent in given if agent not in spec.agents]:
        raise BadInput(field, unknown[0], f"no such agent; {did_you_mean(str(unknown[0]), spec.agents)}")


def _as_array(name: str, values: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(name, type(values).__name__, f"cannot be read as an array ({error})") from None


def _observation(name: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> FloatArray:
    """Check an agent's observation and return it as `[E, O_i]`."""
    require(array.shape == shape, name, array.shape, f"must have shape {shape}")
    require(array.dtype.kind in "fiub", name, str(array.dtype), "must be an array of numbers")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if (bad := array[~np.isfinite(values)]).size:
        raise BadInput(name, bad[0].item(), "must be finite in float32, without NaN or infinity")
    return values.reshape(-1, shape[-1])
