import json
import os
import re

import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.errors import BadInput
from distributed_maddpg.report.page import moving_average, write_report

METRICS = """num_env_steps_sampled_lifetime,env_runners/agent_episode_returns_mean/red_0,\
learners/red_0/critic_loss,env_steps_per_s,updates_per_s
100,nan,0.5,20,2
200,-3.5,0.25,30,3
"""
RETURNS = """env_steps,updates,episodes,red_0,success_coverage
100,1,20,-3.0,10
200,11,20,-1.0,35
"""
SUMMARY = {
    "env_steps": 2000, "env_steps_per_s": 50.0, "updates": 11, "updates_per_s": 2.0,
    "weights_digest": "ab" * 32, "evaluation": {"success": {"coverage": 35.0}},
}  # fmt: skip


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "a <run>"
    folder.mkdir()
    (folder / "metrics.csv").write_text(METRICS)
    (folder / "returns.csv").write_text(RETURNS)
    return folder


def test_the_moving_average_is_over_the_last_values():
    assert moving_average([3.0, 5.0, 10.0, 0.0], 3) == [3.0, 4.0, 6.0, 5.0]
    assert moving_average([], 3) == []


def test_the_default_window_is_nine():
    assert moving_average([float(k) for k in range(20)])[-1] == 15.0


def test_the_page_holds_the_curves_and_needs_no_network(run_dir):
    path = write_report(run_dir)
    page = path.read_text()
    assert path == run_dir / "report.html"
    for title in ("Greedy return per episode", "Success in the last frame", "Critic loss"):
        assert title in page
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?:", page)
    assert page.count("<html") == 1


def test_a_single_number_is_visible(run_dir):
    (run_dir / "returns.csv").write_text("".join(RETURNS.splitlines(keepends=True)[:2]))
    page = write_report(run_dir).read_text()
    assert re.search(r'"mode":"markers","name":"red_0","x":\[100\.0\],"y":\[-3\.0\]', page)
    assert re.search(r'"mode":"markers","name":"red_0"[^}]*"y":\[null,-3\.5\]', page)
    assert re.search(r'"mode":"lines","name":"red_0"[^}]*"y":\[0\.5,0\.25\]', page)


def test_curves_carry_the_smoothed_and_the_raw_values(run_dir):
    page = write_report(run_dir).read_text()
    assert re.search(r'"name":"red_0","x":\[100\.0,200\.0\],"y":\[-3\.0,-2\.0\]', page)
    assert re.search(r'"name":"red_0, unsmoothed"[^}]*"y":\[-3\.0,-1\.0\]', page)
    assert re.search(r'"name":"coverage"[^}]*"y":\[10\.0,35\.0\]', page)


def test_measures_have_a_figure_each_that_says_what_they_are(run_dir):
    header, *rows = RETURNS.splitlines()
    lines = [f"{header},measure_covered,measure_own", *(f"{row},{k},0" for k, row in enumerate(rows))]
    (run_dir / "returns.csv").write_text("\n".join(lines) + "\n")
    (run_dir / "summary.json").write_text(json.dumps({**SUMMARY, "env_id": "simple_spread"}))
    page = write_report(run_dir).read_text()
    assert "Covered: landmarks with an agent within 0.1 at the end" in page
    assert "Own: a measure" in page
    assert re.search(r'"name":"covered"[^}]*"y":\[0\.0,1\.0\]', page)


def test_what_is_given_away_is_drawn_for_those_with_something_to_hide(run_dir):
    assert "How much actions tell" not in write_report(run_dir).read_text()
    header, *rows = METRICS.splitlines()
    table = [f"{header},learners/red_0/information,learners/blue_0/information"]
    table += [f"{row},{told}" for row, told in zip(rows, ("nan,nan", "0.125,0"), strict=True)]
    (run_dir / "metrics.csv").write_text("\n".join(table) + "\n")
    page = write_report(run_dir).read_text()
    assert "How much actions tell of the private part" in page
    assert re.search(r'"name":"red_0","x":\[100\.0,200\.0\],"y":\[null,0\.125\]', page)
    assert '"name":"blue_0"' not in page


def test_the_folders_name_is_escaped(run_dir):
    page = write_report(run_dir).read_text()
    assert "<h1>a &lt;run&gt;</h1>" in page


def test_the_summary_is_shown_where_there_is_one(run_dir):
    (run_dir / "summary.json").write_text(json.dumps(SUMMARY))
    page = write_report(run_dir).read_text()
    assert "2,000 (50/s)" in page
    assert "greedy success, coverage</th><td>35.0 %" in page


def test_a_run_without_evaluations_yet_has_a_page(run_dir):
    (run_dir / "returns.csv").unlink()
    page = write_report(run_dir).read_text()
    assert "Critic loss" in page
    assert "Greedy return" not in page


def test_a_page_is_replaced_and_leaves_no_draft(run_dir):
    (run_dir / "report.html").write_text("old")
    assert write_report(run_dir).read_text() != "old"
    assert sorted(path.name for path in run_dir.iterdir()) == ["metrics.csv", "report.html", "returns.csv"]


@pytest.mark.parametrize("text", ["", METRICS.splitlines()[0] + "\n"])
def test_a_run_without_metrics_is_refused(run_dir, text):
    (run_dir / "metrics.csv").write_text(text)
    with pytest.raises(BadInput, match="holds no metrics yet; train first"):
        write_report(run_dir)


def make_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "metrics.csv",
            "a,b\n1,2\n",
            "metrics.csv is not a run's table (it lacks the column env_steps_per_s)",
        ),
        ("metrics.csv", f"{METRICS}1,2,3,4,5,6\n", "metrics.csv is not a run's table (a row is longer"),
        ("metrics.csv", make_fifo, "holds no run (metrics.csv: not a regular file)"),
        ("returns.csv", make_fifo, "holds no run (returns.csv: not a regular file)"),
        ("returns.csv", "a,b\n1,2\n", "returns.csv is not a run's table (it lacks the column env_steps)"),
        ("returns.csv", f"{RETURNS}1,2,3,4,5,6\n", "returns.csv is not a run's table (a row is longer"),
        ("summary.json", "{", "summary.json cannot be used (JSONDecodeError: "),
        ("summary.json", "[]", "summary.json cannot be used (TypeError: "),
        ("summary.json", "{}", "summary.json cannot be used (KeyError: 'env_steps'); repair or delete it"),
        ("summary.json", b"\xff", "summary.json cannot be used (UnicodeDecodeError: "),
        ("episodes.gif", make_folder, "episodes.gif cannot be used (OSError: "),
        ("report.html", make_folder, "report.html cannot be written (Is a directory)"),
    ],
)
def test_a_damaged_file_is_named(run_dir, name, damage, message, capsys):
    path = run_dir / name
    if callable(damage):
        damage(path)
    else:
        path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert main(["report", str(run_dir)]) == 2
    assert capsys.readouterr().err.startswith(f"error: RUN_DIR = {str(run_dir)!r}: {message}")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"holds no run \(metrics.csv: No such file"):
        write_report(tmp_path)
