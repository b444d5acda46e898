"""Train a population with Ray Tune; the worst continue from checkpoints of the best, changed a little (PBT).

The fitness of a trial is how its good agents fare against an adversary that did not learn together with them:
those of other runs (cross-play), or without --opponents the strongest that a short search finds.

    pip install "distributed-maddpg[tune]"
    python examples/tune_pbt.py --opponents runs/a runs/b --storage runs/tune
"""

import argparse
from pathlib import Path

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from distributed_maddpg.tune import MADDPGTrainable

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--opponents", nargs="*", default=[], help="checkpoints or folders of other runs")
parser.add_argument("--trials", type=int, default=2, help="size of the population, all at the same time")
parser.add_argument("--workers", type=int, default=0, help="of a trial; 0: one process for all of it")
parser.add_argument("--env-steps", type=int, default=200_000, help="of a trial")
parser.add_argument("--storage", type=Path, default=Path("runs/tune"))
arguments = parser.parse_args()

if arguments.opponents:
    fitness, mode = "cross_play/agent/delta", "max"
    measured = {"opponents": [str(Path(path).resolve()) for path in arguments.opponents]}
else:
    fitness, mode = "best_response/adversary/success/success/adversary", "min"
    measured = {"best_response_budget": 0.01}
interval = 2  # results between two exchanges; a checkpoint is needed at each of them
rates = {name: tune.loguniform(1e-3, 3e-2) for name in ("algorithm.actor_lr", "algorithm.critic_lr")}
tuner = tune.Tuner(
    tune.with_parameters(MADDPGTrainable, **measured),
    param_space={
        "num_workers": arguments.workers,
        "learner.device": "cpu",
        "learner.num_threads": 1,
        "pacing.total_env_steps": arguments.env_steps,
        "pacing.report_interval_env_steps": arguments.env_steps // 8,
        **rates,
    },
    tune_config=tune.TuneConfig(
        metric=fitness,
        mode=mode,
        num_samples=arguments.trials,
        reuse_actors=True,
        scheduler=PopulationBasedTraining(
            "training_iteration",
            perturbation_interval=interval,
            hyperparam_mutations=rates,
            quantile_fraction=0.5,
            synch=True,
        ),
    ),
    run_config=tune.RunConfig(
        name="pbt",
        verbose=1,
        storage_path=str(arguments.storage.resolve()),
        # All are kept: Tune deletes by number, also those that another trial is about to continue from.
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=interval, checkpoint_at_end=True),
    ),
)
best = tuner.fit().get_best_result()
value = best.metrics
for part in fitness.split("/"):
    value = value[part]
print(f"best trial: {fitness} = {value:.1f}, {best.config}")
print(f"distributed-maddpg evaluate {best.checkpoint.path}")
