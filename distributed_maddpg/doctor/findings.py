"""What the facts mean: findings with levels and remedies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from distributed_maddpg.doctor.facts import Facts, Gpu, Machine, Numerics, Packages, Process, RayFacts
from distributed_maddpg.run.plan_text import size

Level = Literal["ok", "note", "problem"]

_MIB, _GIB = 2**20, 2**30
_RUN_BYTES = 1_200 * _MIB
"""Memory of a run with one worker and the default replay buffer."""
_LEAST_DISK_BYTES, _LITTLE_DISK_BYTES = 200 * _MIB, 3 * _GIB
_LARGE_TEMP_BYTES = 5 * _GIB
_DAY_S = 86_400.0
_OLD_CODE = {
    "prescott",
    "core2",
    "nehalem",
    "katmai",
    "coppermine",
    "northwood",
    "banias",
    "generic",
    "barcelona",
}
"""Processors of OpenBLAS without AVX2."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    """problem: it would stop a run. note: it slows one, or may surprise."""
    found: str
    remedy: str = ""


def findings(facts: Facts) -> list[Finding]:
    """Return all findings, in the order in which they are shown."""
    return [
        *_packages(facts.packages),
        *_machine(facts.machine),
        _gpu(facts.gpu),
        *_numerics(facts.numerics, facts.machine.usable_cores),
        _shared_memory(facts.machine, facts.ray),
        *_ray(facts.ray),
    ]


def _packages(facts: Packages) -> Iterator[Finding]:
    from packaging.requirements import Requirement  # noqa: PLC0415 - not needed for --help
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415

    fits = facts.python in SpecifierSet(facts.python_range)
    remedy = "" if fits else f"make an environment with Python {facts.python_range}"
    yield Finding("python", "ok" if fits else "problem", f"{facts.python}", remedy)
    if not facts.requirements:
        remedy = "install the package, as in pip install -e ."
        yield Finding(
            "packages", "note", "this package is not installed, so that no versions are known", remedy
        )
        return
    bad, good = [], []
    for requirement in map(Requirement, facts.requirements):
        version = facts.installed.get(requirement.name)
        if version is None:
            bad.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            bad.append(f"{requirement.name} {version} is not {requirement.specifier}")
        else:
            good.append(f"{requirement.name} {version}")
    if bad:
        remedy = "install them: pip install -c constraints.txt -e . in the checkout"
        yield Finding("packages", "problem", ", ".join(bad), remedy)
    else:
        yield Finding("packages", "ok", ", ".join(good))


def _machine(facts: Machine) -> Iterator[Finding]:
    limited = facts.usable_cores < facts.cores
    found = f"{facts.usable_cores} of {facts.cores} usable" if limited else f"{facts.cores}"
    remedy = "affinity or a control group limits them; a run with more workers than cores is slower"
    yield Finding("cores", "note" if limited else "ok", found, remedy if limited else "")
    free = min(facts.memory_free_bytes, facts.memory_limit_bytes)
    scarce = free < _RUN_BYTES
    limit = facts.memory_limit_bytes < facts.memory_bytes
    within = f", of which a container may use {size(facts.memory_limit_bytes)}" if limit else ""
    remedy = (
        f"a run with one worker takes about {size(_RUN_BYTES)}; lower replay.capacity or end other programs"
    )
    found = f"{size(free)} free of {size(facts.memory_bytes)}{within}"
    yield Finding("memory", "problem" if scarce else "ok", found, remedy if scarce else "")
    yield _folder(facts)
    ahead = facts.package_written - facts.now
    if ahead > _DAY_S:
        found = f"says {datetime.fromtimestamp(facts.now, UTC):%Y-%m-%d}, before this package was written"
        yield Finding("clock", "note", found, "set it: names of runs, tokens and certificates depend on it")


def _folder(facts: Machine) -> Finding:
    found = f"{facts.folder}: {size(facts.folder_free_bytes)} free"
    if not facts.folder_writable:
        remedy = "go to a folder of yours, or give --run-dir one"
        return Finding("folder", "problem", f"{facts.folder} cannot be written to", remedy)
    remedy = "a checkpoint of the default settings takes 300 MB; --run-dir may be on another disk"
    if facts.folder_free_bytes < _LEAST_DISK_BYTES:
        return Finding("folder", "problem", found, remedy)
    little = facts.folder_free_bytes < _LITTLE_DISK_BYTES
    return Finding("folder", "note" if little else "ok", found, remedy if little else "")


def _gpu(facts: Gpu) -> Finding:
    """Return the GPUs that torch sees, or why it sees none."""
    torch = f"torch {facts.torch_version}"
    if facts.torch_error:
        remedy = "install torch again, see pytorch.org/get-started"
        return Finding("gpu", "problem", f"torch cannot be imported ({facts.torch_error})", remedy)
    if facts.seen:
        return Finding("gpu", "ok", f"{', '.join(facts.seen)} ({torch}, CUDA {facts.torch_cuda})")
    if not facts.there and not facts.driver_cuda:
        if facts.cards:
            remedy = "install NVIDIA's driver; nvidia-smi must list the GPU"
            return Finding("gpu", "note", f"{facts.cards} NVIDIA cards here, but no driver works", remedy)
        return Finding("gpu", "ok", f"none, {torch}: the learner runs on the CPU")
    names = ", ".join(facts.there) or "a driver"
    return Finding("gpu", "note", f"{names} here, but {torch} sees none", _gpu_remedy(facts))


def _gpu_remedy(facts: Gpu) -> str:
    if not facts.torch_cuda:
        return "this is torch's CPU build; install one for CUDA, see pytorch.org/get-started"
    if facts.visible_devices is not None and facts.visible_devices.strip() in ("", "-1", "NoDevFiles"):
        return f"CUDA_VISIBLE_DEVICES is {facts.visible_devices!r}, which hides them; unset it"
    if not facts.there:
        return "the driver lists no GPU; give the container access to one (docker run --gpus all)"
    if _major(facts.driver_cuda) < _major(facts.torch_cuda):
        return (
            f"the driver knows CUDA {facts.driver_cuda}, torch was built for {facts.torch_cuda}; "
            "install a newer driver, or a torch for the driver's CUDA"
        )
    return "look at nvidia-smi and at python -c 'import torch; torch.zeros(1).cuda()'"


def _major(version: str) -> int:
    head = version.partition(".")[0]
    return int(head) if head.isdigit() else 0


def _numerics(facts: Numerics, cores: int) -> Iterator[Finding]:
    many = {name: text for name, text in facts.threads.items() if text.isdigit() and int(text) > cores}
    if many:
        found = ", ".join(f"{name} = {text}" for name, text in many.items())
        remedy = f"more threads than the {cores} usable cores slow each other; unset them"
        yield Finding("threads", "note", found, remedy)
    else:
        found = ", ".join(f"{name} = {text}" for name, text in facts.threads.items())
        yield Finding("threads", "ok", found or "none set; each process of a run chooses its own")
    yield _openblas(facts)
    if facts.numba_cache_problem:
        remedy = "set NUMBA_CACHE_DIR to a folder of yours; until then each process compiles again"
        yield Finding("numba cache", "note", facts.numba_cache_problem, remedy)
    else:
        yield Finding("numba cache", "ok", "can be written")


def _openblas(facts: Numerics) -> Finding:
    if facts.coretype:
        remedy = "unset it unless it mends a processor that OpenBLAS does not know; results depend on it"
        return Finding("OPENBLAS_CORETYPE", "note", f"{facts.coretype} (in use: {facts.openblas})", remedy)
    if facts.vectors and facts.openblas.lower() in _OLD_CODE:
        better = "SkylakeX" if facts.vectors == "avx512" else "Haswell"
        remedy = f"export OPENBLAS_CORETYPE={better}: products of matrices are slower without"
        found = f"numpy's OpenBLAS takes this processor, which has {facts.vectors}, for {facts.openblas}"
        return Finding("OPENBLAS_CORETYPE", "note", found, remedy)
    return Finding("OPENBLAS_CORETYPE", "ok", f"not set; in use: {facts.openblas or 'another library'}")


def _shared_memory(machine: Machine, ray: RayFacts) -> Finding:
    need = size(ray.object_store_bytes)
    found = (
        f"{size(machine.shm_free_bytes)} free of {size(machine.shm_bytes)}, Ray's object store takes {need}"
    )
    if machine.shm_free_bytes >= ray.object_store_bytes:
        return Finding("/dev/shm", "ok", found)
    remedy = "give the container more (docker run --shm-size 1g): Ray uses the disk instead, which is slow"
    return Finding("/dev/shm", "note", found, remedy)


def _ray(facts: RayFacts) -> Iterator[Finding]:
    yield _token(facts)
    if facts.orphans:
        remedy = (
            f"kill {' '.join(str(each.pid) for each in facts.orphans)}; the next run with workers does so too"
        )
        yield Finding("stale processes", "note", f"{_listed(facts.orphans)} of runs that were killed", remedy)
    else:
        yield Finding("stale processes", "ok", "none of this package's runs")
    if facts.clusters:
        remedy = (
            "if nobody needs it: ray stop, which ends every cluster of yours here, or kill those processes"
        )
        count = len(facts.clusters)
        found = f"{count} node{'s' if count > 1 else ''} running here: {_listed(facts.clusters)}"
        yield Finding("ray clusters", "note", found, remedy)
    else:
        yield Finding("ray clusters", "ok", "none running here")
    large = facts.temp_bytes > _LARGE_TEMP_BYTES or facts.temp_free_bytes < _LEAST_DISK_BYTES
    found = f"{facts.temp_folder}: {size(facts.temp_bytes)}, {size(facts.temp_free_bytes)} free on its disk"
    remedy = f"delete {facts.temp_folder}/session_* while no Ray runs"
    yield Finding("ray files", "note" if large else "ok", found, remedy if large else "")


def _listed(processes: tuple[Process, ...]) -> str:
    shown = ", ".join(f"{each.name} ({each.pid})" for each in processes[:5])
    return f"{shown}{f' and {len(processes) - 5} more' if len(processes) > 5 else ''}"


def _token(facts: RayFacts) -> Finding:
    mode = facts.auth_mode.lower()
    if mode not in ("", "token", "disabled"):
        remedy = "must be token or disabled; correct or unset it"
        return Finding("ray token", "problem", f"RAY_AUTH_MODE = {facts.auth_mode!r}", remedy)
    if facts.token_file and facts.token_permissions & 0o077:
        found = f"{facts.token_file} can be read by others (mode {facts.token_permissions:03o})"
        return Finding("ray token", "note", found, f"chmod 600 {facts.token_file}")
    if facts.address and mode == "token" and not facts.has_token:
        remedy = "copy the head's ~/.ray/auth_token, or set RAY_AUTH_TOKEN"
        return Finding("ray token", "problem", f"none for the cluster at {facts.address}", remedy)
    if mode == "disabled":
        remedy = "unset RAY_AUTH_MODE: without a token whoever reaches a port of Ray can run programs as you"
        return Finding("ray token", "note", "RAY_AUTH_MODE = disabled", remedy)
    found = "there is one" if facts.has_token else "none; a run's own cluster makes one"
    return Finding("ray token", "ok", found)
