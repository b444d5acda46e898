"""Episodes for a page's animated replay: the same start states, played by the policies of several stages."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.checkpoint.listing import checkpoints_of
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError, TrainingError
from distributed_maddpg.evaluation.scores import SUCCESS_EPS
from distributed_maddpg.files import parse_json, read_small
from distributed_maddpg.report.episode_choice import choose_episode
from distributed_maddpg.report.roles import role_of, team_name
from distributed_maddpg.report.runs import Group, Run
from distributed_maddpg.report.scenario_texts import CAPTIONS
from distributed_maddpg.types import MPE2_MODULES

_CANDIDATES, _EPISODES, _STAGES, _MOST_RUNS = 64, 6, 4, 8
_SHARES = (0.0, 0.1, 0.3, 1.0)
_MOST_NUMBERS = 50_000
"""Integers of all episodes on a page: at most about 5 bytes each."""
_SEED = 2_026
_SCALE = 1_000  # positions and rewards are written as thousandths
_MAX_RECORD_BYTES, _FAR = 2**16, 100.0
_DRAWN = ("agent_positions", "landmark_positions", "goal_landmark", "goal_landmarks", "utterances", "holding")


class Snapshot(NamedTuple):
    """Saved policies of a run."""

    path: Path
    env_steps: int


@dataclass(frozen=True)
class Player:
    """A snapshot of a run, and what it played: arrays of T steps and T + 1 frames of each of K episodes."""

    snapshot: Snapshot
    config: MADDPGConfig
    agents: tuple[str, ...]
    states: Mapping[str, npt.NDArray[Any]]
    """[K, T + 1, ...]"""
    rewards: npt.NDArray[np.floating]
    """[K, T, N]"""


def replays(groups: Sequence[Group]) -> dict[str, Any]:
    """Return what the page animates, as plain values: a stage per snapshot of a run, or why there is none.

    `worlds` has an entry for each environment among the runs, in which all episodes start alike.
    """
    runs = [(group, run) for group in groups for run in group.runs][:_MOST_RUNS]
    worlds: dict[str, list[tuple[str, Run, list[Player]]]] = {}
    reasons = []
    for group, run in runs:
        seed = run.path.name if len(group.runs) > 1 else ""
        label = " ".join(filter(None, [group.name if len(groups) > 1 or not seed else "", seed]))
        played, reason = _play(run)
        if reason:
            reasons.append(reason if len(runs) == 1 else f"{label}: {reason}")
        if played:
            env = played[-1].config.env
            key = json.dumps([env.id, env.kwargs, env.backend], sort_keys=True)
            worlds.setdefault(key, []).append((label, run, played))
    budget = _MOST_NUMBERS // max(1, sum(map(len, worlds.values())))
    return {
        "worlds": [_world(players, budget) for players in worlds.values()],
        "reason": " ".join(reasons),
    }


def _play(run: Run) -> tuple[list[Player], str]:
    """Return what a run's snapshots played, and why there is nothing to show."""
    if not run.env_id:
        return [], "The folder does not say which environment it was trained in."
    if run.env_id not in MPE2_MODULES:
        return [], (
            f"There is no replay of {run.env_id}: only the scenarios of MPE2 tell where everything is."
        )
    snapshots = _chosen(snapshots_of(run), run)
    if not snapshots:
        return [], "No policies are saved yet; the replay appears with the first of them."
    played, reasons = [], []
    for snapshot in snapshots:
        try:
            played.append(_record(snapshot, _mark(snapshot.path)))
        except (BadInput, CheckpointError, TrainingError, OSError) as error:
            reasons.append(f"Saved policies cannot be played: {error}.")
    return played, " ".join(reasons)


