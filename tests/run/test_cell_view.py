"""What a notebook's cell shows of a run, and how often."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.run.cell_view import CellProgress, CellView, in_notebook, progress_here
from distributed_maddpg.run.progress import Progress
from tests.support.scripted_progress import result


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return what is displayed: HTML and text."""
    pages: list[tuple[str, str]] = []
    monkeypatch.setattr(CellView, "_display", lambda self, page, text: pages.append((page, text)))
    return pages


def texts(page: str) -> list[str]:
    """Return the texts between the tags of a page."""
    return [html.unescape(text) for text in re.findall(">([^<]+)<", page)]


def started(clock: Clock) -> CellProgress:
    progress = CellProgress(clock)
    config = MADDPGConfig.from_dict({"num_workers": 2, "pacing": {"total_env_steps": 100_000}})
    progress.print_start(config, Path("runs/<x>"), 1)
    return progress


def test_outside_of_a_notebook_progress_is_that_of_the_command() -> None:
    assert not in_notebook()
    assert type(progress_here()) is Progress


def test_a_cell_shows_the_bar_the_rows_and_the_newest_lines(shown: list[tuple[str, str]]) -> None:
    clock = Clock()
    with started(clock) as progress:
        clock.now += 10.0
        progress.print_result(result(50_000, 20.0))
        clock.now += 10.0
        progress.print_result(result(60_000, 40.0))
    page, text = shown[-1]
    assert texts(page) == [
        *(
            "\N{EN SPACE}60 %\N{EN SPACE}40s left  (20s so far)",
            "env steps",
            "60,000 of 100,000, 1,000 a second",
        ),
        *("updates", "600, 10 a second"),
        *("success", "agents 40 % ▂▄  adversary 60 % ▇▅  coverage 20 % ▂▂"),
        *("bottleneck", "learner: busy 80 %; a GPU, a smaller batch or fewer updates"),
        *("weights", "1.2 versions old, 4 at most", "workers", "2 of 2 healthy"),
        "training simple_adversary with 2 rollout workers on Ray; files go to runs/<x>",
    ]
    assert '<progress max="1" value="0.6000"' in page
    assert text.startswith("[ 60 %] 60,000 env steps  600 updates  1,000 env-steps/s")


def test_it_is_drawn_twice_a_second_at_most(shown: list[tuple[str, str]]) -> None:
    clock = Clock()
    progress = started(clock)
    with progress:
        before = len(shown)
        for _ in range(100):
            clock.now += 0.05
            progress.print_counts(int(1_000 * clock.now), 10)
        assert 9 <= len(shown) - before <= 10


def test_a_signal_handler_does_not_draw(shown: list[tuple[str, str]]) -> None:
    clock = Clock()
    with started(clock) as progress:
        progress.print_result(result(50_000, 20.0))
        before = len(shown)
        progress.set_phase("stopping")
        assert len(shown) == before
        progress.begin("saving the last checkpoint")
        assert "saving the last checkpoint" in texts(shown[-1][0])


def test_the_summary_takes_the_place_of_the_bar(shown: list[tuple[str, str]]) -> None:
    files = {"run_dir": "runs/x"}
    summary: dict[str, Any] = {
        **{"interrupted": True, "env_id": "simple_adversary", "env_steps": 50_000, "updates": 400},
        **{"env_steps_per_s": 500.0, "updates_per_s": 4.0, "training_s": 100.0},
        **{"device": "cpu", "device_reason": "auto: cpu", "files": files},
    }
    clock = Clock()
    progress = started(clock)
    with progress:
        progress.print_result(result(50_000, 20.0))
    progress.print_summary(summary)
    page, text = shown[-1]
    assert "<progress" not in page
    assert texts(page)[:2] == ["result", "interrupted"]
    assert texts(page)[-2:] == ["go on with", "run.resume()"]
    assert text.splitlines()[0] == "result: interrupted"
