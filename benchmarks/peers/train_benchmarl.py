"""Measures how fast BenchMARL trains MADDPG on the simple_adversary of VMAS."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import tempfile
import time
import warnings

from job import EPISODE_LENGTH, HIDDEN_SIZE, Job, Timed, parse_job, report

try:
    import torch
    from benchmarl.algorithms import MaddpgConfig
    from benchmarl.environments import VmasTask
    from benchmarl.experiment import Callback, Experiment, ExperimentConfig
    from benchmarl.models.mlp import MlpConfig
    from tensordict import TensorDictBase
except ImportError as error:
    sys.exit(f"train_benchmarl.py: install benchmarl-requirements.txt first ({error})")

NUM_ENVS = 240
NUM_ENVS_HELP = (
    "copies of the environment in VMAS's batch; with 240, an episode of each fills the 6000 env steps "
    "that BenchMARL collects at a time by default"
)
ROWS_PER_FILL = 20_000


class TrainingClock(Callback):
    """Times whole iterations, collection and updates, after those of the warm-up."""

    def __init__(self, warmup_iterations: int) -> None:
        super().__init__()
        self.warmup_iterations = warmup_iterations
        self.iterations = 0
        self.env_steps = 0
        self.updates: dict[str, int] = {}
        self.started = self.ended = 0.0

    def on_batch_collected(self, batch: TensorDictBase) -> None:
        """Count env steps."""
        self.env_steps += batch.numel()

    def on_train_step(self, batch: TensorDictBase, group: str) -> None:
        """Count a group's updates."""
        self.updates[group] = self.updates.get(group, 0) + 1

    def on_train_end(self, training_td: TensorDictBase, group: str) -> None:
        """Note the time when the last group has been trained; start counting after the warm-up."""
        if group != list(self.experiment.train_group_map)[-1]:
            return
        self.ended = time.perf_counter()
        self.iterations += 1
        if self.iterations == self.warmup_iterations:
            self.started, self.env_steps, self.updates = self.ended, 0, {}

    def timed(self) -> Timed:
        """Return the timed part; an update is one of every group.

        Raises:
            RuntimeError: if the groups were not updated equally often.
        """
        counts = set(self.updates.values())
        if len(counts) != 1:
            raise RuntimeError(f"groups were updated unequally often: {self.updates}")
        return Timed(self.ended - self.started, counts.pop(), self.env_steps)


class LearnerClock(Callback):
    """Times the updates of the second iteration, for which it fills the replay buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.iterations = 0
        self.times: dict[str, list[float]] = {}

    def on_batch_collected(self, batch: TensorDictBase) -> None:
        """Fill the buffers with copies of their rows before the second iteration's updates."""
        self.iterations += 1
        self.times = {}
        if self.iterations == 2:
            for buffer in self.experiment.replay_buffers.values():
                while len(buffer) < self.experiment.config.off_policy_memory_size:
                    buffer.extend(buffer.sample(ROWS_PER_FILL).exclude("index"))

    def on_train_step(self, batch: TensorDictBase, group: str) -> None:
        """Note when a group's update ended."""
        self.times.setdefault(group, []).append(time.perf_counter())

    def timed(self) -> Timed:
        """Return the timed part: from each group's first update to its last."""
        spans = list(self.times.values())
        return Timed(sum(span[-1] - span[0] for span in spans), len(spans[0]) - 1, None)


def configure(job: Job, folder: str) -> tuple[ExperimentConfig, int]:
    """Return BenchMARL's configuration with the job's schedule, and its iterations of warm-up.

    Args:
        job: what to measure.
        folder: where BenchMARL may leave files.
    """
    frames = math.lcm(job.num_envs * EPISODE_LENGTH, job.env_steps_per_update)
    warmup = math.ceil(job.warmup_env_steps / frames)
    config = ExperimentConfig.get_from_yaml()
    config.off_policy_n_envs_per_worker = job.num_envs
    config.off_policy_collected_frames_per_batch = frames
    config.off_policy_n_optimizer_steps = frames // job.env_steps_per_update
    config.off_policy_train_batch_size = job.batch_size
    config.off_policy_memory_size = job.replay_capacity
    config.max_n_frames = None
    config.max_n_iters = warmup + math.ceil(job.env_steps / frames)
    config.evaluation = config.render = config.create_json = False
    config.loggers = []
    config.save_folder = folder
    if job.learner_only:
        config.off_policy_collected_frames_per_batch = frames * warmup
        config.off_policy_n_optimizer_steps = job.updates + 1
        config.max_n_iters = 2
    return config, warmup


def measure(job: Job) -> Timed:
    """Train, and return the timed part."""
    task = VmasTask.SIMPLE_ADVERSARY.get_from_yaml()
    task.config.update(n_agents=3, n_adversaries=1, max_steps=EPISODE_LENGTH)
    model = dataclasses.replace(
        MlpConfig.get_from_yaml(), num_cells=[HIDDEN_SIZE, HIDDEN_SIZE], activation_class=torch.nn.ReLU
    )
    with tempfile.TemporaryDirectory() as folder:
        config, warmup = configure(job, folder)
        clock = LearnerClock() if job.learner_only else TrainingClock(warmup)
        experiment = Experiment(
            task=task,
            algorithm_config=MaddpgConfig.get_from_yaml(),
            model_config=model,
            seed=job.seed,
            config=config,
            callbacks=[clock],
        )
        experiment.run()
    return clock.timed()


def main() -> None:
    """Measure what the command line asks for."""
    job = parse_job(__doc__ or "", NUM_ENVS, NUM_ENVS_HELP)
    torch.set_num_threads(job.threads)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        timed = measure(job)
    report("BenchMARL", "VMAS simple_adversary", ("torchrl", "tensordict", "vmas", "torch"), job, timed)


if __name__ == "__main__":
    main()
