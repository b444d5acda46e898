"""Search for learning rates with Ray Tune; trials that lag behind are stopped early (ASHA).

The fitness is the success of the good agents of simple_adversary in greedy episodes, in percent.

    pip install "distributed-maddpg[tune]"
    python examples/tune_asha.py --trials 8 --storage runs/tune
"""

import argparse
from pathlib import Path

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from distributed_maddpg.tune import MADDPGTrainable

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--trials", type=int, default=4)
parser.add_argument("--workers", type=int, default=0, help="of a trial; 0: one process for all of it")
parser.add_argument("--env-steps", type=int, default=200_000, help="of a trial")
parser.add_argument("--storage", type=Path, default=Path("runs/tune"))
arguments = parser.parse_args()

space = {
    "num_workers": arguments.workers,
    "learner.device": "cpu",
    "learner.num_threads": 1,
    "pacing.total_env_steps": arguments.env_steps,
    "pacing.report_interval_env_steps": arguments.env_steps // 8,
    "algorithm.actor_lr": tune.loguniform(1e-3, 3e-2),
    "algorithm.critic_lr": tune.loguniform(1e-3, 3e-2),
}
tuner = tune.Tuner(
    MADDPGTrainable,
    param_space=space,
    tune_config=tune.TuneConfig(
        metric="evaluation/success/agents",
        mode="max",
        num_samples=arguments.trials,
        scheduler=ASHAScheduler(grace_period=2, max_t=8, reduction_factor=2),
    ),
    run_config=tune.RunConfig(
        name="asha",
        verbose=1,
        storage_path=str(arguments.storage.resolve()),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
    ),
)
best = tuner.fit().get_best_result()
print(f"best trial: {best.metrics['evaluation']['success']['agents']:.1f} % success, {best.config}")
print(f"distributed-maddpg evaluate {best.checkpoint.path}")
