"""The options of `distributed-maddpg benchmark`, and what the options of all measurements share."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from distributed_maddpg.config import EnvArgument, MADDPGConfig
from distributed_maddpg.counts import parse_count
from distributed_maddpg.errors import BadInput

Kind = Literal["env", "rollout", "replay", "learner", "growth", "train", "scaling", "all"]
KINDS: tuple[Kind, ...] = ("env", "rollout", "replay", "learner", "growth", "train", "scaling")
"""What `all` measures, in that order."""
_MAX = 10**9


@dataclass(frozen=True)
class BenchmarkOptions:
    """How a measurement is made."""

    preset: str = "paper"
    """Settings to measure with: networks, batch, environment, pacing."""
    num_envs: int = 1024
    """Environment copies for env and rollout."""
    batch_size: int = 0
    """Transitions per update or minibatch; 0: the preset's."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device of the learner."""
    num_threads: int = 0
    """Threads of the learner on the CPU; 0: as many as make it faster."""
    num_seeds: int = 1
    """Runs that the learner trains side by side, for learner."""
    num_workers: int = 1
    """Rollout workers for train; 0 for one process without Ray."""
    env_steps: int = 200_000
    """Length of the job for train; 0: the preset's own."""
    workers: str = ""
    """Rollout workers for scaling, as in 1,2,4; default: powers of two up to the cores, with --simulate
    1,4,16,64,256,1000."""
    envs_per_worker: str = ""
    """Environment copies per worker for scaling, as in 64,256; default: the preset's."""
    env_id: Annotated[str, tyro.conf.arg(name="env.id")] = ""
    """Environment; default: the preset's, and for env all scenarios of MPE2."""
    env_kwargs: Annotated[dict[str, EnvArgument], tyro.conf.arg(name="env.kwargs")] = field(
        default_factory=dict
    )
    """Arguments of the environment that replace the preset's, as in N 4."""
    simulate: bool = False
    """Find where the design saturates, for scaling: many simulated workers in each of a few processes wait
    instead of collecting, and push what a real one collected once."""
    agent_steps_per_s: float = 15_000.0
    """Of a slow simulated worker, env steps times agents: about what MPE2's simple_adversary reaches. A fast
    worker's rate is measured."""
    versions_per_s: float = 20.0
    """Versions of the weights published with --simulate; a learner publishes at most once in 0.05 s."""
    host_processes: int = 0
    """Processes that hold the simulated workers, at most 16; 0: one per core."""
    agents: str = "2,3,5,9,17,33"
    """Numbers of agents for growth and --simulate, whose default is 3,9,33."""
    batch_sizes: str = "256,512,1024,2048,4096,8192"
    """Transitions per update for growth."""
    widths: str = "64,96,128,192,256,384,512"
    """Widths of both hidden layers for growth."""
    beside: str = ""
    """Command that times the teaching notebook's loop, or a peer (see benchmarks/peers), for learner and
    train; all times it beside learner, and train with preset notebook."""
    seconds: float = 1.0
    """Length of one repeat."""
    repeats: int = 5
    """Repeats; the figure is their median."""
    seed: int = 0
    """Seed."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            BadInput: naming the option, its value and the remedy.
        """
        check_numbers(
            self,
            positive=(
                "num_envs",
                "num_seeds",
                "seconds",
                "repeats",
                "agent_steps_per_s",
                "versions_per_s",
            ),
            not_negative=("batch_size", "num_threads", "num_workers", "env_steps", "seed", "host_processes"),
        )
        for name in ("workers", "envs_per_worker", "agents", "batch_sizes", "widths"):
            self.counts(name)

    def settings(self) -> MADDPGConfig:
        """Return the settings to measure with: the preset's, without evaluations.

        Raises:
            BadInput: if there is no such preset, or the options contradict it.
        """
        base = MADDPGConfig.preset(self.preset)
        base = MADDPGConfig.from_dict({"env": {"id": self.env_id}}, base) if self.env_id else base
        batch_size = self.batch_size or base.learner.batch_size
        env_steps = self.env_steps or base.pacing.total_env_steps
        changes = {
            "seed": self.seed,
            "num_workers": self.num_workers,
            "env": {"kwargs": {**base.env.kwargs, **self.env_kwargs}},
            "learner": {"device": self.device, "num_threads": self.num_threads, "batch_size": batch_size},
            "pacing": {"total_env_steps": env_steps, "evaluation_interval_env_steps": 0},
        }
        return MADDPGConfig.from_dict(changes, base)

    def worker_counts(self) -> tuple[int, ...]:
        """Return the numbers of rollout workers to sweep, ascending."""
        return self.counts("workers") or powers_of_two(os.cpu_count() or 1)

    def env_counts(self) -> tuple[int, ...]:
        """Return the environment copies per worker to sweep, ascending; empty for the preset's."""
        return self.counts("envs_per_worker")

    def simulated_workers(self) -> tuple[int, ...]:
        """Return the numbers of simulated workers, ascending."""
        return self.counts("workers") or (1, 4, 16, 64, 256, 1000)

    def simulated_agents(self) -> tuple[int, ...]:
        """Return the numbers of agents to simulate, ascending."""
        return (3, 9, 33) if self.agents == BenchmarkOptions.agents else self.counts("agents")

    def counts(self, name: str) -> tuple[int, ...]:
        """Return the numbers that an option lists, ascending.

        Raises:
            BadInput: if it lists something else.
        """
        return _counts(name, getattr(self, name))

    def label(self, kind: Kind) -> str:
        """Return a name that tells a result from others of its kind: "learner-cuda" or "train-paper"."""
        parts: list[str] = [kind]
        if kind == "train":
            parts.append(self.preset)
        if kind == "learner" and self.device != "cpu":
            parts.append(self.device)
        if kind == "learner" and self.num_seeds > 1:
            parts.append("seeds")
        if kind in ("learner", "growth") and self.num_threads:
            parts.append(f"{self.num_threads}-thread{'s' if self.num_threads > 1 else ''}")
        if kind == "scaling" and self.simulate:
            parts.append("simulated")
        return "-".join(parts)