def snapshots_of(run: Run) -> list[Snapshot]:
    """Return the saved policies of a run, oldest first: those of its stages, and the newest checkpoint."""
    found = {}
    try:
        for path in map(Path, checkpoints_of(run.path / "policies")):
            found[int(path.name.removeprefix("step_"))] = path
        newest = _newest_checkpoint(run.path)
        if newest and newest.env_steps > max(found, default=-1):
            found[newest.env_steps] = newest.path
    except (CheckpointError, ValueError):  # a path with a zero byte
        return []
    return [Snapshot(found[steps], steps) for steps in sorted(found)]


def _newest_checkpoint(run_dir: Path) -> Snapshot | None:
    """Return the newest checkpoint on a disk of this machine; None if there is none."""
    try:
        record = parse_json(read_small(run_dir / "checkpoints.json", _MAX_RECORD_BYTES))
        folder = str(record["folder"]).removeprefix("file://") or str(run_dir / "checkpoints")
    except (OSError, ValueError, KeyError, TypeError):
        folder = str(run_dir / "checkpoints")
    found = [] if "://" in folder else checkpoints_of(folder)
    return Snapshot(Path(found[0]), int(Path(found[0]).name.removeprefix("step_"))) if found else None


def _chosen(snapshots: Sequence[Snapshot], run: Run) -> list[Snapshot]:
    """Return at most four snapshots: those nearest to the start, 10 %, 30 % and the newest."""
    if len(snapshots) <= _STAGES:
        return list(snapshots)
    newest = snapshots[-1].env_steps
    wanted = {
        min(range(len(snapshots)), key=lambda i: abs(snapshots[i].env_steps - share * newest))
        for share in _SHARES
    }
    return [snapshots[index] for index in sorted(wanted)]


def _mark(path: Path) -> int:
    """Return what changes when a snapshot is replaced by another of the same name."""
    return (path / "manifest.json").stat().st_mtime_ns


@functools.lru_cache(maxsize=64)
def _record(snapshot: Snapshot, mark: int) -> Player:
    """Play the candidates with a snapshot; kept, as a page that follows a run asks again and again."""
    # Imported here: it loads numba and the compiled scenarios.
    from distributed_maddpg.evaluation.matchups import TeamSource  # noqa: PLC0415
    from distributed_maddpg.evaluation.recording import record_episodes  # noqa: PLC0415
    from distributed_maddpg.layouts import is_loaded  # noqa: PLC0415
    from distributed_maddpg.preflight import check_finite  # noqa: PLC0415

    checkpoint = load_checkpoint(snapshot.path, policies_only=True)
    check_finite(checkpoint)
    networks = checkpoint.config.algorithm.networks
    if networks and not is_loaded(networks):
        raise CheckpointError(
            f"{snapshot.path}: a page does not import networks that a file names, {networks!r}"
        )
    source = TeamSource(_with_a_copy_each(checkpoint.config), checkpoint.policies)
    teams = dict.fromkeys(map(team_name, checkpoint.agents), source)
    try:
        recording = record_episodes(teams, _CANDIDATES, _SEED)
    except (ValueError, KeyError) as error:  # weights of other sizes than the settings say
        raise CheckpointError(f"{snapshot.path}: its policies do not fit its settings ({error})") from None
    length = int(recording.lengths.min())  # all are equal: episodes of MPE2 end by their length alone
    frames = np.stack([np.arange(length + 1) + recording.frames(k).start for k in range(_CANDIDATES)])
    steps = np.stack([np.arange(length) + recording.steps(k).start for k in range(_CANDIDATES)])
    states = {name: array[frames] for name, array in recording.states.items() if name in _DRAWN}
    return Player(snapshot, checkpoint.config, checkpoint.agents, states, recording.rewards[steps])


def _with_a_copy_each(config: MADDPGConfig) -> MADDPGConfig:
    """Return settings with a copy for each episode, so that the seed alone decides the start states."""
    rollout = dataclasses.replace(config.rollout, num_envs=_CANDIDATES)
    replay = dataclasses.replace(
        config.replay, capacity=max(config.replay.capacity, rollout.fragment_env_steps)
    )
    return dataclasses.replace(config, rollout=rollout, replay=replay)


