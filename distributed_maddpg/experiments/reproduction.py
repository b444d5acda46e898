"""The paper's physical deception: trained, measured, and set beside the published figures."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.saver import SavingOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError, TrainingError
from distributed_maddpg.evaluation.matchups import TeamSource
from distributed_maddpg.evaluation.scores import Interval, bootstrap_interval, interquartile_mean
from distributed_maddpg.experiments.cross_play import Entrant, cross_play, write_cross_play
from distributed_maddpg.experiments.exploitability import full_card
from distributed_maddpg.experiments.options import CrossPlayOptions, ReproduceOptions
from distributed_maddpg.experiments.published import PUBLISHED
from distributed_maddpg.experiments.tables import reproduction_document
from distributed_maddpg.files import make_folder, write_atomic
from distributed_maddpg.report.curves import read_curves, write_curves
from distributed_maddpg.run.folder import checkpoints_folder
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.resume import checkpoints_to_resume
from distributed_maddpg.run.training import train_run
from distributed_maddpg.trainer import MADDPG

_ALGORITHMS = ("maddpg", "ddpg")
_SMALL = {
    "learner": {"batch_size": 128},
    "replay": {"capacity": 20_000},
    "pacing": {
        "total_env_steps": 20_000,
        "learning_starts": 2_000,
        "report_interval_env_steps": 5_000,
        "evaluation_interval_env_steps": 5_000,
        "checkpoint_interval_env_steps": 0,
    },
    "evaluation": {"episodes": 50, "final_episodes": 50},
}
_SEED_OF_START_STATES = 0


class Pairing(NamedTuple):
    """What the good agents and the adversary of a run learn by, side by side."""

    agent: str
    adversary: str


PAIRINGS = tuple(Pairing(*names) for names in itertools.product(_ALGORITHMS, repeat=2))


@dataclass(frozen=True)
class Outcome:
    """What a trained run showed."""

    card: dict[str, Any]
    """Of greedy episodes, see `full_card`."""
    curves: dict[str, list[float]]
    """The columns of the run's `returns.csv`."""
    checkpoint: Checkpoint
    """The end of the run, without transitions."""


def default_out(options: ReproduceOptions) -> Path:
    """Return the folder of an experiment; only seeds and episodes may differ within one."""
    parts = ("physical-deception", f"n{options.num_good_agents}", options.preset, options.budget)
    return Path("reproductions") / "-".join(parts)


