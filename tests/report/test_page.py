import json
import math
import os
import re

import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.errors import BadInput
from distributed_maddpg.report.page import page_of, report_data, report_html, write_report
from tests.support.pages import data_in

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


def chart_of(folder, title):
    data = report_data([folder])
    [chart] = [chart for chart in data["charts"] if chart["title"] == title]
    return [(own["name"], data["xs"][own["x"]], own["y"]) for own in chart["series"]]


def titles_of(folder):
    return [chart["title"] for chart in report_data([folder])["charts"]]


def test_curves_carry_the_tables_values(run_dir):
    assert chart_of(run_dir, "Return of greedy episodes") == [("red_0", [100, 200], [-3, -1])]
    assert chart_of(run_dir, "Return while training") == [("red_0", [100, 200], [None, -3.5])]
    assert chart_of(run_dir, "Critic loss") == [("red_0", [100, 200], [0.5, 0.25])]
    assert chart_of(run_dir, "All landmarks covered") == [("coverage", [100, 200], [10, 35])]


def test_the_page_names_no_address_and_allows_no_network(run_dir):
    page = write_report([run_dir]).read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?:", page)
    assert "default-src 'none'" in page and "connect-src 'none'" in page
    assert len(page) < 5e6


def test_measures_have_a_chart_each_that_says_what_they_are(run_dir):
    header, *rows = RETURNS.splitlines()
    lines = [f"{header},measure_covered,measure_own", *(f"{row},{k},0" for k, row in enumerate(rows))]
    (run_dir / "returns.csv").write_text("\n".join(lines) + "\n")
    (run_dir / "summary.json").write_text(json.dumps({**SUMMARY, "env_id": "simple_spread"}))
    notes = {chart["title"]: chart["note"] for chart in report_data([run_dir])["charts"]}
    assert notes["Covered"].startswith("Landmarks with an agent within 0.1 at the end; ")
    assert notes["Own"].startswith("A measure of the environment; ")
    assert chart_of(run_dir, "Covered") == [("covered", [100, 200], [0, 1])]


def test_what_is_given_away_is_drawn_for_those_with_something_to_hide(run_dir):
    assert "What actions give away" not in titles_of(run_dir)
    header, *rows = METRICS.splitlines()
    table = [f"{header},learners/red_0/information"]
    table += [f"{row},{told}" for row, told in zip(rows, ("nan", "0.125"), strict=True)]
    (run_dir / "metrics.csv").write_text("\n".join(table) + "\n")
    assert chart_of(run_dir, "What actions give away") == [("red_0", [100, 200], [None, 0.125])]


def test_long_tables_are_thinned_to_means_of_neighbours_with_their_ends_as_a_band(run_dir):
    rows = "".join(f"{100 * k},1,20,{k},50\n" for k in range(1, 1201))
    (run_dir / "returns.csv").write_text(RETURNS.splitlines()[0] + "\n" + rows)
    data = report_data([run_dir])
    [chart] = [chart for chart in data["charts"] if chart["title"] == "Return of greedy episodes"]
    [own] = chart["series"]
    assert data["xs"][own["x"]][:2] == [150, 350] and len(own["y"]) == 600
    assert (own["y"][0], own["low"][0], own["high"][0]) == (1.5, 1, 2)


def test_a_hostile_name_stays_text(tmp_path):
    folder = tmp_path / "<!--style--><script>alert(1)<"
    folder.mkdir()
    (folder / "metrics.csv").write_text(METRICS.replace("red_0", "</script><b>_0"))
    page = report_html([folder])
    assert "<script>alert" not in page and "</script><b>" not in page
    assert page.count("</script>") == 4  # the four of the template


def test_the_summary_is_in_the_data_and_as_plain_text(run_dir):
    (run_dir / "summary.json").write_text(json.dumps(SUMMARY))
    page = write_report([run_dir])
    [card] = data_in(page)["groups"]
    assert card["results"] == [
        {
            "label": "All landmarks covered",
            "value": "35.0",
            "unit": "%",
            "note": "",
            "role": "goal",
            "share": 0.35,
        }
    ]
    facts = {fact["label"]: fact["value"] for fact in card["facts"]}
    assert (facts["Updates"], facts["Env steps/s"], facts["Weights digest"]) == ("11", "50.0", "abababab")
    assert "<th>All landmarks covered</th><td>35.0 %" in page.read_text()


def test_a_run_without_a_summary_is_described_from_its_tables(run_dir):
    [card] = report_data([run_dir])["groups"]
    assert (card["state"], card["results"][0]["value"]) == ("gone", "35.0")
    assert card["results_of"].startswith("Newest evaluation during training, at 200 env steps: 20 ")


