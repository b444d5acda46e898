import dataclasses

import pytest

from distributed_maddpg.doctor.facts import Facts, Gpu, Machine, Numerics, Packages, Process, RayFacts
from distributed_maddpg.doctor.findings import findings

GIB = 2**30
GOOD = Facts(
    Packages("3.13.1", ">=3.11,<3.14", ("torch>=2.6", "ray>=2.59"), {"torch": "2.8.0+cpu", "ray": "2.60.0"}),
    Machine(
        cores=8,
        usable_cores=8,
        memory_bytes=16 * GIB,
        memory_limit_bytes=16 * GIB,
        memory_free_bytes=12 * GIB,
        folder="/home/me",
        folder_writable=True,
        folder_free_bytes=50 * GIB,
        shm_bytes=8 * GIB,
        shm_free_bytes=8 * GIB,
        now=1_800_000_000.0,
        package_written=1_790_000_000.0,
    ),
    Gpu("", "2.8.0+cpu"),
    Numerics({"OMP_NUM_THREADS": "1"}, "", "SkylakeX", "avx512", ""),
    RayFacts(object_store_bytes=272 * 2**20, temp_free_bytes=50 * GIB),
)
CUDA = Gpu("", "2.8.0+cu128", "12.8", (), ("NVIDIA H200",), "12.8")


def test_a_good_machine_has_no_notes():
    found = {each.name: (each.level, each.found, each.remedy) for each in findings(GOOD)}
    assert found == {
        "python": ("ok", "3.13.1", ""),
        "packages": ("ok", "torch 2.8.0+cpu, ray 2.60.0", ""),
        "cores": ("ok", "8", ""),
        "memory": ("ok", "12 GiB free of 16 GiB", ""),
        "folder": ("ok", "/home/me: 50 GiB free", ""),
        "gpu": ("ok", "none, torch 2.8.0+cpu: the learner runs on the CPU", ""),
        "threads": ("ok", "OMP_NUM_THREADS = 1", ""),
        "OPENBLAS_CORETYPE": ("ok", "not set; in use: SkylakeX", ""),
        "numba cache": ("ok", "can be written", ""),
        "/dev/shm": ("ok", "8 GiB free of 8 GiB, Ray's object store takes 272 MiB", ""),
        "ray token": ("ok", "none; a run's own cluster makes one", ""),
        "stale processes": ("ok", "none of this package's runs", ""),
        "ray clusters": ("ok", "none running here", ""),
        "ray files": ("ok", "/tmp/ray: 0 B, 50 GiB free on its disk", ""),
    }


