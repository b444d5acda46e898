"""Trains and evaluates the paper's physical deception, and compares it with the published figures."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint, save_checkpoint
from distributed_maddpg.checkpoint.saver import SavingOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError, TrainingError
from distributed_maddpg.evaluation.scores import bootstrap_interval, interquartile_mean
from distributed_maddpg.experiments.cross_play import cross_play, read_entry, run_tasks, write_cross_play
from distributed_maddpg.experiments.options import CrossPlayOptions, ReproduceOptions
from distributed_maddpg.experiments.published import PUBLISHED
from distributed_maddpg.experiments.tables import reproduction_document
from distributed_maddpg.files import make_folder, parse_json, write_atomic
from distributed_maddpg.report.curves import read_curves, write_curves
from distributed_maddpg.run.folder import checkpoints_folder
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.resume import checkpoints_to_resume
from distributed_maddpg.run.training import RunOptions, train_run
from distributed_maddpg.trainer import MADDPG

_ALGORITHMS = ("maddpg", "ddpg")
_SMALL_BUDGET = {
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
_EXPERIMENT = "physical-deception"


class Pairing(NamedTuple):
    """The algorithms that train the good agents and the adversary of a run."""

    agent: str
    adversary: str


PAIRINGS = tuple(Pairing(*names) for names in itertools.product(_ALGORITHMS, repeat=2))


class RunResult(NamedTuple):
    """The result of one run."""

    card: dict[str, Any]
    """Of greedy episodes, see `Scorecard.with_intervals`."""
    curves: dict[str, list[float]]
    """The columns of the run's `returns.csv`."""
    checkpoint: Checkpoint
    """The end of the run, without transitions."""


def default_out(options: ReproduceOptions) -> Path:
    """Return the folder of an experiment; only seeds and episodes may differ within one."""
    parts = (_EXPERIMENT, f"n{options.num_good_agents}", options.preset, options.budget)
    return Path("reproductions") / "-".join(parts)