def test_a_summary_of_before_the_run_was_resumed_is_not_shown(run_dir):
    (run_dir / "summary.json").write_text(json.dumps({**SUMMARY, "env_steps": 150}))
    [card] = report_data([run_dir])["groups"]
    assert card["state"] == "gone" and "Weights digest" not in {fact["label"] for fact in card["facts"]}


def test_an_interrupted_run_is_described_as_it_stands_and_not_as_at_its_newest_report(run_dir):
    header, *rows = METRICS.splitlines()
    table = [f"{header},time_total_s", *(f"{row},{10 * k}" for k, row in enumerate(rows, 1))]
    (run_dir / "metrics.csv").write_text("\n".join(table) + "\n")
    stopped = {**SUMMARY, "env_steps": 250, "training_s": 24.5, "finished": False}
    (run_dir / "summary.json").write_text(json.dumps(stopped))
    [card] = report_data([run_dir])["groups"]
    facts = {fact["label"]: fact["value"] for fact in card["facts"]}
    assert (facts["Env steps"], facts["Training time"]) == ("250", "24.5s")
    assert card["ending"] == (
        f"Stopped after 250 of 250 env steps. Go on: distributed-maddpg train --resume {run_dir}"
    )


def test_time_and_rates_of_a_resumed_run_are_those_of_all_its_parts(run_dir):
    header, *rows = METRICS.splitlines()
    table = [f"{header},time_total_s,time_this_iter_s"]
    table += [f"{row},{10 * k},10" for k, row in enumerate(rows, 1)]
    (run_dir / "metrics.csv").write_text("\n".join(table) + "\n")
    (run_dir / "summary.json").write_text(json.dumps({**SUMMARY, "training_s": 10.0}))
    (run_dir / "starts.jsonl").write_text('{"time": 0, "env_steps": 0}\n{"time": 50, "env_steps": 100}\n')
    [card] = report_data([run_dir])["groups"]
    facts = {fact["label"]: fact["value"] for fact in card["facts"]}
    assert (facts["Training time"], facts["Env steps/s"], facts["Updates/s"]) == ("20s", "25.0", "2.5")


def test_a_run_without_evaluations_yet_has_a_page(run_dir):
    (run_dir / "returns.csv").unlink()
    assert "Critic loss" in titles_of(run_dir) and "Return of greedy episodes" not in titles_of(run_dir)
    assert report_data([run_dir])["groups"][0]["results_of"] == "No evaluation yet."


