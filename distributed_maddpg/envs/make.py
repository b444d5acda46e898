"""Create vector environments by name."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import logging
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distributed_maddpg.envs.base import VectorEnv
from distributed_maddpg.errors import BadInput, did_you_mean, reason
from distributed_maddpg.types import MPE2_MODULES, EnvSpec, canonical_env_id
from distributed_maddpg.user_code import import_error, load_file, names_file, split_name

if TYPE_CHECKING:
    from distributed_maddpg.envs.spaces import ActionCodec

_LOG = logging.getLogger(__name__)

_BUILTIN_PACKAGES = ("mpe2", "pettingzoo")
_FACTORY_PREFIX = "factory:"
_DEFAULT_CALLABLES = ("parallel_env", "env")
_RESERVED_KWARGS = {"env_id", "num_envs", "seed", "backend", "measures"}
_BACKENDS = ("auto", "vectorized", "pettingzoo")

EnvFactory = Callable[..., Any]
"""Creates one environment of PettingZoo or Gymnasium; called with `env.kwargs`."""


def make_vector_env(
    env_id: str | EnvFactory,
    num_envs: int,
    seed: int,
    *,
    backend: str = "auto",
    measures: Sequence[str] = (),
    **env_kwargs: Any,
) -> VectorEnv:
    """Create E copies of an environment.

    Args:
        env_id: a scenario of MPE2, such as "simple_adversary" (or "mpe2.simple_adversary_v3"); any importable
            environment of PettingZoo or Gymnasium as "package.module", whose `parallel_env` or else `env` is
            called, or as "package.module:callable"; one in a file, as "path/to/file.py" or
            "path/to/file.py:callable"; or a callable.
        num_envs: E.
        seed: of all random streams; the stream of copy i depends only on the seed and i.
        backend: "vectorized" is the compiled scenario, "pettingzoo" steps the original environment copy by
            copy, "auto" uses the compiled one if there is one that knows the keywords.
        measures: numbers in infos to report, of environments that are not scenarios of MPE2.
        **env_kwargs: passed to the environment.

    Raises:
        BadInput: one line that names env.id, env.kwargs, env.measures, num_envs or env.backend.
    """
    if type(num_envs) is not int or num_envs < 1:
        raise BadInput("num_envs", num_envs, "must be a whole number, at least 1")
    if backend not in _BACKENDS:
        raise BadInput("env.backend", backend, f"must be one of {', '.join(_BACKENDS)}")
    if isinstance(env_id, str):
        env_id = canonical_env_id(env_id)
        if env_id in MPE2_MODULES:
            if measures:
                remedy = f"names numbers in infos, of which {env_id} has none; leave it out"
                raise BadInput("env.measures", list(measures), remedy)
            return _make_scenario(env_id, num_envs, seed, backend, env_kwargs)
    if backend == "vectorized":
        remedy = f"only {', '.join(MPE2_MODULES)} are compiled, not {env_id!r}; use 'auto' or 'pettingzoo'"
        raise BadInput("env.backend", backend, remedy)
    factory, name = (env_id, factory_id(env_id)) if callable(env_id) else (_find_factory(env_id), env_id)
    from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv  # noqa: PLC0415 - loads gymnasium

    return PettingZooVectorEnv(lambda: _make_copy(factory, name, env_kwargs), num_envs, seed, name, measures)


def parallel_env(env_id: str, **env_kwargs: Any) -> Any:
    """Return a compiled scenario as a PettingZoo parallel environment, for other libraries.

    Args:
        env_id: a scenario of MPE2, such as "simple_spread".
        **env_kwargs: MPE2's keywords.

    Raises:
        BadInput: one line that names env.id or env.kwargs.
    """
    from distributed_maddpg.envs.mpe.parallel_env import MPEParallelEnv  # noqa: PLC0415 - loads gymnasium
    from distributed_maddpg.envs.mpe.scenarios import make_scenario  # noqa: PLC0415 - loads numba

    name = canonical_env_id(env_id)
    if name not in MPE2_MODULES:
        raise BadInput("env_id", env_id, f"must be one of {', '.join(MPE2_MODULES)}")
    return MPEParallelEnv(make_scenario(name, env_kwargs))


def factory_id(factory: EnvFactory) -> str:
    """Return the `env.id` of an environment given as a callable: "factory:<its name>"."""
    function = getattr(factory, "func", factory)  # functools.partial
    return _FACTORY_PREFIX + getattr(function, "__qualname__", type(function).__name__)


def is_factory_id(env_id: str) -> bool:
    """Return whether an id stands for a callable, which cannot be restored from the id alone."""
    return env_id.startswith(_FACTORY_PREFIX)


def is_compiled(env: VectorEnv) -> bool:
    """Return whether the environment is stepped by this package's kernel, not by PettingZoo."""
    from distributed_maddpg.envs.mpe.vector_env import MPEVectorEnv  # noqa: PLC0415 - loads numba

    return isinstance(env, MPEVectorEnv)