CASES = {
    "old Python": (
        {"packages": {"python": "3.10.4"}},
        ("python", "problem", "3.10.4", "make an environment with Python >=3.11,<3.14"),
    ),
    "new Python": (
        {"packages": {"python": "3.14.0"}},
        ("python", "problem", "3.14.0", "make an environment"),
    ),
    "old and missing packages": (
        {"packages": {"installed": {"torch": "2.5.1"}}},
        ("packages", "problem", "torch 2.5.1 is not >=2.6, ray is missing", "pip install -c constraints.txt"),
    ),
    "nothing installed": (
        {"packages": {"requirements": ()}},
        ("packages", "note", "not installed", "pip install -e ."),
    ),
    "cores of a container": (
        {"machine": {"usable_cores": 2}},
        ("cores", "note", "2 of 8 usable", "affinity or a control group"),
    ),
    "memory of a container": (
        {"machine": {"memory_limit_bytes": GIB}},
        ("memory", "problem", "1 GiB free of 16 GiB, of which a container may use 1 GiB", "replay.capacity"),
    ),
    "little memory": (
        {"machine": {"memory_free_bytes": GIB}},
        ("memory", "problem", "1 GiB free", "end other"),
    ),
    "no folder": (
        {"machine": {"folder_writable": False}},
        ("folder", "problem", "/home/me cannot be written to", "--run-dir"),
    ),
    "full disk": ({"machine": {"folder_free_bytes": 2**20}}, ("folder", "problem", "1 MiB free", "300 MB")),
    "nearly full disk": ({"machine": {"folder_free_bytes": GIB}}, ("folder", "note", "1 GiB free", "300 MB")),
    "clock": (
        {"machine": {"now": 1_000_000.0}},
        ("clock", "note", "says 1970-01-12, before this package was written", "set it"),
    ),
    "broken torch": (
        {"gpu": Gpu(torch_error="OSError: libcudart.so.12")},
        ("gpu", "problem", "torch cannot be imported (OSError: libcudart.so.12)", "install torch again"),
    ),
    "GPU": (
        {"gpu": dataclasses.replace(CUDA, seen=("NVIDIA H200",))},
        ("gpu", "ok", "NVIDIA H200 (torch 2.8.0+cu128, CUDA 12.8)", ""),
    ),
    "CPU build": (
        {"gpu": dataclasses.replace(CUDA, torch_version="2.8.0+cpu", torch_cuda="")},
        ("gpu", "note", "NVIDIA H200 here, but torch 2.8.0+cpu sees none", "this is torch's CPU build"),
    ),
    "hidden GPU": (
        {"gpu": dataclasses.replace(CUDA, visible_devices="")},
        ("gpu", "note", "sees none", "CUDA_VISIBLE_DEVICES is '', which hides them; unset it"),
    ),
    "old driver": (
        {"gpu": dataclasses.replace(CUDA, torch_cuda="13.0")},
        (
            "gpu",
            "note",
            "sees none",
            "the driver knows CUDA 12.8, torch was built for 13.0; install a newer driver",
        ),
    ),
    "driver without GPU": (
        {"gpu": dataclasses.replace(CUDA, there=())},
        ("gpu", "note", "a driver here, but torch 2.8.0+cu128 sees none", "docker run --gpus all"),
    ),
    "no driver": (
        {"gpu": Gpu("", "2.8.0+cu128", "12.8", cards=2)},
        ("gpu", "note", "2 NVIDIA cards here, but no driver works", "install NVIDIA's driver"),
    ),
    "GPU for no known reason": ({"gpu": CUDA}, ("gpu", "note", "sees none", "look at nvidia-smi")),
    "too many threads": (
        {"numerics": {"threads": {"OMP_NUM_THREADS": "64", "MKL_NUM_THREADS": "4"}}},
        ("threads", "note", "OMP_NUM_THREADS = 64", "more threads than the 8 usable cores"),
    ),
    "no threads set": ({"numerics": {"threads": {}}}, ("threads", "ok", "none set", "")),
    "core type": (
        {"numerics": {"coretype": "Haswell", "openblas": "Haswell"}},
        ("OPENBLAS_CORETYPE", "note", "Haswell (in use: Haswell)", "unset it unless"),
    ),
    "processor that OpenBLAS does not know": (
        {"numerics": {"openblas": "Prescott"}},
        ("OPENBLAS_CORETYPE", "note", "which has avx512, for Prescott", "export OPENBLAS_CORETYPE=SkylakeX"),
    ),
    "no numba cache": (
        {"numerics": {"numba_cache_problem": "none of these can be written to: /x"}},
        ("numba cache", "note", "none of these can be written to: /x", "set NUMBA_CACHE_DIR"),
    ),
    "small /dev/shm": (
        {"machine": {"shm_bytes": 64 * 2**20, "shm_free_bytes": 64 * 2**20}},
        ("/dev/shm", "note", "64 MiB free of 64 MiB, Ray's object store takes 272 MiB", "--shm-size"),
    ),
    "open token": (
        {"ray": {"has_token": True, "token_file": "/home/me/.ray/auth_token", "token_permissions": 0o644}},
        ("ray token", "note", "can be read by others (mode 644)", "chmod 600 /home/me/.ray/auth_token"),
    ),
    "unknown mode": ({"ray": {"auth_mode": "tokn"}}, ("ray token", "problem", "'tokn'", "token or disabled")),
    "no token for a cluster": (
        {"ray": {"auth_mode": "token", "address": "h:6379"}},
        ("ray token", "problem", "none for the cluster at h:6379", "copy the head's"),
    ),
    "no authentication": (
        {"ray": {"auth_mode": "disabled"}},
        ("ray token", "note", "RAY_AUTH_MODE = disabled", "unset RAY_AUTH_MODE"),
    ),
    "a token": ({"ray": {"auth_mode": "token", "has_token": True}}, ("ray token", "ok", "there is one", "")),
    "orphans": (
        {"ray": {"orphans": tuple(Process(pid, "raylet") for pid in range(7))}},
        (
            "stale processes",
            "note",
            "raylet (4) and 2 more of runs that were killed",
            "kill 0 1 2 3 4 5 6; the",
        ),
    ),
    "another cluster": (
        {"ray": {"clusters": (Process(7, "raylet"),)}},
        ("ray clusters", "note", "1 node running here: raylet (7)", "ray stop"),
    ),
    "large logs": (
        {"ray": {"temp_bytes": 6 * GIB}},
        ("ray files", "note", "/tmp/ray: 6 GiB", "delete /tmp/ray/session_*"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_finding_follows_from_the_facts(case):
    changes, (name, level, found, remedy) = CASES[case]
    changed = {
        part: dataclasses.replace(getattr(GOOD, part), **values) if isinstance(values, dict) else values
        for part, values in changes.items()
    }
    [finding] = [each for each in findings(dataclasses.replace(GOOD, **changed)) if each.name == name]
    assert finding.level == level
    assert found in finding.found
    assert remedy in finding.remedy and bool(finding.remedy) == (level != "ok")
