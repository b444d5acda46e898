"""What both peers train: the schedule, its options, and the form of the result."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

EPISODE_LENGTH = 25
HIDDEN_SIZE = 64  # two hidden layers of this width


@dataclass(frozen=True)
class Job:
    """The options of a measurement, which mean the same for every peer."""

    env_steps: int
    warmup_env_steps: int
    threads: int
    num_envs: int
    batch_size: int
    env_steps_per_update: int
    replay_capacity: int
    learner_only: bool
    seed: int

    @property
    def updates(self) -> int:
        """Return how many updates the timed env steps call for."""
        return self.env_steps // self.env_steps_per_update


@dataclass(frozen=True)
class Timed:
    """What a measurement did, and how long it took; `env_steps` is None where only updates were timed."""

    seconds: float
    updates: int
    env_steps: int | None


def parse_job(description: str, num_envs: int, num_envs_help: str) -> Job:
    """Read a job from the command line.

    Args:
        description: what the script measures.
        num_envs: how many copies of the environment suit the peer.
        num_envs_help: why that many.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    number = _positive
    parser.add_argument("--env-steps", type=number, default=60_000, help="env steps in the timed part")
    parser.add_argument("--warmup-env-steps", type=number, default=12_000, help="env steps before it")
    parser.add_argument("--threads", type=number, default=cores, help="threads of torch")
    parser.add_argument("--num-envs", type=number, default=num_envs, help=num_envs_help)
    parser.add_argument("--batch-size", type=number, default=1024, help="rows of a minibatch")
    parser.add_argument(
        "--env-steps-per-update", type=number, default=100, help="env steps for one update of every agent"
    )
    parser.add_argument(
        "--replay-capacity", type=number, default=1_000_000, help="rows that the replay buffer holds"
    )
    parser.add_argument(
        "--learner-only",
        action="store_true",
        help="time only updates and their sampling, from a full replay buffer",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    job = Job(**vars(parser.parse_args()))
    if job.updates < 2 or job.warmup_env_steps < 2 * job.batch_size:
        parser.error("needs env steps for 2 updates, and warm-up env steps for 2 minibatches")
    if job.replay_capacity < job.warmup_env_steps:
        parser.error("the replay buffer must hold the warm-up env steps")
    return job


def report(name: str, environment: str, libraries: tuple[str, ...], job: Job, timed: Timed) -> None:
    """Print a measurement as one line of JSON.

    Args:
        name: the peer, whose distribution has the same name in lower case.
        environment: the environment it trained on.
        libraries: further distributions whose versions matter.
        job: what was asked for.
        timed: what was measured.
    """
    result: dict[str, Any] = {
        "name": name,
        "version": version(name.lower()),
        "versions": {library: version(library) for library in libraries},
        "updates_per_s": timed.updates / timed.seconds,
        "updates": timed.updates,
        "threads": job.threads,
        "num_envs": job.num_envs,
        "batch_size": job.batch_size,
        "environment": environment,
    }
    if timed.env_steps is not None:
        result["env_steps_per_s"] = timed.env_steps / timed.seconds
        result["env_steps"] = timed.env_steps
    print(json.dumps(result), flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value
