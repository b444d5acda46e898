"""A training run in its folder: settings, tables, checkpoints, summary and report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from distributed_maddpg.checkpoint.folder import Checkpoint
from distributed_maddpg.checkpoint.listing import remove_drafts
from distributed_maddpg.checkpoint.saver import CheckpointSaver, SavingOptions
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs import EnvFactory
from distributed_maddpg.errors import BadInput, TrainingError, one_line
from distributed_maddpg.files import write_atomic
from distributed_maddpg.preflight import check_machine
from distributed_maddpg.report.page import write_report
from distributed_maddpg.run import wandb_writer
from distributed_maddpg.run.best import BestKeeper
from distributed_maddpg.run.callbacks import GuardedCallbacks, MakeCallbacks, check_callbacks
from distributed_maddpg.run.endings import Ending, EndingOptions
from distributed_maddpg.run.folder import (
    CheckpointRecord,
    RunFolder,
    check_no_checkpoints,
    check_not_multi_seed,
    check_unused,
    read_checkpoint_record,
)
from distributed_maddpg.run.goals import Ranking, check_scores, parse_ranking
from distributed_maddpg.run.progress import STOPPING, Progress
from distributed_maddpg.run.signals import stop_on_signals
from distributed_maddpg.run.stages import PolicyStages
from distributed_maddpg.run.wandb_writer import WandbWriter
from distributed_maddpg.trainer import MADDPG, train_together
from distributed_maddpg.types import FloatArray

_SUMMARY = "summary.json"
_MAX_NAME_CHARS = 100
_TOTALS = ("env_steps", "updates", "env_steps_per_s", "updates_per_s")


@dataclass(frozen=True)
class RunOptions:
    """How a run is saved, when it ends early, what is told of it, and what only Python can give it."""

    saving: SavingOptions = field(default_factory=SavingOptions)
    ending: EndingOptions = field(default_factory=EndingOptions)
    env: EnvFactory | None = None
    """Makes the environment, as in `MADDPG(config, env)`."""
    callbacks: MakeCallbacks | None = None
    """A class derived from `Callbacks`, of which each run gets an object."""
    wandb: str = ""
    """Project of Weights & Biases to write to; empty: that of the run to resume, if any; "none": none."""

    def __post_init__(self) -> None:
        """Check the options."""
        check_callbacks(self.callbacks)
        if self.wandb not in ("", wandb_writer.NONE):
            wandb_writer.check_installed(self.wandb)

    @property
    def ranking(self) -> Ranking | None:
        """By which score the best checkpoint is kept; None if none is."""
        return parse_ranking(self.saving.keep_best) if self.saving.keep_best else None


_DEFAULT = RunOptions()


def default_run_dir(preset: str) -> Path:
    """Return `runs/<preset>-<date>-<time>`."""
    return Path("runs") / f"{preset}-{datetime.now():%Y%m%d-%H%M%S}"


def train_run(
    config: MADDPGConfig,
    run_dir: Path,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    options: RunOptions = _DEFAULT,
    restart: bool = False,
) -> dict[str, Any]:
    """Train until finished or interrupted, write a complete run folder, and print the summary.

    SIGINT or SIGTERM ends the run with a checkpoint; a second one ends it immediately.

    Args:
        config: the settings.
        run_dir: folder of the run; locked for this process.
        progress: for display.
        checkpoint: to resume from, in the folder of its run; later rows of the tables are dropped.
        options: where checkpoints are saved, what they hold, and when the run ends early.
        restart: whether to start again in the folder of a run that saved no checkpoint.

    Returns:
        The summary that is also in `summary.json`.

    Raises:
        BadInput, CheckpointError: before anything is started.
        TrainingError: if a stage fails; the files written so far are kept.
    """
    if checkpoint is None:
        check_not_multi_seed(run_dir)
        if not restart:
            check_unused(run_dir)
            check_no_checkpoints(options.saving.folder)
        algo = MADDPG(config, options.env)
    else:
        checkpoint.check_resumable()
        algo = MADDPG.from_loaded_checkpoint(checkpoint, config, options.env)
        check_machine(algo.config, algo.spec)
    _check_scores(algo, options)
    with stop_on_signals(lambda: _stop_early([algo], progress)) as started:
        [summary] = _train([algo], [run_dir], progress, options, started)
        progress.print_summary(summary)
    return summary


def _check_scores(algo: MADDPG, options: RunOptions) -> None:
    """Refuse goals and a ranking by scores that evaluations of this environment do not have."""
    check_scores(algo.config, algo.spec, options.ending.stop_at, options.ranking)


def train_seeds(
    config: MADDPGConfig,
    num_seeds: int,
    run_dir: Path,
    progress: Progress,
    checkpoints: Sequence[Checkpoint] | None = None,
    options: RunOptions = _DEFAULT,
) -> dict[str, Any]:
    """Train runs with the seeds `config.seed` and up together, and print a summary.

    Each has a run folder `seed_<seed>`.

    Args:
        config: settings of the first run.
        num_seeds: number of runs.
        run_dir: parent of their folders.
        progress: for display.
        checkpoints: to resume from, one for each run. Empty: start, also in folders of runs that saved no
            checkpoint. None: start in an unused folder only.
        options: what checkpoints hold, and when the runs end early.

    Returns:
        The summary that is also in `summary.json`: rates over all runs, and the summary of each.

    Raises:
        BadInput: before anything is started.
        TrainingError: if a stage fails; the files written so far are kept.
    """
    if checkpoints is None:
        check_unused(run_dir)
    algos = MADDPG.for_seeds(config, num_seeds, checkpoints or (), options.env)
    if folder := options.saving.folder:
        raise BadInput("--checkpoint-dir", folder, "is for one run; leave it out with several seeds")
    _check_scores(algos[0], options)
    with stop_on_signals(lambda: _stop_early(algos, progress)) as started:
        folders = [run_dir / f"seed_{algo.config.seed}" for algo in algos]
        runs = _train(algos, folders, progress, options, started)
        summary = _summary_of_seeds(runs, run_dir, progress)
        progress.print_summary(summary)
    return summary


def _request_stop(algos: Sequence[MADDPG]) -> None:
    for algo in algos:
        algo.request_stop()


def _stop_early(algos: Sequence[MADDPG], progress: Progress) -> None:
    """Do what the first signal asks for."""
    _request_stop(algos)
    progress.set_phase(STOPPING)


def _summary_of_seeds(runs: Sequence[dict[str, Any]], run_dir: Path, progress: Progress) -> dict[str, Any]:
    """Return the summary of several runs, and write it and their report."""
    summary: dict[str, Any] = {
        "finished": all(run["finished"] for run in runs),
        "interrupted": any(run["interrupted"] for run in runs),
        **({"reason": runs[0]["reason"]} if "reason" in runs[0] else {}),
        **{name: runs[0][name] for name in ("training_s", "device", "device_reason")},
        "num_seeds": len(runs),
        **{name: sum(run[name] for run in runs) for name in _TOTALS},
        "files": {"run_dir": str(run_dir)},
        "runs": runs,
    }
    if all("report" in run["files"] for run in runs):
        summary["files"]["report"] = str(run_dir / "report.html")
    _write_summary_and_report(run_dir, summary, progress)
    return summary


def _train(
    algos: Sequence[MADDPG],
    paths: Sequence[Path],
    progress: Progress,
    options: RunOptions,
    started: Callable[[], None],
) -> list[dict[str, Any]]:
    """Train runs together, each in its folder; call `started` once they can be stopped; return summaries."""
    with ExitStack() as stack:
        stack.enter_context(progress.print_log())
        folders = [stack.enter_context(closing(RunFolder(path))) for path in paths]
        writers = _begin_wandb(algos, folders, options.wandb)
        records = [read_checkpoint_record(path) for path in paths]
        reached = [_reached_before(algo, record) for algo, record in zip(algos, records, strict=True)]
        total = algos[0].config.pacing.total_env_steps
        ending = Ending(options.ending, algos[0].config, reached)
        runs = [
            _Run(*each, options, not ending.is_reached and each[0].env_steps < total, progress.note)
            for each in zip(algos, folders, records, strict=True)
        ]
        for run, writer, name in zip(runs, writers, _names(paths), strict=True):
            run.wandb, run.algo.name = writer, name
        stack.enter_context(algos[0])  # stopping the first run stops all
        folder = paths[0] if len(algos) == 1 else paths[0].parent
        progress.print_start(algos[0].config, folder, len(algos), options.ending)
        stack.enter_context(progress)
        algos[0].start()
        started()
        if algos[0].config.algorithm.networks:
            progress.note(f"learner: {algos[0].device_reason}")
        start_time = time.perf_counter()
        saver = CheckpointSaver(options.saving.keep, progress.note)
        try:
            _train_loop(runs, ending, saver, progress)
        except TrainingError:
            _save_after_failure(runs, saver, progress)
            raise
        training_s = time.perf_counter() - start_time
        if not algos[0].stop_requested:
            progress.begin("saving the last checkpoint")
        saver.finish(lambda: _final_checkpoints(runs, saver))
        for run, scores in zip(runs, ending.scores, strict=True):
            run.note_saved(saver, scores)
        return [_finish_run(run, ending, saver, training_s, progress) for run in runs]


def _reached_before(algo: MADDPG, record: CheckpointRecord) -> Mapping[str, float]:
    """Return the scores with which a run ended early, if it resumes from the checkpoint of that moment."""
    resumes_there = algo.restored_tables is not None and record.reached_at == algo.env_steps
    return record.reached if resumes_there else {}


def _begin_wandb(
    algos: Sequence[MADDPG], folders: Sequence[RunFolder], project: str
) -> list[WandbWriter | None]:
    """Let W&B take runs too, if a project is given or named by the folder of a run to resume."""
    writers: list[WandbWriter | None] = []
    for algo, folder in zip(algos, folders, strict=True):
        resumed = algo.restored_tables is not None
        own = project or (wandb_writer.recorded_project(folder.path) if resumed else "")
        if not own or own == wandb_writer.NONE:
            writers.append(None)
            continue
        writer = WandbWriter(folder.path, own, resumed, algo.config.seed if len(algos) > 1 else None)
        folder.add_event_writer(writer)
        writers.append(writer)
    return writers


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the names of runs by which metrics are told apart: those of their folders."""
    full = [path.resolve() for path in paths]
    names = [path.name if len(full) == 1 else f"{path.parent.name}/{path.name}" for path in full]
    return [one_line(name, _MAX_NAME_CHARS) for name in names]


