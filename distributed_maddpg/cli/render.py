"""The command `render`, which draws a checkpoint's episodes."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from distributed_maddpg.benchmarks.options import check_numbers
from distributed_maddpg.cli.output import print_json
from distributed_maddpg.cli.parsing import parse
from distributed_maddpg.errors import BadInput, did_you_mean
from distributed_maddpg.files import writing_to

if TYPE_CHECKING:
    from distributed_maddpg.config import EnvConfig
    from distributed_maddpg.evaluation.matchups import TeamSource

_MIN_SIZE, _MAX_SIZE, _MAX_FPS, _MAX_EPISODES = 32, 2_000, 50.0, 1_000


@dataclass(frozen=True)
class RenderCommand:
    """Draw greedy episodes of a checkpoint, in a file or a window.

    Scenarios of MPE2 are drawn by MPE2's own renderer, without a display; other environments by themselves,
    with render_mode="rgb_array".

    Examples:
        distributed-maddpg render runs/first --out first.gif
        distributed-maddpg render runs/first --out first.png --episodes 2 --best
        distributed-maddpg render runs/first --against runs/second --window
    """

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint; or a run folder, or a folder or URL of checkpoints, of which the newest is used."""
    out: str = ""
    """File to write, replaced if there is one: .gif, .mp4 (needs the extra "video") or .png, which has a row
    of six moments for each episode."""
    window: bool = False
    """Show the episodes in a window instead of writing them; Escape closes it."""
    against: str = ""
    """Another checkpoint or run of the same environment, whose policies play the other teams."""
    team: str = ""
    """With --against: the team that CHECKPOINT plays; default: the last one, as the rows of cross-play. In
    simple_adversary these are the good agents, and --against plays the adversary."""
    best: bool = False
    """Use the checkpoints that train --keep-best kept instead of the newest."""
    episodes: int = 3
    """Number of episodes, at most 1000."""
    seed: int = 0
    """Seed of the start states; those of scenarios of MPE2 are those of evaluate --seed."""
    fps: float = 10.0
    """Frames, each of one step, a second; at most 50."""
    size: int = 400
    """Width of a frame in pixels, from 32 to 2000; MPE2 draws 700."""
    camera: Literal["steady", "mpe2"] = "steady"
    """steady: show all that an episode takes, in each of its frames. mpe2: as MPE2 does, nearer or farther in
    each frame, so that landmarks seem to move."""
    env_id: Annotated[str, tyro.conf.arg(name="env.id")] = ""
    """Confirms the checkpoints' environment, which is then imported and run. Needed unless it belongs to this
    package, mpe2 or PettingZoo."""
    networks: Annotated[str, tyro.conf.arg(name="algorithm.networks")] = ""
    """Confirms the checkpoints' networks of somebody's own layers, which are then imported and run."""
    json: bool = False
    """Print one JSON object on stdout instead of a line on stderr."""

    def __post_init__(self) -> None:
        """Check the options."""
        check_numbers(self, positive=("episodes",), not_negative=("seed",))
        if self.episodes > _MAX_EPISODES:
            raise BadInput("--episodes", self.episodes, f"must be at most {_MAX_EPISODES}")
        if not 1 <= self.fps <= _MAX_FPS:
            raise BadInput("--fps", self.fps, f"must be from 1 to {_MAX_FPS:g}")
        if not _MIN_SIZE <= self.size <= _MAX_SIZE:
            raise BadInput("--size", self.size, f"must be from {_MIN_SIZE} to {_MAX_SIZE}")
        if bool(self.out) == self.window:
            raise BadInput(
                "--out", self.out, "name a .gif, .mp4 or .png file to write, or give --window alone"
            )
        if self.team and not self.against:
            raise BadInput("--team", self.team, "needs --against, which plays the other teams")


def run(arguments: list[str]) -> None:
    """Run the command with these arguments."""
    command = parse(RenderCommand, "render", arguments)

    from distributed_maddpg.evaluation.rendering import no_display, render_episodes  # noqa: PLC0415
    from distributed_maddpg.report.video import picture_file, write_video  # noqa: PLC0415
    from distributed_maddpg.report.window import open_window  # noqa: PLC0415
    from distributed_maddpg.run.progress import Progress  # noqa: PLC0415
    from distributed_maddpg.seeding import integer_seed  # noqa: PLC0415

    progress, seed = Progress(), integer_seed(command.seed, "evaluation", 0)
    out = picture_file("--out", command.out) if command.out else Path()
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        window = stack.enter_context(open_window(command.size, command.fps)) if command.window else None
        players, sources = _teams(command)
        result: dict[str, Any] = {"teams": players, "seed": command.seed, "episodes": command.episodes}
        if window is not None:
            frames = render_episodes(sources, command.episodes, seed, command.camera)
            result["frames"] = window.show(frames)
        else:
            stack.enter_context(no_display())
            frames = render_episodes(sources, command.episodes, seed, command.camera)
            with writing_to("--out", out):
                result |= {"file": str(out), **vars(write_video(frames, out, command.size, command.fps))}
    if command.json:
        print_json(result)
        return
    if command.out:
        progress.note(
            "wrote {file}: {frames} frames, {width} x {height} pixels, {num_bytes:,} bytes".format(**result)
        )
    for team, path in players.items() if command.against else ():
        progress.note(f"{team}: {path}")


def _teams(command: RenderCommand) -> tuple[dict[str, str], dict[str, TeamSource]]:
    """Return the checkpoint of each team, in the environment's order, and its policies, CHECKPOINT's first.

    Raises:
        BadInput: if the checkpoints cannot play each other.
        CheckpointError: if one cannot be read.
    """
    path, teams, source = _read(command.checkpoint, command)
    if not command.against:
        return dict.fromkeys(teams, path), dict.fromkeys(teams, source)
    if len(teams) < 2:
        raise BadInput(
            "--against", command.against, f"has nobody to play: all agents are of team {teams[0]!r}"
        )
    own = command.team or teams[-1]
    if own not in teams:
        raise BadInput("--team", own, did_you_mean(own, teams))
    other_path, _, other = _read(command.against, command)
    env, other_env = source.config.env, other.config.env
    if (env.id, env.kwargs) != (other_env.id, other_env.kwargs):
        remedy = f"plays {describe_env(other_env)}, and CHECKPOINT {describe_env(env)}; they must be the same"
        raise BadInput("--against", command.against, remedy)
    players = {team: path if team == own else other_path for team in teams}
    return players, {own: source} | {team: other for team in teams if team != own}


def _read(place: str, command: RenderCommand) -> tuple[str, list[str], TeamSource]:
    """Return the path of a checkpoint, its environment's teams, and its settings and policies."""
    from distributed_maddpg.evaluation.matchups import TeamSource  # noqa: PLC0415
    from distributed_maddpg.run.folder import best_checkpoint, newest_checkpoint  # noqa: PLC0415
    from distributed_maddpg.trainer import MADDPG  # noqa: PLC0415

    path = str((best_checkpoint if command.best else newest_checkpoint)(place))
    with MADDPG.from_checkpoint(path, env_id=command.env_id, networks=command.networks) as algo:
        teams = list(dict.fromkeys(algo.spec.teams))
        return path, teams, TeamSource(algo.config, algo.policy_parameters())


def describe_env(env: EnvConfig) -> str:
    """Return an environment and its arguments in words."""
    arguments = ", ".join(f"{name} {value}" for name, value in env.kwargs.items())
    return f"{env.id} with {arguments}" if arguments else env.id
