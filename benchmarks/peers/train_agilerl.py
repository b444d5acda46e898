"""Measures how fast AgileRL trains MADDPG on the simple_adversary of MPE2."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from typing import Any

from job import EPISODE_LENGTH, HIDDEN_SIZE, Job, Timed, parse_job, report

try:
    import numpy as np
    import torch
    from agilerl.algorithms import MADDPG
    from agilerl.components import ReplayBuffer
    from agilerl.components.data import MultiAgentTransition, transition_to_tensordict
    from agilerl.vector import AsyncPettingZooVecEnv
    from mpe2 import simple_adversary_v3
except ImportError as error:
    sys.exit(f"train_agilerl.py: install agilerl-requirements.txt first ({error})")

NUM_ENVS = 50
NUM_ENVS_HELP = (
    "copies of the environment, each in a process of its own; of 5, 10, 20, 50 and 100 on two cores, "
    "50 gave the most env steps per second"
)
ROWS_PER_FILL = 20_000


def make_environment() -> Any:
    """Return one copy of the environment."""
    return simple_adversary_v3.parallel_env(N=2, max_cycles=EPISODE_LENGTH, continuous_actions=True)


class Training:
    """One agent of AgileRL with its environments and its replay buffer."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.env = AsyncPettingZooVecEnv([make_environment] * job.num_envs)
        agents = self.env.possible_agents
        layer = {"hidden_size": [HIDDEN_SIZE], "layer_norm": False}
        self.agent = MADDPG(
            [self.env.single_observation_space(name) for name in agents],
            [self.env.single_action_space(name) for name in agents],
            agent_ids=agents,
            vect_noise_dim=job.num_envs,
            net_config={"encoder_config": layer, "latent_dim": HIDDEN_SIZE, "head_config": dict(layer)},
            batch_size=job.batch_size,
            learn_step=job.env_steps_per_update,
        )
        self.agent.set_training_mode(True)
        self.memory = ReplayBuffer(max_size=job.replay_capacity)
        self.observations, self.infos = self.env.reset(seed=job.seed)
        self.env_steps = self.updates = 0

    def run(self, env_steps: int) -> None:
        """Make at least that many env steps, with the updates that they call for."""
        end = self.env_steps + env_steps
        while self.env_steps < end:
            due = self.env_steps // self.job.env_steps_per_update
            self.step()
            due = self.env_steps // self.job.env_steps_per_update - due
            if len(self.memory) >= self.job.batch_size:
                self.update(due)

    def step(self) -> None:
        """Step every copy of the environment, and store what happened."""
        actions, raw_actions = self.agent.get_action(obs=self.observations, infos=self.infos)
        following, rewards, terminations, truncations, self.infos = self.env.step(actions)
        transition = transition_to_tensordict(
            MultiAgentTransition(
                obs=self.observations,
                action=raw_actions,
                reward=rewards,
                next_obs=following,
                done=terminations,
            )
        )
        transition.batch_size = torch.Size([self.job.num_envs])
        self.memory.add(transition)
        self.observations = following
        self.env_steps += self.job.num_envs
        ended = [np.logical_or(terminations[name], truncations[name]) for name in self.agent.agent_ids]
        self.agent.reset_action_noise(list(np.flatnonzero(np.all(ended, axis=0))))

    def update(self, count: int) -> None:
        """Update every agent that many times, each time from a new minibatch."""
        for _ in range(count):
            self.agent.learn(self.memory.sample(self.job.batch_size))
        self.updates += count

    def fill(self) -> None:
        """Fill the replay buffer with copies of its rows."""
        while not self.memory.is_full:
            self.memory.add(self.memory.sample(ROWS_PER_FILL))


def measure(job: Job) -> Timed:
    """Train, and return the timed part."""
    training = Training(job)
    try:
        training.run(job.warmup_env_steps)
        if job.learner_only:
            training.fill()
        env_steps, updates = training.env_steps, training.updates
        started = time.perf_counter()
        if job.learner_only:
            training.update(job.updates)
        else:
            training.run(job.env_steps)
        seconds = time.perf_counter() - started
    finally:
        training.env.close()
    made = None if job.learner_only else training.env_steps - env_steps
    return Timed(seconds, training.updates - updates, made)


def main() -> None:
    """Measure what the command line asks for."""
    job = parse_job(__doc__ or "", NUM_ENVS, NUM_ENVS_HELP)
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        timed = measure(job)
    libraries = ("torch", "tensordict", "mpe2", "pettingzoo")
    report("AgileRL", "MPE2 simple_adversary_v3", libraries, job, timed)


if __name__ == "__main__":
    main()