def _world(runs: Sequence[tuple[str, Run, list[Player]]], budget: int) -> dict[str, Any]:
    """Return the episodes of runs in one environment: who there is, and what each snapshot played."""
    from distributed_maddpg.envs.mpe.scenarios import SCENARIOS  # noqa: PLC0415 - loads numba

    config = runs[0][2][-1].config
    scenario = SCENARIOS[config.env.id].from_kwargs(config.env.kwargs)
    players = [player for _, _, own in runs for player in own]
    speakers = [i for i, body in enumerate(scenario.agents) if scenario.num_letters and not body.silent]
    chosen = choose_episode(config.env.id, players[-1].states, players[-1].rewards, players[-1].agents)
    each = sum(sum(map(len, _encoded(player, 0, speakers).values())) for player in players)
    kept = [chosen.index, *(k for k in range(_CANDIDATES) if k != chosen.index)]
    kept = kept[: max(1, min(_EPISODES, budget // each))]
    names = [body.name for body in scenario.agents]
    return {
        "env_id": config.env.id,
        "caption": CAPTIONS[config.env.id],
        "chosen": chosen.reason,
        "near": SUCCESS_EPS if config.env.id == "simple_adversary" else None,
        "letters": scenario.num_letters,
        "speakers": speakers,
        "agents": [
            {**dataclasses.asdict(role_of(body.name, names)), "size": body.size, "moves": body.movable}
            for body in scenario.agents
        ],
        "landmarks": [
            {"kind": _landmark_kind(body), "size": body.size, "name": body.name.replace("_", " ")}
            for body in scenario.landmarks
        ],
        "players": [
            _player_text(label, run, player, player is own[-1]) for label, run, own in runs for player in own
        ],
        "episodes": [_episode(players, k, speakers) for k in kept],
    }


def _player_text(run_name: str, run: Run, player: Player, newest: bool) -> dict[str, Any]:
    """Return what is written above a player's world."""
    steps, total = player.snapshot.env_steps, player.config.pacing.total_env_steps
    label = f"{100 * steps / total:.0f} %"
    if newest and run.state == "finished":
        label = "End"
    elif steps == 0:
        label = "Start"
    elif newest:
        label = f"Newest, {label}"
    return {"run": run_name, "label": label, "env_steps": steps}


def _landmark_kind(body: Any) -> str:
    kind = body.name.partition(" ")[0].partition("_")[0]
    return "obstacle" if kind == "landmark" and body.collides else kind


def _episode(players: Sequence[Player], episode: int, speakers: Sequence[int]) -> dict[str, Any]:
    state = players[0].states
    goals = state.get("goal_landmarks", state.get("goal_landmark"))
    own = [] if goals is None else np.atleast_1d(goals[episode, 0]).tolist()
    return {"goals": own, "played": [_encoded(player, episode, speakers) for player in players]}


def _encoded(player: Player, episode: int, speakers: Sequence[int]) -> dict[str, list[int]]:
    """Return the frames of an episode as flat whole numbers: thousandths, of utterances hundredths."""
    states = player.states
    landmarks = states["landmark_positions"][episode]
    if (landmarks == landmarks[0]).all():
        landmarks = landmarks[:1]
    parts = {
        "positions": _thousandths(states["agent_positions"][episode]),
        "landmarks": _thousandths(landmarks),
        "rewards": _thousandths(player.rewards[episode]),
    }
    if speakers:
        said = states["utterances"][episode][:, speakers]
        parts["said"] = np.rint(100 * said).astype(int).ravel().tolist()
    if "holding" in states:
        parts["holding"] = states["holding"][episode].ravel().tolist()
    return parts


def _thousandths(values: npt.NDArray[Any]) -> list[int]:
    # Treasures that are collected are a thousand units away.
    found: list[int] = np.rint(_SCALE * np.clip(values, -_FAR, _FAR)).astype(int).ravel().tolist()
    return found