def test_losses_are_marked_at_the_env_steps_of_their_time(run_dir):
    header, *rows = METRICS.splitlines()
    table = [f"{header},time_total_s", *(f"{row},{10 * (k + 1)}" for k, row in enumerate(rows))]
    (run_dir / "metrics.csv").write_text("\n".join(table) + "\n")
    starts = [{"time": 1000.0, "env_steps": 0}, {"time": 5000.0, "env_steps": 100}]
    (run_dir / "starts.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))
    event = {"process": "rollout worker 1", "kind": "lost", "message": "it died", "seconds": 0.0}
    lines = [json.dumps({**event, "time": time}) for time in (1005.0, 5005.0, 6000.0)]
    (run_dir / "events.jsonl").write_text("\n".join([*lines, '{"cut']))
    events = report_data([run_dir])["events"]
    assert [(own["kind"], own["x"]) for own in events] == [
        *(("lost", 50.0), ("resumed", 100), ("lost", 150.0), ("lost", 200.0)),
    ]
    assert events[0]["text"] == "it died"


def test_a_page_is_replaced_and_leaves_no_draft(run_dir):
    (run_dir / "report.html").write_text("old")
    assert write_report([run_dir]).read_text() != "old"
    assert sorted(path.name for path in run_dir.iterdir()) == ["metrics.csv", "report.html", "returns.csv"]


def test_runs_of_the_same_name_are_told_apart_by_their_parents(tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent / "run").mkdir(parents=True)
        (tmp_path / parent / "run" / "metrics.csv").write_text(METRICS)
    data = report_data([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert [group["name"] for group in data["groups"]] == ["a/run", "b/run"]
    assert page_of(data, "data.json").count("connect-src 'self'") == 1


@pytest.mark.parametrize("text", ["", METRICS.splitlines()[0] + "\n"])
def test_a_run_without_metrics_is_refused(run_dir, text):
    (run_dir / "returns.csv").unlink()
    (run_dir / "metrics.csv").write_text(text)
    with pytest.raises(BadInput, match="holds no metrics yet; train first"):
        write_report([run_dir])


def summary_with(**values):
    return json.dumps({**SUMMARY, **values})


def evaluation_with(key, value):
    return summary_with(evaluation={key: {"a": value}})


def make_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def make_fifo(path):
    path.unlink(missing_ok=True)
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
        ("summary.json", summary_with(updates=math.inf), "summary.json cannot be used (OverflowError: "),
        (
            "summary.json",
            summary_with(updates=10**400),
            "summary.json cannot be used (ValueError: updates is",
        ),
        ("summary.json", summary_with(measures="x"), "summary.json cannot be used (ValueError: "),
        ("summary.json", evaluation_with("success", math.nan), "summary.json cannot be used (ValueError: a "),
        ("summary.json", evaluation_with("success", "x"), "summary.json cannot be used (ValueError: "),
        ("summary.json", evaluation_with("measures", None), "summary.json cannot be used (TypeError: "),
        ("summary.json", evaluation_with("ci95", {"a": 3}), "summary.json cannot be used (TypeError: "),
        ("summary.json", evaluation_with("ci95", {"a": [3]}), "summary.json cannot be used (IndexError: "),
        ("config.toml", "[brand_new]\n", "its config.toml cannot be used (brand_new = {}: no such setting;"),
        ("events.jsonl", make_fifo, "events.jsonl cannot be used (OSError: "),
        ("report.html", make_folder, "the page cannot be written (Is a directory)"),
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


def test_numbers_that_cannot_be_drawn_are_left_out(run_dir):
    rows = ["inf,21,20,-2.0,10", "1e400,21,20,-2.0,10", "x,21,20,-2.0,10", "300,21,nan,-9.0,inf", ""]
    (run_dir / "returns.csv").write_text(RETURNS + "\n".join(rows))
    text = METRICS.replace("per_s\n", "per_s,time_total_s\n", 1).replace("20,2\n", "20,2,inf\n")
    (run_dir / "metrics.csv").write_text(text)
    data = json.loads(json.dumps(report_data([run_dir]), allow_nan=False))
    assert data["groups"][0]["results"] == []
    assert chart_of(run_dir, "Return of greedy episodes") == [("red_0", [100, 200, 300], [-3.0, -1.0, -9.0])]
    assert chart_of(run_dir, "All landmarks covered") == [("coverage", [100, 200, 300], [10, 35, None])]


def test_lines_of_events_that_are_none_are_left_out(run_dir):
    known = {"process": "worker", "kind": "lost", "message": "\ud800 ended"}
    lines = [json.dumps({"time": time, **known}) for time in (5, 10**400, "x", None)]
    (run_dir / "events.jsonl").write_text("\n".join(["garbage", *lines, "[" * 100_000, '{"time"']))
    starts = [{"time": 1, "env_steps": own} for own in (0, "x", None, 10**400)]
    (run_dir / "starts.jsonl").write_text("\n".join(map(json.dumps, starts)))
    [event] = report_data([run_dir])["events"]
    assert (event["time"], event["x"]) == (5, 0)
    assert "? ended" in report_html([run_dir])


def test_a_folder_whose_name_is_no_text_has_a_page(run_dir):
    path = run_dir.rename(run_dir.parent / os.fsdecode(b"\xff"))
    assert "<title>?" in write_report([path]).read_text()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"holds no run \(metrics.csv: No such file"):
        write_report([tmp_path])


def test_runs_with_other_numbers_of_agents_are_compared_by_their_teams(run_dir, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    header, *rows = RETURNS.splitlines()
    lines = [f"{header},red_1,blue_0", *(f"{row},{k},7" for k, row in enumerate(rows))]
    (other / "returns.csv").write_text("\n".join(lines) + "\n")
    header, *rows = METRICS.splitlines()
    agents = ("red_1", "blue_0")
    lines = [",".join([header, *(f"env_runners/agent_episode_returns_mean/{name}" for name in agents)])]
    (other / "metrics.csv").write_text("\n".join([*lines, *(f"{row},1,1" for row in rows)]) + "\n")
    charts = {chart["title"]: chart["series"] for chart in report_data([run_dir, other])["charts"]}
    red = {own["group"]: own["y"] for own in charts["Return of greedy episodes: red"]}
    assert red == {0: [-3, -1], 1: [-1.5, 0]}  # of the other, the mean of its two
    assert [own["group"] for own in charts["Return of greedy episodes: blue"]] == [1]