class _Run:
    """A run and its folder."""

    def __init__(
        self,
        algo: MADDPG,
        folder: RunFolder,
        record: CheckpointRecord,
        options: RunOptions,
        extended: bool,
        note: Callable[[str], None],
    ) -> None:
        self.algo, self.folder = algo, folder
        self.callbacks = GuardedCallbacks(options.callbacks, algo)
        self.wandb: WandbWriter | None = None
        self.first_env_steps, self.first_updates = algo.env_steps, algo.updates
        self._saving = options.saving
        self.checkpoints_folder = options.saving.folder or str(folder.path / "checkpoints")
        self.checkpoint_path = ""
        """Path of the latest captured checkpoint; its name holds the env steps at that moment."""
        resumed = algo.restored_tables is not None
        folder.open_tables(algo.restored_tables, algo.env_steps, extended)
        self._record = CheckpointRecord(
            options.saving,
            f"{self.checkpoints_folder}/step_{algo.env_steps}" if resumed else "",
            tuple(map(str, options.ending.stop_at)),
            *((record.reached_at, record.reached) if resumed else ()),
        )
        folder.record_checkpoint(self._record)
        remove_drafts(self.checkpoints_folder)
        self.best: BestKeeper | None = None
        if ranking := options.ranking:
            self.best = BestKeeper(ranking, self.checkpoints_folder, resumed, note)
        self.stages = PolicyStages(folder.path, algo, note)
        algo.on_event = lambda event: folder.add_events([event])  # immediately, in case the run is killed

    def capture(self) -> Checkpoint:
        checkpoint = self.algo.capture(self._saving.replay, self.folder.tables())
        self.checkpoint_path = f"{self.checkpoints_folder}/{checkpoint.name}"
        return checkpoint

    def note_saved(self, saver: CheckpointSaver, reached: Mapping[str, float] | None = None) -> None:
        """Record the latest checkpoint once it is written, and the scores that ended the run with it."""
        is_new = self.checkpoint_path not in ("", self._record.newest)
        if saver.busy or saver.problem or not (is_new or reached):
            return
        self._record = dataclasses.replace(self._record, newest=self.checkpoint_path)
        if reached:
            self._record = dataclasses.replace(
                self._record, reached_at=self.algo.env_steps, reached=dict(reached)
            )
        self.folder.record_checkpoint(self._record)
        if is_new:
            self.callbacks.on_checkpoint(self.checkpoint_path)

    def keep_best(self, evaluations: Sequence[dict[str, Any]], policies: Sequence[FloatArray]) -> None:
        """Keep the policies of one of these evaluations if it is the best so far."""
        if self.best is None:
            return
        for evaluation, own in zip(evaluations, policies, strict=True):
            counts = evaluation["num_env_steps"], evaluation["num_updates"]
            self.best.offer(evaluation, self.algo.policies_checkpoint(*counts, own))
        self.best.advance()

    def add(self, result: dict[str, Any]) -> None:
        """Write the evaluations, and the result if the iteration is complete.

        A resumed run completes an interrupted one.
        """
        self.folder.write_config(self.algo.config)
        if self.algo.iteration_complete:
            self.folder.add_result(result)
        for evaluation in self.algo.evaluations:
            self.folder.add_evaluation(evaluation)

    def call_back(self, result: dict[str, Any]) -> None:
        """Tell the user's callbacks of what `add` wrote.

        Raises:
            TrainingError: if a callback failed since the last call.
        """
        for evaluation in self.algo.evaluations:
            self.callbacks.on_evaluation(evaluation)
        if self.algo.iteration_complete:
            self.callbacks.on_result(result)
        if self.callbacks.problem:
            raise TrainingError(self.callbacks.problem)


