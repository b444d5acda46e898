"""What the findings are made from: facts of this machine and of the packages, each as it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Packages:
    """Python and the packages."""

    python: str
    python_range: str
    """That this package supports, as in ">=3.11,<3.14"; empty if its metadata is missing."""
    requirements: tuple[str, ...]
    """Of this package, without extras, as in "torch>=2.6"."""
    installed: Mapping[str, str]
    """Versions of the required ones that are there."""


@dataclass(frozen=True)
class Machine:
    """Cores, memory, disks and clock."""

    cores: int
    usable_cores: int
    """By affinity and control groups."""
    memory_bytes: int
    memory_limit_bytes: int
    """Of the container, or the whole memory."""
    memory_free_bytes: int
    folder: str
    folder_writable: bool
    folder_free_bytes: int
    shm_bytes: int
    """Of /dev/shm; 0 where there is none."""
    shm_free_bytes: int
    now: float
    """The clock, in seconds since 1970."""
    package_written: float
    """The newest file of this package by its date."""


@dataclass(frozen=True)
class Gpu:
    """GPUs, as torch and as the driver see them."""

    torch_error: str = ""
    """Why torch cannot be imported; empty if it can."""
    torch_version: str = ""
    torch_cuda: str = ""
    """CUDA version that torch was built for; empty for a CPU build."""
    seen: tuple[str, ...] = ()
    """Names of the GPUs that torch sees."""
    there: tuple[str, ...] = ()
    """Names of the GPUs that the driver lists."""
    driver_cuda: str = ""
    """Newest CUDA version that the driver knows; empty without a driver."""
    visible_devices: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    cards: int = 0
    """NVIDIA's display devices on the PCI bus."""


@dataclass(frozen=True)
class Numerics:
    """What decides how fast and how exactly numpy and compiled code calculate."""

    threads: Mapping[str, str] = field(default_factory=dict)
    """THREAD_VARIABLES that are set."""
    coretype: str = ""
    """OPENBLAS_CORETYPE."""
    openblas: str = ""
    """For which processor numpy's OpenBLAS has chosen its code; empty if numpy uses another library."""
    vectors: str = ""
    """avx512, avx2 or empty."""
    numba_cache_problem: str = ""
    """Why numba cannot write its cache; empty if it can."""


@dataclass(frozen=True)
class Process:
    """A process that is running."""

    pid: int
    name: str
    user_owned: bool = True
    """Whether the present user may end it."""


@dataclass(frozen=True)
class RayFacts:
    """Ray on this machine."""

    address: str = ""
    """RAY_ADDRESS."""
    auth_mode: str = ""
    """RAY_AUTH_MODE."""
    has_token: bool = False
    """In RAY_AUTH_TOKEN or a file."""
    token_file: str = ""
    """Empty if there is none."""
    token_permissions: int = 0o600
    object_store_bytes: int = 0
    """That a local run asks for."""
    orphans: tuple[Process, ...] = ()
    """Processes of this package's runs that have been killed."""
    clusters: tuple[Process, ...] = ()
    """Raylets, one of each node of a cluster."""
    temp_folder: str = "/tmp/ray"
    temp_bytes: int = 0
    temp_free_bytes: int = 0


@dataclass(frozen=True)
class Facts:
    """Everything that was measured."""

    packages: Packages
    machine: Machine
    gpu: Gpu
    numerics: Numerics
    ray: RayFacts
