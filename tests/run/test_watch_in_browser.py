"""The page that `watch` serves, in a real browser: it waits, follows a run in place, and knows its end."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from distributed_maddpg.run.folder import RunFolder
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import train_run
from tests.run.test_watch import Clock, cut_metrics, serving
from tests.support.browser import open_browser
from tests.support.serial_runs import tiny


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """Return a page whose console must stay empty."""
    problems: list[str] = []
    with (
        open_browser() as browser,
        closing(browser.new_context(viewport={"width": 900, "height": 600})) as own,
    ):
        page = own.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield page
    assert not problems


def test_it_waits_then_follows_a_run_in_place_until_its_end(page: Any, tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    train_run(tiny(), trained, Progress(io.StringIO()))
    run_dir, clock = tmp_path / "run", Clock()
    answers: list[int] = []
    page.on("response", lambda answer: answers.append(answer.status) if "data.json" in answer.url else None)
    with serving(run_dir, clock=clock) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        assert page.inner_text("[role=status]").startswith("waiting for the run to start: ")

        for name in ("config.toml", "metrics.csv"):
            run_dir.mkdir(exist_ok=True)
            shutil.copy(trained / name, run_dir)
        whole = cut_metrics(run_dir, 1)
        with closing(RunFolder(run_dir)):
            clock.now += 10.0
            page.wait_for_selector(".sub:has-text('80 of 240 env steps')")
            assert page.inner_text("#live") == "live"
            page.evaluate("window.isTheSamePage = true")
            (run_dir / "metrics.csv").write_text("".join(whole.splitlines(keepends=True)[:3]))
            clock.now += 10.0
            page.wait_for_selector(".sub:has-text('160 of 240 env steps')")
            assert page.inner_text("#live") == "live"
        shutil.rmtree(run_dir)
        shutil.copytree(trained, run_dir)
        clock.now += 10.0
        page.wait_for_selector("#live[data-state='ended']")
        assert page.evaluate("window.isTheSamePage")
        assert set(answers) <= {200, 304}