def reproduce(options: ReproduceOptions, out: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Train all runs that `out` does not hold yet, evaluate and compare them; return plain numbers.

    Killed at any moment it goes on when it is called again: runs that ended are kept, others go on from their
    checkpoints where these can be reached.

    Raises:
        BadInput: if the settings cannot be used, or the folder holds another experiment.
        TrainingError: if a run fails.
    """
    experiment = _settings(options, PAIRINGS[0], 0)
    MADDPG(experiment)  # refuses what cannot run, and starts nothing
    _claim(out, options, experiment)
    names = {_name(pairing, seed): (pairing, seed) for pairing in PAIRINGS for seed in range(options.seeds)}
    settings = {name: _settings(options, *run) for name, run in names.items()}
    results = {
        name: kept
        for name, own in settings.items()
        if (kept := _kept(out, name, own, options.episodes, note))
    }
    note(f"{len(names)} runs, of which {len(results)} are done; files go to {out}")
    calls = {
        name: (own.to_dict(), str(out.absolute() / "runs" / name), options.episodes)
        for name, own in settings.items()
        if name not in results
    }
    for name, outcome in _trained(calls, options):
        save_checkpoint(out / "checkpoints" / name, outcome.checkpoint)
        results[name] = _keep(out, name, {"card": outcome.card, "curves": outcome.curves})
        rates = ", ".join(f"{who} {rate:.1f} %" for who, rate in outcome.card["success"].items())
        note(f"{name}: {rates}")
    return _compared(options, out, names, results, note)


def _kept(
    out: Path, name: str, config: MADDPGConfig, episodes: int, note: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return the result of a run, evaluated anew if for other episodes; None if it must be made."""
    path = _result(out, name)
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        _check_shape(values)
        algo = MADDPG.from_checkpoint(out / "checkpoints" / name)
        if algo.config.to_dict() != config.to_dict():
            raise ValueError("its checkpoint is another run's")
        if values["card"]["episodes"] != episodes:
            card = full_card(algo.scorecard(episodes, _SEED_OF_START_STATES))
            values = _keep(out, name, {"card": card, "curves": values["curves"]})
    except (OSError, ValueError, KeyError, TypeError, CheckpointError) as error:
        note(f"{path}: cannot be used ({type(error).__name__}: {error}); the run is made again")
        return None
    return values


def _refuse(number: str) -> None:
    raise ValueError(f"{number} is no result")


def _check_shape(values: Mapping[str, Any]) -> None:
    """Raise ValueError, TypeError or KeyError unless these are the numbers that `_compared` needs."""
    _over_seeds([values["card"]])
    curves = dict(values["curves"])
    if not curves["env_steps"] or np.array(list(curves.values()), np.float64).ndim != 2:
        raise ValueError("its curves are not columns of one length")


def _keep(out: Path, name: str, values: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(values)
    write_atomic(_result(out, name), text + "\n")
    kept: dict[str, Any] = json.loads(text)  # as whoever reads it finds it
    return kept


def write_reproduction(out: Path, result: Mapping[str, Any], command: str) -> list[Path]:
    """Write `results.json`, `README.md` and the cross-play's files; return their paths."""
    paths = [out / "results.json", out / "README.md"]
    write_atomic(paths[0], json.dumps(result, indent=2) + "\n")
    write_atomic(paths[1], reproduction_document(result, command))
    return [*paths, Path(result["curves"]), *write_cross_play(out, result["cross_play"])]


def train_one(values: dict[str, Any], run_dir: str, episodes: int) -> Outcome:
    """Train one run in this process, or go on with it; evaluate it; keep its end without transitions.

    Raises:
        TrainingError: if it fails, or was interrupted.
    """
    config, folder = MADDPGConfig.from_dict(values), Path(run_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("a", encoding="utf-8") as log:
        progress = Progress(log)
        found = checkpoints_to_resume([checkpoints_folder(folder)], True, progress.note)
        saving = SavingOptions(keep=1)
        summary = train_run(config, folder, progress, found[0] if found else None, saving, restart=True)
    if summary["interrupted"] or "problem" in summary:
        problem = summary.get("problem", "was interrupted")
        raise TrainingError(f"{run_dir}: {problem}; start it again to go on")
    path = summary["files"]["checkpoint"]
    checkpoint = dataclasses.replace(load_checkpoint(path), replay=None)
    save_checkpoint(path, checkpoint)
    card = full_card(MADDPG.from_checkpoint(path).scorecard(episodes, _SEED_OF_START_STATES))
    return Outcome(card, read_curves(folder), checkpoint)


def _trained(
    calls: Mapping[str, tuple[Any, ...]], options: ReproduceOptions
) -> Iterator[tuple[str, Outcome]]:
    if options.in_process or not calls:
        return ((name, train_one(*arguments)) for name, arguments in calls.items())
    from distributed_maddpg.runtime.tasks import run_in_parallel  # noqa: PLC0415 (without Ray, it is never loaded)

    return run_in_parallel(train_one, calls, options.address, options.timeout_s)


def _settings(options: ReproduceOptions, pairing: Pairing, seed: int) -> MADDPGConfig:
    base = MADDPGConfig.preset(options.preset)
    if base.env.id != "simple_adversary":
        raise BadInput("preset", options.preset, f"trains {base.env.id}, not simple_adversary")
    small = dict(_SMALL) if options.budget == "small" else {}
    changes: dict[str, Any] = {
        "seed": seed,
        "num_workers": 0,
        "learner": {**small.pop("learner", {}), "device": "cpu"},  # as many run on a machine as it has cores
        "env": {"kwargs": {"N": options.num_good_agents}},
        "algorithm": {"team_overrides": pairing._asdict()},
        **small,
    }
    return MADDPGConfig.from_dict(changes, base)


def _claim(out: Path, options: ReproduceOptions, experiment: MADDPGConfig) -> None:
    """Take an empty folder for this experiment, or go on with it there.

    Raises:
        BadInput: if it holds another one, or anything else, or cannot be written to.
    """
    path = out / "experiment.json"
    mine = {
        "experiment": "physical-deception",
        "num_good_agents": options.num_good_agents,
        "budget": options.budget,
        "settings": experiment.to_dict(),
    }
    text = json.dumps(mine, indent=2) + "\n"
    make_folder(out, "out")
    try:
        if path.exists():
            if path.read_bytes() != text.encode():
                remedy = "holds an experiment with other settings; name another folder"
                raise BadInput("out", str(out), remedy)
        elif others := sorted(own.name for own in out.iterdir() if not own.name.startswith(".")):
            raise BadInput("out", str(out), f"holds {others[0]!r}, no experiment; name a new or empty folder")
        write_atomic(path, text)
        for folder in (out / "results", out / "checkpoints", out / "runs"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput("out", str(out), f"cannot be written to ({error.strerror})") from None


def _name(pairing: Pairing, seed: int) -> str:
    return f"{pairing.agent}-{pairing.adversary}-seed_{seed}"


def _result(out: Path, name: str) -> Path:
    return out / "results" / f"{name}.json"


def _compared(
    options: ReproduceOptions,
    out: Path,
    names: Mapping[str, tuple[Pairing, int]],
    results: Mapping[str, Mapping[str, Any]],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Return the table over the seeds, the cross-play, and where the curves are."""
    rows = []
    for pairing in PAIRINGS:
        cards = [results[name]["card"] for name, run in names.items() if run[0] == pairing]
        published = PUBLISHED.get(options.num_good_agents, {}).get(pairing, {})
        trained = {f"{team}_by": name for team, name in pairing._asdict().items()}
        rows.append({**trained, **_over_seeds(cards), "published": published})
    groups = {
        f"{pairing.agent} / {pairing.adversary}": [
            results[name]["curves"] for name, run in names.items() if run[0] == pairing
        ]
        for pairing in PAIRINGS
    }
    curves = out / "curves.html"
    write_curves(
        curves, f"Physical deception, N = {options.num_good_agents}: good agents / adversary", groups
    )
    entrants = [
        _entrant(out, name) for name, (pairing, _) in names.items() if pairing.agent == pairing.adversary
    ]
    how = CrossPlayOptions(
        options.episodes, _SEED_OF_START_STATES, options.address, options.in_process, options.timeout_s
    )
    return {
        "experiment": "physical-deception",
        "options": {
            name: value
            for name, value in dataclasses.asdict(options).items()
            if name in ("num_good_agents", "seeds", "budget", "preset", "episodes")
        },
        "settings": _settings(options, PAIRINGS[0], 0).to_dict(),
        "rows": rows,
        "runs": {name: results[name]["card"] for name in names},
        "cross_play": cross_play(entrants, how, note),
        "curves": str(curves),
    }


def _entrant(out: Path, name: str) -> Entrant:
    path = out / "checkpoints" / name
    algo = MADDPG.from_checkpoint(path)
    algorithms = dict(zip(algo.spec.teams, algo.config.algorithm.per_agent(algo.spec), strict=True))
    return Entrant(name, str(path), TeamSource(algo.config, algo.policy_parameters()), algorithms)


def _over_seeds(cards: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean, interquartile mean and bootstrap interval over the seeds of what is compared."""
    numbers = {
        **{name: [card["success"][name] for card in cards] for name in ("agents", "adversary", "coverage")},
        "delta": [card["delta"] for card in cards],
        "agents_distance": [card["final_distance_mean"]["agents"] for card in cards],
        "adversary_distance": [card["final_distance_mean"]["adversary"] for card in cards],
    }
    for agent in ("adversary_0", "agent_0"):
        numbers[f"return_{agent}"] = [card["agent_episode_returns_mean"][agent] for card in cards]
    return {name: _statistics(values) for name, values in numbers.items()}


def _statistics(values: list[float]) -> dict[str, float | Interval | list[float] | None]:
    return {
        "mean": sum(values) / len(values),
        "iqm": interquartile_mean(values),
        "ci95": bootstrap_interval(values),
        "seeds": values,
    }
