"""Imports what a user names: from an installed package, a module on `sys.path`, or a file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from distributed_maddpg.errors import BadInput, reason

_SUFFIX = ".py"


def names_file(name: str) -> bool:
    """Return whether a name is that of a file: "path/to/file.py" or "path/to/file.py:attribute"."""
    return split_name(name)[0].endswith(_SUFFIX)


def split_name(name: str) -> tuple[str, str]:
    """Return file or module, and the attribute; that is empty if the name has none."""
    if name.endswith(_SUFFIX) or ":" not in name:
        return name, ""
    path, _, attribute = name.rpartition(":")
    return path, attribute


def load_callable(field: str, name: str) -> Any:
    """Import the callable named "package.module:attribute" or "path/to/file.py:attribute".

    Args:
        field: the setting that holds the name, for errors.
        name: the name.

    Raises:
        BadInput: naming the field, if there is no such callable or its module cannot be imported.
    """
    place, attribute = split_name(name)
    if not attribute or not (names_file(name) or all(place.split("."))):
        raise BadInput(field, name, "must be 'package.module:name' or 'path/to/file.py:name'")
    module = load_file(field, name, place) if names_file(name) else _load_module(field, name, place)
    found = getattr(module, attribute, None)
    if not callable(found):
        raise BadInput(field, name, f"{place!r} has no callable {attribute!r}; check the name")
    return found


def load_file(field: str, name: str, path: str) -> ModuleType:
    """Return the module in a file, which is run once in each process; its folder stays on `sys.path`.

    A relative path is one from the working directory, which is the driver's for Ray workers on its machine
    and the job's `working_dir` where it has one. Where there is no such file, the folders of `sys.path` are
    searched: Ray adds the driver's working directory to those of its workers.

    Args:
        field: the setting that holds the name, for errors.
        name: what the setting holds.
        path: of the file.

    Raises:
        BadInput: if there is no such file, or it cannot be imported.
    """
    file = _found(field, name, path)
    # Two files may have the same name.
    module_name = f"{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:12]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise BadInput(field, name, "its file cannot be imported")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints to stdout, which carries JSON
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # for modules beside it, as for a script
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, Exception | SystemExit):  # a user's code may raise anything
            raise import_error(field, name, error) from error
        raise
    return module


def import_error(field: str, name: str, error: BaseException) -> BadInput:
    """Return the error for a module that raises while it is imported."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return BadInput(field, name, f"its module needs {error.name!r}, which is not installed")
    return BadInput(field, name, f"its module cannot be imported ({reason(error)})")


def _load_module(field: str, name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        missing = (isinstance(error, ModuleNotFoundError) and error.name) or ""
        if missing and (module == missing or module.startswith(f"{missing}.")):
            remedy = f"there is no module {module!r} here; check the name, or install its package"
            raise BadInput(field, name, remedy) from error
        raise import_error(field, name, error) from error


def _found(field: str, name: str, path: str) -> Path:
    for folder in (os.getcwd(), *sys.path):
        file = Path(folder, path)  # an absolute path is itself
        try:
            if file.is_file():
                return file.resolve()
        except (OSError, ValueError):  # such as a name that is too long, or has a null character
            break
    where = "" if Path(path).is_absolute() else f" in {os.getcwd()!r}"
    raise BadInput(field, name, f"there is no file {path!r}{where}; check the path")