def check_numbers(
    options: object, positive: Sequence[str], not_negative: Sequence[str] = (), below: int = _MAX
) -> None:
    """Refuse options out of range.

    Raises:
        BadInput: naming the option, its value and the remedy.
    """
    for name in (*positive, *not_negative):
        value = getattr(options, name)
        if not 0 <= value < below or (name in positive and value == 0):
            sign = "positive" if name in positive else "zero or positive"
            raise BadInput(_option(name), value, f"must be {sign}, and below {below:,}")


def _option(name: str) -> str:
    """Return a field's name as it is given on the command line: "--num-envs" of "num_envs"."""
    if name in ("env_id", "env_kwargs"):  # named as in training
        return f"--{name.replace('_', '.')}"
    return f"--{name.replace('_', '-')}"


def to_arguments(options: Any) -> list[str]:
    """Return the command-line arguments for the options that differ from their defaults."""
    arguments = []
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if isinstance(value, dict):
            words = [str(word) for pair in value.items() for word in pair]
            arguments += [_option(item.name), *words] if words else []
        elif value is True:
            arguments.append(_option(item.name))
        elif value != item.default:
            arguments += [_option(item.name), str(value)]
    return arguments


def command_line(command: str, options: Any) -> str:
    """Return the shell command that measures again with these options."""
    return shlex.join(["distributed-maddpg", *command.split(), *to_arguments(options)])


def powers_of_two(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4 and so on up to `most`."""
    return tuple(2**k for k in range(most.bit_length()))


def _counts(name: str, text: str) -> tuple[int, ...]:
    """Return the numbers of a comma-separated list, each once, ascending."""
    try:
        numbers = {parse_count(word) for word in text.split(",")} if text else set()
    except ValueError:
        numbers = {0}
    if not all(0 < number < _MAX for number in numbers):
        raise BadInput(_option(name), text, "must be positive numbers with commas between them, as in 1,2,4")
    return tuple(sorted(numbers))
