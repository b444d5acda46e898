"""Measures of an environment that is not compiled: numbers in the infos of its steps.

An environment names them in its attributes `measures` (the value at the end of an episode) and
`step_measures` (the mean over its steps), each a dict of name and one-line text; the setting `env.measures`
names others, with the value at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import Measure

_NUMBERS = (float, int, np.floating, np.integer, np.bool_)
_AT_END, _OVER_STEPS = "measures", "step_measures"
_OF_SETTING = "as at the end of the episode"


class EpisodeMeasures:
    """The measures of E copies' running episodes, and those of their latest finished episodes.

    Args:
        env_id: name of the environment in errors.
        env: one copy, whose attributes declare its measures.
        named: keys of infos that `env.measures` names.
        num_envs: E.

    Raises:
        BadInput: if a declaration or a name cannot be used.
    """

    def __init__(self, env_id: str, env: Any, named: Sequence[str], num_envs: int) -> None:
        self._id = env_id
        at_end, over_steps = (_declared(env_id, env, each) for each in (_AT_END, _OVER_STEPS))
        texts = [*at_end.items(), *over_steps.items()]
        texts += [(key, _OF_SETTING) for key in named if key not in at_end and key not in over_steps]
        self._keys = [key for key, _ in texts]
        self.measures = tuple(Measure(column_name(key), text) for key, text in texts)
        names = [measure.name for measure in self.measures]
        for key, name in zip(self._keys, names, strict=True):
            if names.count(name) > 1:
                remedy = f"another measure has the column {name!r} as well; rename one"
                raise BadInput("env.measures", key, remedy)
        self._over_steps = [at >= len(at_end) and key in over_steps for at, key in enumerate(self._keys)]
        self._sums, self._counts = np.zeros((2, num_envs, len(names)))
        self._latest: Any = None
        self.final: npt.NDArray[np.float64] = np.zeros((num_envs, len(names)))
        """[E, K] of each copy's latest finished episode."""

    def start(self, e: int) -> None:
        """Begin an episode of a copy."""
        self._sums[e] = self._counts[e] = 0.0

    def step(self, e: int, infos: Any) -> None:
        """Add the infos by agent of one step of a copy.

        Raises:
            BadInput: if a measure in them is not one finite number.
        """
        self._latest = infos
        for k, key in enumerate(self._keys):
            found = list(_values_of(key, infos))
            values = [self._number(value, key, agent) for agent, value in found]
            if not self._over_steps[k]:
                self._sums[e, k] = self._counts[e, k] = 0.0
            if values:
                self._sums[e, k] += math.fsum(values) / len(values)
                self._counts[e, k] += 1.0

    def end(self, e: int) -> None:
        """Store the measures of a copy's episode, whose last step was added.

        Raises:
            BadInput: if infos lacked one of them.
        """
        if not self._counts[e].all():
            missing = int(self._counts[e].argmin())
            when = "in any step" if self._over_steps[missing] else "in the last step"
            remedy = f"an episode ended whose infos held no {self._keys[missing]!r} {when}, of any agent"
            raise BadInput("env.id", self._id, f"{remedy}; it is one of its measures")
        self.final[e] = self._sums[e] / self._counts[e]

    def unused_numbers(self) -> list[str]:
        """Return the keys of numbers in the infos added last, of which no measure is made."""
        return [key for key in numbers_in(self._latest) if key not in self._keys]

    def _number(self, value: Any, key: str, agent: Any) -> float:
        number = as_number(value)
        if number is None or not math.isfinite(number):
            remedy = f"its measure {key!r} is {value!r} in the infos of {agent}; it must be a finite number"
            raise BadInput("env.id", self._id, remedy)
        return number


def as_number(value: Any) -> float | None:
    """Return a number, a flag or an array of one number as a float; None for anything else."""
    if isinstance(value, _NUMBERS):
        return float(value)
    is_number = isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "fiub"
    return float(value.item()) if is_number else None


def numbers_in(infos: Any) -> list[str]:
    """Return the keys in infos by agent whose values are numbers."""
    if not isinstance(infos, Mapping):
        return []
    own = [info for info in infos.values() if isinstance(info, Mapping)]
    found = (key for info in own for key, value in info.items() if as_number(value) is not None)
    return sorted({key for key in found if isinstance(key, str)})


def column_name(key: str) -> str:
    """Return a measure's name for a key of infos: lower case with underscores.

    Raises:
        BadInput: if the key has no letter or digit.
    """
    name = re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_")
    if not name:
        raise BadInput("env.measures", key, "must contain a letter or a digit from a to z, 0 to 9")
    return name


def _values_of(key: str, infos: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the agents whose info holds the key, each with its value."""
    for agent, info in infos.items() if isinstance(infos, Mapping) else ():
        if isinstance(info, Mapping) and key in info:
            yield agent, info[key]


def _declared(env_id: str, env: Any, attribute: str) -> dict[str, str]:
    """Return the texts by name that an environment, or one inside its wrappers, declares."""
    for layer in _layers(env):
        texts = getattr(layer, attribute, None)
        if texts is None:
            continue
        fits = isinstance(texts, Mapping) and all(
            isinstance(key, str) and isinstance(text, str) for key, text in texts.items()
        )
        if not fits:
            raise BadInput("env.id", env_id, f"its {attribute} must be a dict of name and one-line text")
        return {key: " ".join(text.split()) for key, text in texts.items()}
    return {}


def _layers(env: Any) -> Iterator[Any]:
    """Yield an environment, those inside its wrappers, and the innermost one."""
    layer = env
    while layer is not None:
        yield layer
        layer = getattr(layer, "env", None)
    yield getattr(env, "unwrapped", None)