def _train_loop(runs: Sequence[_Run], ending: Ending, saver: CheckpointSaver, progress: Progress) -> None:
    algos = [run.algo for run in runs]

    def over() -> bool:
        return algos[0].finished or algos[0].stop_requested or ending.is_reached

    while not over():
        results = train_together(algos, partial(_check_time, algos[0], ending, progress))
        if ending.time_is_up:
            _request_stop(algos)
        for index, (run, result) in enumerate(zip(runs, results, strict=True)):
            run.add(result)
            run.note_saved(saver)
            run.keep_best(run.algo.evaluations, run.algo.evaluated_policies)
            run.stages.advance()
            ending.add_evaluations(index, run.algo.evaluations)
            if problem := run.folder.pop_problem():
                progress.note(problem)
        ending.add_result(results[0], saver.slowest_s)
        progress.print_result(results[0])
        saver.report()
        _call_back(runs, results)
        if not (over() or saver.busy) and (algos[0].checkpoint_due() or saver.retry_due):
            if len(runs) > 1:  # their checkpoints must have the same steps
                algos[0].drain()
            saver.start([(run.checkpoints_folder, run.capture()) for run in runs])


def _check_time(algo: MADDPG, ending: Ending, progress: Progress) -> bool:
    """Do what is to be done after each round: show how far training is, and look at the clock."""
    progress.print_counts(algo.env_steps, algo.updates)
    return ending.check_time()


