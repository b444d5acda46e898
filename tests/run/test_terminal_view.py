"""The live view on a real pseudo-terminal: what its screen shows, and how it leaves the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from distributed_maddpg.run.standing import Scores
from distributed_maddpg.run.terminal_view import scores_text, trend_text
from tests.support.terminal import Terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")


@contextmanager
def scripted(columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    words = (sys.executable, "-m", "tests.support.scripted_progress")
    with closing(Terminal(*words, columns=columns, lines=lines)) as terminal:
        terminal.wait_for("50 %")
        yield terminal


def go_on_until(terminal: Terminal, text: str) -> None:
    terminal.press(b"\n")
    terminal.wait_for(text)


def test_the_screen_shows_how_the_run_is_doing_and_a_line_at_its_end() -> None:
    with scripted() as terminal:
        first = "training simple_adversary with 2 rollout workers on Ray; files go to runs/x"
        assert terminal.lines()[0] == first
        go_on_until(terminal, "55 %  1m")
        go_on_until(terminal, "60 %  1m")
        before, bar, *rest = terminal.lines()[1:]
        assert before == "saved runs/x/checkpoints/step_55000 (1.0 MB in 0.1 s)"
        assert re.fullmatch("━+[╸╺]?━*  60 %  1m20s left  \\(30s so far\\)", bar)
        assert rest == [
            "env steps   60,000 of 100,000, 500 a second",
            "updates     600, 5 a second",
            "success     agents 60 % ▂▄▅  adversary 40 % ▇▅▄  coverage 30 % ▂▂▃",
            "faults      rollout worker restarts 1, env steps lost 64",
            "bottleneck  learner: busy 80 %; a GPU, a smaller batch or fewer updates",
            "weights     1.2 versions old, 4 at most",
            "workers     2 of 2 healthy",
        ]
        assert terminal.screen.cursor.hidden
        go_on_until(terminal, "65 %  1m")
        go_on_until(terminal, "stopping, with a checkpoint; a second interrupt ends it without")
        assert len(terminal.lines()) == 11
        terminal.press(b"\n")
        assert terminal.end() == 0
        assert not terminal.screen.cursor.hidden
        assert terminal.lines()[:2] == [first, before]
        last = " ".join(terminal.lines()[2:])
        assert last == (
            "[ 65 %] 65,000 env steps  650 updates  500 env-steps/s  5 updates/s  1m10s left "
            "bottleneck: learner  weights 1.2 versions behind  "
            "greedy success: agents 80 %, adversary 20 %, coverage 40 %"
        )
        # Nothing is erased but inside a frame, which the terminal shows as a whole.
        outside = re.sub(rb"\x1b\[\?2026h.*?\x1b\[\?2026l", b"", terminal.written, flags=re.DOTALL)
        assert b"\x1b[2K" in terminal.written and b"\x1b" not in outside


@pytest.mark.parametrize(
    ("columns", "lines", "bar", "agents"),
    [
        (50, 12, "━ 50 % 1m40s left", "success     agents 20 %  adversary 80 %  coverage…"),
        (40, 9, "━ 50 % 1m40s left", "agents 20 %  adversary 80 %  coverage 1…"),
        (24, 6, "50 % 1m40s left", "agents 20 %  adversary …"),
    ],
)
def test_a_narrow_screen_shows_less(columns: int, lines: int, bar: str, agents: str) -> None:
    with scripted(columns, lines) as terminal:
        terminal.wait_for(agents)
        shown = terminal.lines()
        assert len(shown) <= lines
        assert [line for line in shown if re.sub("━[━╸╺]*|  +", " ", line).strip() == bar.strip("━ ")]
        assert any("━" in line for line in shown) == bar.startswith("━")
        for _ in range(5):
            terminal.press(b"\n")
        assert terminal.end() == 0


def test_ctrl_c_ends_a_run_with_a_checkpoint_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    options = (
        *("--num-workers=0", "--rollout.num-envs=8", "--learner.batch-size=32", "--learner.device=cpu"),
        *("--algorithm.policy-hidden-sizes", "8", "--algorithm.critic-hidden-sizes", "8"),
        *("--replay.capacity=5000", "--pacing.learning-starts=256", "--pacing.total-env-steps=20000000"),
        *("--pacing.report-interval-env-steps=512", "--pacing.evaluation-interval-env-steps=0"),
    )
    command = (sys.executable, "-m", "distributed_maddpg", "train", *options, "--run-dir", str(tmp_path))
    with closing(Terminal(*command)) as terminal:
        before = terminal.attributes()
        terminal.wait_for("bottleneck ")
        assert any(re.match("━.* 0 %  .* left  ", line) for line in terminal.lines())
        terminal.press(b"\x03")
        assert terminal.end() == 0
        assert terminal.attributes() == before
        assert not terminal.screen.cursor.hidden
        text = " ".join(terminal.lines())
        assert "result         interrupted" in text
        assert f"resume with: distributed-maddpg train --resume {tmp_path}" in re.sub(r"\s+", " ", text)
        assert b"Traceback" not in terminal.written
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()]


def test_trends_rise_and_fall() -> None:
    assert trend_text((0.0, 50.0, 100.0), percent=True) == "▁▅█"
    assert trend_text((-3.0, -2.0, -1.0)) == "▁▅█"
    assert trend_text((2.0, 2.0)) == "▄▄"
    assert trend_text((2.0,)) == ""


def test_trends_give_way_to_scores() -> None:
    values = {f"agent_{i}": float(i) for i in range(3)}
    scores = Scores("returns", values, dict.fromkeys(values, (1.0, 2.0, 3.0, 4.0)))
    assert scores_text(scores, 80).plain == "agent_0 0.00 ▁▃▆█  agent_1 1.00 ▁▃▆█  agent_2 2.00 ▁▃▆█"
    assert scores_text(scores, 54).plain == "agent_0 0.00 ▁▅█  agent_1 1.00 ▁▅█  agent_2 2.00 ▁▅█"
    assert scores_text(scores, 48).plain == "agent_0 0.00  agent_1 1.00  agent_2 2.00"
    assert scores_text(scores, 80, ascii_only=True).plain == "agent_0 0.00  agent_1 1.00  agent_2 2.00"
