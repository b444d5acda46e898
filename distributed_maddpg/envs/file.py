"""Environments in a file of the user's, named by its path."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from distributed_maddpg.errors import BadInput, reason

_SUFFIX = ".py"


def is_file_id(env_id: str) -> bool:
    """Return whether an id names a file: "path/to/file.py" or "path/to/file.py:callable"."""
    return split_file_id(env_id)[0].endswith(_SUFFIX)


def split_file_id(env_id: str) -> tuple[str, str]:
    """Return path and callable of an id that names a file; the callable is empty if it names none."""
    if env_id.endswith(_SUFFIX):
        return env_id, ""
    path, _, attribute = env_id.rpartition(":")
    return path, attribute


def load_file(env_id: str, path: str) -> ModuleType:
    """Return the module in a file, which is run once in each process; its folder stays on `sys.path`.

    A relative path is one from the working directory, which is the driver's for Ray workers on its machine
    and the job's `working_dir` where it has one. Where there is no such file, the folders of `sys.path` are
    searched: Ray adds the driver's working directory to those of its workers.

    Raises:
        BadInput: if there is no such file, or it cannot be imported.
    """
    file = _found(env_id, path)
    # Two files may have the same name.
    name = f"{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadInput("env.id", env_id, "its file cannot be imported")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints to stdout, which carries JSON
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # for modules beside it, as for a script
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):  # a user's code may raise anything
            raise import_error(env_id, error) from error
        raise
    return module


def import_error(env_id: str, error: BaseException) -> BadInput:
    """Return the error for a module that raises while it is imported."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return BadInput("env.id", env_id, f"its module needs {error.name!r}, which is not installed")
    return BadInput("env.id", env_id, f"its module cannot be imported ({reason(error)})")


def _found(env_id: str, path: str) -> Path:
    for folder in (os.getcwd(), *sys.path):
        file = Path(folder, path)  # an absolute path is itself
        try:
            if file.is_file():
                return file.resolve()
        except (OSError, ValueError):  # such as a name that is too long, or has a null character
            break
    where = "" if Path(path).is_absolute() else f" in {os.getcwd()!r}"
    raise BadInput("env.id", env_id, f"there is no file {path!r}{where}; check the path")