def _call_back(runs: Sequence[_Run], results: Sequence[dict[str, Any]]) -> None:
    for run, result in zip(runs, results, strict=True):
        run.call_back(result)


def _final_checkpoints(runs: Sequence[_Run], saver: CheckpointSaver) -> list[tuple[str, Checkpoint]]:
    """Return the last checkpoints, captured when no work is in flight; those before are written by now."""
    runs[0].algo.drain()
    return _captured(runs, saver)


def _captured(runs: Sequence[_Run], saver: CheckpointSaver) -> list[tuple[str, Checkpoint]]:
    for run in runs:
        run.note_saved(saver)
    return [(run.checkpoints_folder, run.capture()) for run in runs]


def _save_after_failure(runs: Sequence[_Run], saver: CheckpointSaver, progress: Progress) -> None:
    """Save the state of runs that failed, as far as it can be captured."""
    try:
        saver.finish(lambda: _captured(runs, saver))
        for run in runs:
            run.note_saved(saver)
            if run.best:
                run.best.finish()
    except TrainingError as error:
        progress.note(f"no checkpoint of the failed run could be saved: {error}")


def _finish_run(
    run: _Run, ending: Ending, saver: CheckpointSaver, training_s: float, progress: Progress
) -> dict[str, Any]:
    """Evaluate a run unless it was interrupted, and write its summary and report."""
    algo, folder = run.algo, run.folder
    folder.write_config(algo.config)
    interrupted = algo.stop_requested
    summary: dict[str, Any] = {
        "finished": algo.finished or (ending.is_reached and not interrupted),
        "interrupted": interrupted,
        **({"reason": ending.reason} if ending.reason and not algo.finished else {}),
        "env_id": algo.config.env.id,
        **({"networks": networks} if (networks := algo.config.algorithm.networks) else {}),
        "env_steps": algo.env_steps,
        "updates": algo.updates,
        "training_s": training_s,
        "env_steps_per_s": (algo.env_steps - run.first_env_steps) / training_s,
        "updates_per_s": (algo.updates - run.first_updates) / training_s,
        "weights_digest": algo.weights_digest(),
        "device": algo.device,
        "device_reason": algo.device_reason,
    }
    if algo.spec.measures:
        summary["measures"] = {measure.name: measure.text for measure in algo.spec.measures}
    if not interrupted:
        progress.begin(f"playing {algo.config.evaluation.final_episodes:,} greedy episodes")
        scorecard = algo.scorecard(algo.config.evaluation.final_episodes)
        counts = {"num_env_steps": algo.env_steps, "num_updates": algo.updates}
        evaluation = {**counts, **scorecard.to_dict()}
        folder.add_evaluation(evaluation)
        run.keep_best([evaluation], [algo.policy_parameters()])
        # As JSON holds it: intervals are tuples.
        summary["evaluation"] = json.loads(json.dumps(scorecard.with_intervals()))
        run.stages.keep()
        run.callbacks.on_evaluation({**evaluation})
    saved = {} if saver.problem else {"checkpoint": run.checkpoint_path}
    problem_of_best = _finish_best(run, summary, saved)
    summary["files"] = {"run_dir": str(folder.path), **saved, **folder.output_files()}
    if problem := saver.problem or problem_of_best or folder.pop_problem() or run.callbacks.problem:
        summary["problem"] = problem
    if run.wandb:
        summary["wandb"] = run.wandb.add_summary(summary)
    progress.begin("writing the report")
    _write_summary_and_report(folder.path, summary, progress)
    return summary


