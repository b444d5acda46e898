"""The command `render`: files, windows, opponents, and what it refuses."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from distributed_maddpg import MADDPG, files
from distributed_maddpg.cli import main
from distributed_maddpg.evaluation.matchups import TeamSource
from distributed_maddpg.evaluation.recording import record_episodes
from distributed_maddpg.evaluation.rendering import draw_recording
from distributed_maddpg.report.video import resized
from distributed_maddpg.seeding import integer_seed
from tests.support.serial_runs import tiny

STEPS = 3
KWARGS = {"N": 2, "max_cycles": STEPS, "continuous_actions": True}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Return the folder of untrained checkpoints: two that can meet, and three of other environments."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, config in {
        "one": tiny(kwargs=KWARGS),
        "other": tiny(kwargs=KWARGS, seed=5),
        "longer": tiny(kwargs={**KWARGS, "max_cycles": 9}),
        "spread": tiny("simple_spread", kwargs={"max_cycles": STEPS}),
        "counting": tiny("tests.support.counting:parallel_env", kwargs={"max_cycles": STEPS}),
    }.items():
        with MADDPG(config) as algo:
            algo.save(folder / name)
    return folder


def render(arguments, capsys):
    """Run a command that must succeed; return its JSON."""
    assert main(["render", *map(str, arguments), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def last_picture(path):
    with Image.open(path) as image:
        image.seek(image.n_frames - 1)
        return np.asarray(image.convert("RGB"))


def expected_picture(sources, seed=0):
    """Return the last frame of the first episode as MPE2 draws it, 200 pixels wide."""
    recording = record_episodes(sources, 1, integer_seed(seed, "evaluation", 0))
    *_, last = draw_recording(next(iter(sources.values())).config, recording, "mpe2")
    return np.asarray(resized(last, 200))


def source(path):
    with MADDPG.from_checkpoint(path) as algo:
        return TeamSource(algo.config, algo.policy_parameters())


@pytest.mark.parametrize(
    ("team", "players"),
    [
        (None, {"adversary": "other", "agent": "one"}),
        ("adversary", {"adversary": "one", "agent": "other"}),
        ("", {"adversary": "one", "agent": "one"}),
    ],
)
def test_each_team_is_played_by_the_checkpoint_that_is_said(checkpoints, tmp_path, capsys, team, players):
    against = [] if team == "" else ["--against", checkpoints / "other", *(["--team", team] if team else [])]
    out = tmp_path / "x.gif"
    size = ["--size", "200", "--camera", "mpe2", "--episodes", "1", "--seed", "3"]
    result = render([checkpoints / "one", "--out", out, *against, *size], capsys)
    assert result["teams"] == {name: str(checkpoints / player) for name, player in players.items()}
    sources = {name: source(checkpoints / player) for name, player in players.items()}
    drawn, expected = last_picture(out).astype(int), expected_picture(sources, seed=3)
    assert np.abs(drawn - expected).mean() < 0.2  # a GIF has 128 colours
    assert (drawn[(expected == 255).all(axis=2)] == 255).all()


def test_what_was_written_is_said(checkpoints, tmp_path, capsys):
    out = tmp_path / "x.gif"
    out.write_text("an older file")
    result = render([checkpoints / "one", "--out", out, "--episodes", "2", "--fps", "20"], capsys)
    assert result == {
        "teams": dict.fromkeys(("adversary", "agent"), str(checkpoints / "one")),
        "seed": 0,
        "episodes": 2,
        "file": str(out),
        "frames": 2 * (STEPS + 1),
        "width": 400,
        "height": 400,
        "seconds": 2 * (STEPS + 1) * 0.05 + 2,
        "num_bytes": out.stat().st_size,
    }
    assert main(["render", str(checkpoints / "one"), "--out", str(out), "--size", "100"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0].startswith(f"wrote {out}: 12 frames, 100 x 100 pixels, ")


def test_it_needs_no_display_and_prints_only_json(checkpoints, tmp_path):
    environment = {
        k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    }
    command = [sys.executable, "-m", "distributed_maddpg", "render", checkpoints / "spread", "--json"]
    out = ["--out", tmp_path / "x.mp4", "--size", "64"]
    done = subprocess.run([*command, *out], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["frames"] == 3 * (STEPS + 1 + 10)
    assert (tmp_path / "x.mp4").stat().st_size > 1_000


def test_a_window_shows_the_frames(checkpoints, capsys, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    result = render([checkpoints / "one", "--window", "--fps", "50", "--episodes", "1"], capsys)
    assert result["frames"] == STEPS + 1


REFUSED = {
    "no file": ([], 2, "--out = '': name a .gif, .mp4 or .png file to write, or give --window alone"),
    "file and window": (["--out", "x.gif", "--window"], 2, "--out = 'x.gif': name a .gif"),
    "another kind of file": (["--out", "x.avi"], 2, "--out = 'x.avi': must end with .gif, .mp4 or .png"),
    "no folder": (["--out", "no/x.gif"], 2, "--out = 'no/x.gif': lies in no folder; create 'no'"),
    "no episodes": (["--out", "x.gif", "--episodes", "0"], 2, "--episodes = 0: must be positive"),
    "too many episodes": (["--out", "x.gif", "--episodes", "1001"], 2, "--episodes = 1001: must be at most"),
    "too fast": (["--out", "x.gif", "--fps", "51"], 2, "--fps = 51.0: must be from 1 to 50"),
    "no rate": (["--out", "x.gif", "--fps", "nan"], 2, "--fps = nan: must be from 1 to 50"),
    "too small": (["--out", "x.gif", "--size", "8"], 2, "--size = 8: must be from 32 to 2000"),
    "a camera that does not exist": (["--out", "x.gif", "--camera", "still"], 2, "--camera"),
    "a team alone": (["--out", "x.gif", "--team", "agent"], 2, "--team = 'agent': needs --against"),
    "an unknown team": (
        ["--out", "x.gif", "--against", "other", "--team", "agents"],
        2,
        "--team = 'agents': did you mean 'agent'?",
    ),
    "other arguments": (
        ["--out", "x.gif", "--against", "longer"],
        2,
        "--against = 'longer': plays simple_adversary with N 2, max_cycles 9, continuous_actions True, and "
        "CHECKPOINT simple_adversary with N 2, max_cycles 3, continuous_actions True; they must be the same",
    ),
    "another environment": (["--out", "x.gif", "--against", "spread"], 2, "plays simple_spread with"),
    "no checkpoint to play against": (["--out", "x.gif", "--against", "missing"], 3, "missing: "),
    "no best checkpoint": (["--out", "x.gif", "--best"], 3, "one: "),
}


@pytest.mark.parametrize(("arguments", "code", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_drawn_is_refused_in_one_line(checkpoints, capsys, monkeypatch, arguments, code, line):
    monkeypatch.chdir(checkpoints)
    assert main(["render", "one", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert line in captured.err
    assert not list(checkpoints.glob("*x.gif*"))


def test_environments_that_cannot_be_drawn_or_played_against_are_named(checkpoints, capsys, tmp_path):
    counting = ["render", str(checkpoints / "counting"), "--out", str(tmp_path / "x.gif")]
    assert main(counting) == 3
    assert "if you trust it, name it: --env.id" in capsys.readouterr().err
    counting += ["--env.id", "tests.support.counting:parallel_env"]
    assert main(counting) == 2
    assert "cannot be drawn" in capsys.readouterr().err
    spread = ["render", str(checkpoints / "spread"), "--against", str(checkpoints / "spread")]
    assert main([*spread, "--out", str(tmp_path / "x.gif")]) == 2
    assert "has nobody to play: all agents are of team 'agent'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.gif", "x.png"])
def test_a_full_disk_names_the_file_and_leaves_no_draft(checkpoints, tmp_path, monkeypatch, capsys, name):
    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", fail)
    arguments = ["--out", str(tmp_path / name), "--episodes", "1", "--size", "40"]
    assert main(["render", str(checkpoints / "one"), *arguments]) == 2
    expected = f"error: --out = {str(tmp_path / name)!r}: cannot be written (No space left on device); name"
    assert capsys.readouterr().err.startswith(expected)
    assert list(tmp_path.iterdir()) == []