def reproduce(options: ReproduceOptions, out: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Train all runs whose results `out` does not hold, evaluate and compare them; return plain numbers.

    If it is killed, the next call resumes: results of runs that ended are kept, others resume from their
    checkpoints where these can be reached.

    Raises:
        BadInput: if the settings cannot be used, or the folder holds another experiment.
        TrainingError: if a run fails.
    """
    experiment = _settings(options, PAIRINGS[0], 0)
    MADDPG(experiment)  # refuses settings that cannot be used, and starts nothing
    _claim_folder(out, options, experiment)
    runs = itertools.product(PAIRINGS, range(options.seeds))
    names = {f"{run.agent}-{run.adversary}-seed_{seed}": (run, seed) for run, seed in runs}
    settings = {name: _settings(options, *run) for name, run in names.items()}
    results = {}
    for name, own in settings.items():
        if loaded := _load_result(out, name, own, options.episodes, note):
            results[name] = loaded
    note(f"{len(names)} runs, of which {len(results)} are done; files go to {out}")
    calls = {
        name: (own.to_dict(), str(out.absolute() / "runs" / name), options.episodes)
        for name, own in settings.items()
        if name not in results
    }
    for name, result in run_tasks(train_one, calls, options):
        save_checkpoint(out / "checkpoints" / name, result.checkpoint)
        results[name] = _save_result(out, name, {"card": result.card, "curves": result.curves})
        rates = ", ".join(f"{who} {rate:.1f} %" for who, rate in result.card["success"].items())
        note(f"{name}: {rates}")
    return _compare(options, out, names, results, note)


def _load_result(
    out: Path, name: str, config: MADDPGConfig, episodes: int, note: Callable[[str], None]
) -> dict[str, Any] | None:
    """Return the result of a run, evaluated again if for other episodes; None if the run must be repeated."""
    path = _result_path(out, name)
    if not path.exists():
        return None
    try:
        values: dict[str, Any] = parse_json(path.read_bytes())
        _check_shape(values)
        algo = MADDPG.from_checkpoint(out / "checkpoints" / name)
        if algo.config.to_dict() != config.to_dict():
            raise ValueError("its checkpoint is another run's")
        if values["card"]["episodes"] != episodes:
            card = algo.scorecard(episodes, _SEED_OF_START_STATES).with_intervals()
            values = _save_result(out, name, {"card": card, "curves": values["curves"]})
    except (OSError, ValueError, KeyError, TypeError, CheckpointError) as error:
        note(f"{path}: cannot be used ({type(error).__name__}: {error}); the run is made again")
        return None
    return values


def _check_shape(values: Mapping[str, Any]) -> None:
    """Raise ValueError, TypeError or KeyError unless these are the numbers that `_compare` needs."""
    _seed_statistics([values["card"]])
    curves = dict(values["curves"])
    if not curves["env_steps"] or np.array(list(curves.values()), np.float64).ndim != 2:
        raise ValueError("its curves are not columns of one length")


def _save_result(out: Path, name: str, values: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(values)
    write_atomic(_result_path(out, name), text + "\n")
    saved: dict[str, Any] = json.loads(text)  # as `_load_result` returns it
    return saved


def write_reproduction(out: Path, result: Mapping[str, Any], command: str) -> list[Path]:
    """Write `results.json`, `README.md` and the cross-play's files; return their paths."""
    paths = [out / "results.json", out / "README.md"]
    write_atomic(paths[0], json.dumps(result, indent=2) + "\n")
    write_atomic(paths[1], reproduction_document(result, command))
    return [*paths, Path(result["curves"]), *write_cross_play(out, result["cross_play"])]


def train_one(values: dict[str, Any], run_dir: str, episodes: int) -> RunResult:
    """Train or resume one run in this process, and evaluate it; keep no transitions in its last checkpoint.

    Raises:
        TrainingError: if it fails, or was interrupted.
    """
    config, folder = MADDPGConfig.from_dict(values), Path(run_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("a", encoding="utf-8") as log:
        progress = Progress(log)
        found = checkpoints_to_resume([checkpoints_folder(folder)], True, progress.note)
        options = RunOptions(SavingOptions(keep=1))
        summary = train_run(config, folder, progress, found[0] if found else None, options, restart=True)
    if summary["interrupted"] or "problem" in summary:
        problem = summary.get("problem", "was interrupted")
        raise TrainingError(f"{run_dir}: {problem}; start it again to resume it")
    path = summary["files"]["checkpoint"]
    checkpoint = dataclasses.replace(load_checkpoint(path), replay=None)
    save_checkpoint(path, checkpoint)
    card = MADDPG.from_checkpoint(path).scorecard(episodes, _SEED_OF_START_STATES).with_intervals()
    return RunResult(card, read_curves(folder), checkpoint)


def _settings(options: ReproduceOptions, pairing: Pairing, seed: int) -> MADDPGConfig:
    base = MADDPGConfig.preset(options.preset)
    if base.env.id != "simple_adversary":
        raise BadInput("preset", options.preset, f"trains {base.env.id}, not simple_adversary")
    small = dict(_SMALL_BUDGET) if options.budget == "small" else {}
    changes: dict[str, Any] = {
        "seed": seed,
        "num_workers": 0,
        "learner": {
            **small.pop("learner", {}),
            "device": "cpu",  # one run per core
        },
        "env": {"kwargs": {"N": options.num_good_agents}},
        "algorithm": {"team_overrides": pairing._asdict()},
        **small,
    }
    return MADDPGConfig.from_dict(changes, base)


def _claim_folder(out: Path, options: ReproduceOptions, experiment: MADDPGConfig) -> None:
    """Write `experiment.json` into a new or empty folder, or check that the existing one is equal.

    Raises:
        BadInput: if it holds another experiment or anything else, or cannot be written to.
    """
    path = out / "experiment.json"
    description = {
        "experiment": _EXPERIMENT,
        "num_good_agents": options.num_good_agents,
        "budget": options.budget,
        "settings": experiment.to_dict(),
    }
    text = json.dumps(description, indent=2) + "\n"
    make_folder(out, "--out")
    try:
        if path.exists():
            if path.read_bytes() != text.encode():
                raise BadInput(
                    "--out", str(out), "holds an experiment with other settings; name another folder"
                )
        elif others := sorted(own.name for own in out.iterdir() if not own.name.startswith(".")):
            raise BadInput(
                "--out", str(out), f"holds {others[0]!r}, no experiment; name a new or empty folder"
            )
        write_atomic(path, text)
        for folder in (out / "results", out / "checkpoints", out / "runs"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput("--out", str(out), f"cannot be written to ({error.strerror})") from None


def _result_path(out: Path, name: str) -> Path:
    return out / "results" / f"{name}.json"


def _compare(
    options: ReproduceOptions,
    out: Path,
    names: Mapping[str, tuple[Pairing, int]],
    results: Mapping[str, Mapping[str, Any]],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Return the table over the seeds, the cross-play, and the path of the curves."""
    rows, groups = [], {}
    for pairing in PAIRINGS:
        own = [results[name] for name, (of, _) in names.items() if of == pairing]
        published = PUBLISHED.get(options.num_good_agents, {}).get(pairing, {})
        trained = {f"{team}_by": name for team, name in pairing._asdict().items()}
        statistics = _seed_statistics([result["card"] for result in own])
        rows.append({**trained, **statistics, "published": published})
        groups[f"{pairing.agent} / {pairing.adversary}"] = [result["curves"] for result in own]
    curves = out / "curves.html"
    title = f"Physical deception, N = {options.num_good_agents}: good agents / adversary"
    write_curves(curves, title, groups)
    entries = [
        read_entry(name, str(out / "checkpoints" / name))
        for name, (pairing, _) in names.items()
        if pairing.agent == pairing.adversary
    ]
    how = CrossPlayOptions(
        options.episodes, _SEED_OF_START_STATES, options.address, options.in_process, options.timeout_s
    )
    shown = ("num_good_agents", "seeds", "budget", "preset", "episodes")
    return {
        "experiment": _EXPERIMENT,
        "options": {name: getattr(options, name) for name in shown},
        "settings": _settings(options, PAIRINGS[0], 0).to_dict(),
        "rows": rows,
        "runs": {name: results[name]["card"] for name in names},
        "cross_play": cross_play(entries, how, note),
        "curves": str(curves),
    }


def _seed_statistics(cards: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean, interquartile mean and bootstrap interval over the seeds of the compared numbers."""
    numbers = {
        **{name: [card["success"][name] for card in cards] for name in ("agents", "adversary", "coverage")},
        "delta": [card["delta"] for card in cards],
    }
    for name in ("agents", "adversary"):
        numbers[f"{name}_distance"] = [card["final_distance_mean"][name] for card in cards]
    for name in ("adversary_0", "agent_0"):
        numbers[f"return_{name}"] = [card["agent_episode_returns_mean"][name] for card in cards]
    return {
        name: {
            "mean": sum(values) / len(values),
            "iqm": interquartile_mean(values),
            "ci95": bootstrap_interval(values),
            "seeds": values,
        }
        for name, values in numbers.items()
    }