def _write_summary_and_report(path: Path, summary: dict[str, Any], progress: Progress) -> None:
    """Write a run's summary, then its report, which shows it; the summary again if the report failed."""
    _try_write(summary, lambda: _write_summary(path, summary), progress)
    named = "report" in summary["files"]
    if named and not _try_write(summary, lambda: write_report([path], ended=True), progress):
        del summary["files"]["report"]
    if "problem" in summary:
        with suppress(OSError):
            _write_summary(path, summary)


def _finish_best(run: _Run, summary: dict[str, Any], files: dict[str, str]) -> str:
    """Write a run's best checkpoint; add its score and path. Return why that failed, empty if it did not."""
    if run.best is None:
        return ""
    problem = run.best.finish()
    if best := run.best.saved:
        files["best_checkpoint"] = best.pop("path")
        summary["best"] = best
    return problem


def _try_write(summary: dict[str, Any], write: Callable[[], object], progress: Progress) -> bool:
    """Write a file of a run; return whether that succeeded, and set the summary's `problem` if not."""
    try:
        write()
    except (BadInput, OSError) as error:
        line = (
            f"report.html was not written ({error})"
            if isinstance(error, BadInput)
            else f"{summary['files']['run_dir']}: cannot be written to ({error.strerror or error})"
        )
        progress.note(line)
        summary.setdefault("problem", line)
        return False
    return True


def _write_summary(folder: Path, summary: dict[str, Any]) -> None:
    write_atomic(folder / _SUMMARY, json.dumps(summary, indent=2) + "\n")