def is_builtin(env_id: str) -> bool:
    """Return whether an id can only name an environment of this package's own dependencies.

    Any other id imports and calls what it names (for example "os:system"), so an untrusted file must not
    choose it.
    """
    if names_file(env_id):  # such as "mpe2.py"
        return False
    package, *parts = env_id.split(".")
    public = all(part.isidentifier() and part.isascii() and not part.startswith("_") for part in parts)
    return env_id in MPE2_MODULES or (package in _BUILTIN_PACKAGES and bool(parts) and public)


def env_spec(
    env_id: str | EnvFactory, backend: str, env_kwargs: Mapping[str, Any], measures: Sequence[str] = ()
) -> EnvSpec:
    """Return the spec of an environment; this creates and closes one copy."""
    for name in _RESERVED_KWARGS & set(env_kwargs):
        raise BadInput(
            f"env.kwargs.{name}", env_kwargs[name], "is a reserved name; an environment cannot take it"
        )
    env = make_vector_env(env_id, 1, 0, backend=backend, measures=measures, **env_kwargs)
    try:
        return env.spec
    finally:
        env.close()


def action_codecs(
    env_id: str | EnvFactory, backend: str, env_kwargs: Mapping[str, Any]
) -> tuple[ActionCodec, ...]:
    """Return what converts each agent's actions to those of its space; this creates and closes one copy."""
    from distributed_maddpg.envs.mpe.parallel_env import MPEParallelEnv  # noqa: PLC0415 - loads gymnasium
    from distributed_maddpg.envs.mpe.vector_env import MPEVectorEnv  # noqa: PLC0415 - loads numba
    from distributed_maddpg.envs.spaces import action_codec  # noqa: PLC0415 - loads gymnasium

    env: Any = make_vector_env(env_id, 1, 0, backend=backend, **env_kwargs)
    try:
        if not isinstance(env, MPEVectorEnv):
            return tuple(env.action_codecs)
        spaces = MPEParallelEnv(env.scenario).action_spaces
        return tuple(action_codec(str(env_id), agent, space) for agent, space in spaces.items())
    finally:
        env.close()


def _make_scenario(name: str, num_envs: int, seed: int, backend: str, kwargs: dict[str, Any]) -> VectorEnv:
    from distributed_maddpg.envs.mpe.scenarios import keywords, make_scenario  # noqa: PLC0415 - loads numba

    new = [keyword for keyword in kwargs if keyword not in keywords(name)]
    if new and backend != "vectorized" and _mpe2_takes(name, new):
        return _make_original(name, num_envs, seed, kwargs, f"env.kwargs.{new[0]} is not known to")
    scenario = make_scenario(name, kwargs)
    if backend == "auto" and scenario.options.render_mode is not None:
        _warn_slow(name, "env.kwargs.render_mode is not for")
        backend = "pettingzoo"
    if backend == "pettingzoo":
        from distributed_maddpg.envs.mpe.mpe2_env import MPE2VectorEnv  # noqa: PLC0415 - loads gymnasium

        return MPE2VectorEnv(_find_factory(MPE2_MODULES[name]), scenario, num_envs, seed)
    from distributed_maddpg.envs.mpe.vector_env import MPEVectorEnv  # noqa: PLC0415 - loads numba

    return MPEVectorEnv(scenario, num_envs, seed)


