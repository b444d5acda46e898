"""What a user's own code is told while a run trains."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed_maddpg.errors import BadInput, one_line, reason

if TYPE_CHECKING:
    from distributed_maddpg.trainer import MADDPG

OPTION = "--callbacks"
_MAX_NAME_CHARS = 100


class Callbacks:
    """Called in the process that started the run, between two rounds; override what you need.

    Training waits for a call in one process, and with Ray once the work in flight is done, so a call should
    be short. `algo` is the run; of several seeds each has an object of its own. `algo.request_stop()` ends
    the run as an interrupt does. A call that raises ends it as a failed stage does, with a checkpoint saved.
    """

    def on_result(self, algo: MADDPG, result: dict[str, Any]) -> None:
        """Take the result of a report interval, as `algo.train` returns it."""

    def on_evaluation(self, algo: MADDPG, evaluation: dict[str, Any]) -> None:
        """Take an evaluation, with `num_env_steps` and `num_updates` of the weights; also the final one."""

    def on_checkpoint(self, algo: MADDPG, path: str) -> None:
        """Take the path, or the URL, of a checkpoint that is written; also of the final one."""


MakeCallbacks = Callable[[], Callbacks]
"""A subclass of `Callbacks`, or a function that returns an object of one; called once for each run."""


class GuardedCallbacks:
    """The callbacks of a run; the first error of one is kept, and none is called after it."""

    def __init__(self, make: MakeCallbacks | None, algo: MADDPG) -> None:
        """Make the object.

        Raises:
            BadInput: if that fails, or it is no `Callbacks`.
        """
        self._algo = algo
        self._callbacks: Callbacks | None = None
        self._name = ""
        self.problem = ""
        """What a callback raised, in one line; empty if none did."""
        if make is None:
            return
        self._name = one_line(getattr(make, "__qualname__", type(make).__name__), _MAX_NAME_CHARS)
        try:
            made = make()
        except (Exception, SystemExit) as error:  # a user's code may raise anything
            raise BadInput(OPTION, self._name, f"cannot be made ({reason(error)})") from error
        if not isinstance(made, Callbacks):
            remedy = f"makes a {type(made).__name__}; it must be a class derived from Callbacks"
            raise BadInput(OPTION, self._name, remedy)
        self._callbacks = made

    def on_result(self, result: dict[str, Any]) -> None:
        """Call it."""
        if self._callbacks is not None:
            self._call(self._callbacks.on_result, result)

    def on_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Call it."""
        if self._callbacks is not None:
            self._call(self._callbacks.on_evaluation, evaluation)

    def on_checkpoint(self, path: str) -> None:
        """Call it."""
        if self._callbacks is not None:
            self._call(self._callbacks.on_checkpoint, path)

    def _call(self, method: Callable[[MADDPG, Any], None], value: Any) -> None:
        try:
            method(self._algo, copy.deepcopy(value))  # the run goes on with its own
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise anything
            self._callbacks = None
            frames = traceback.extract_tb(error.__traceback__)[1:2]  # the first is this method's
            where = "".join(f" at {frame.filename}:{frame.lineno}" for frame in frames)
            name = getattr(method, "__name__", type(method).__name__)
            self.problem = one_line(f"{self._name}.{name} failed{where} ({reason(error)})")


def check_callbacks(make: Any) -> None:
    """Refuse what makes no callbacks, such as an object of them.

    Raises:
        BadInput: saying what to give.
    """
    if make is not None and not callable(make):
        remedy = "must be a class derived from Callbacks, or a function that returns an object of one"
        raise BadInput("callbacks", make, remedy)