def _make_original(name: str, num_envs: int, seed: int, kwargs: dict[str, Any], why: str) -> VectorEnv:
    """Return MPE2's environment as any other: this package may not know its state, for a later MPE2."""
    from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv  # noqa: PLC0415 - loads gymnasium

    _warn_slow(name, why)
    factory = _find_factory(MPE2_MODULES[name])
    return PettingZooVectorEnv(lambda: _make_copy(factory, name, kwargs), num_envs, seed, name)


def _warn_slow(name: str, why: str) -> None:
    _LOG.warning("%s the compiled %s: MPE2 steps it copy by copy, which is slow", why, name)


def _mpe2_takes(name: str, keywords: list[str]) -> bool:
    """Return whether the installed MPE2 has these keywords, which this package does not know."""
    raw_env = _import(name, MPE2_MODULES[name]).raw_env
    return set(keywords) <= set(inspect.signature(raw_env.__init__).parameters)


def _make_copy(factory: Callable[..., Any], env_id: str, kwargs: dict[str, Any]) -> Any:
    try:
        return factory(**copy.deepcopy(kwargs))  # a copy may change its own lists
    except (Exception, SystemExit) as error:  # an environment may raise anything for bad keywords
        given = f" with env.kwargs = {kwargs}" if kwargs else ""
        raise BadInput("env.id", env_id, f"cannot be created{given} ({reason(error)})") from error


def _find_factory(env_id: str) -> Callable[..., Any]:
    """Import the callable that an id names, from a package or a file."""
    if is_factory_id(env_id):
        remedy = "was given in Python as a callable; pass it again, as in MADDPG(config, env=make_env)"
        raise BadInput("env.id", env_id, remedy)
    if names_file(env_id):
        path, attribute = split_name(env_id)
        shown, form = f"file {path!r}", "path/to/file.py:callable"
        return _callable_of(load_file("env.id", env_id, path), env_id, attribute, shown, form)
    module_name, _, attribute = env_id.partition(":")
    if not all(module_name.split(".")):
        raise BadInput(
            "env.id",
            env_id,
            "must be a scenario of MPE2, 'package.module', 'package.module:callable' or 'path/to/file.py'",
        )
    module = _import(env_id, module_name)
    return _callable_of(module, env_id, attribute, f"module {module_name!r}", "package.module:callable")


def _callable_of(module: Any, env_id: str, attribute: str, shown: str, form: str) -> Callable[..., Any]:
    """Return a module's `attribute`; if that is empty, its `parallel_env` or else its `env`."""
    names = (attribute,) if attribute else _DEFAULT_CALLABLES
    for name in names:
        found: Callable[..., Any] | None = getattr(module, name, None)
        if callable(found):
            return found
    missing = " or ".join(map(repr, names))
    raise BadInput("env.id", env_id, f"{shown} has no callable {missing}; name one as '{form}'")


def _import(env_id: str, module_name: str) -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame prints to stdout, which carries JSON
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # importing third-party code may raise anything
        missing = (isinstance(error, ModuleNotFoundError) and error.name) or ""
        if missing and (module_name == missing or module_name.startswith(f"{missing}.")):
            raise BadInput("env.id", env_id, _unknown_environment(module_name)) from error
        raise import_error("env.id", env_id, error) from error


def _unknown_environment(module_name: str) -> str:
    package = module_name.rpartition(".")[0]
    known = _public_modules(package or "mpe2")
    if not package:
        known = [*MPE2_MODULES, *known]
    if not known:
        return f"there is no package {package!r} here; install it, or check the name"
    return f"there is no such environment, {did_you_mean(module_name, known)}"


def _public_modules(package: str) -> list[str]:
    """Return full names of a package's public modules; empty if there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None or spec.submodule_search_locations is None:
        return []
    found = [module.name for module in pkgutil.iter_modules(spec.submodule_search_locations)]
    return [f"{package}.{name}" for name in found if not name.startswith("_")]
