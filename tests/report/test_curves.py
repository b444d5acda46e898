import numpy as np
import pytest

from distributed_maddpg.errors import BadInput
from distributed_maddpg.report.curves import over_seeds, read_curves, write_curves
from distributed_maddpg.report.page import report_data, write_report

HEAD = "env_steps,updates,episodes,adversary_0,agent_0,success_agents\n"


def run(shift, steps=(100.0, 200.0, 300.0)):
    return {"env_steps": list(steps), "agent_0": [shift + step / 100 for step in steps], "updates": [0.0] * 3}


def test_the_curve_over_seeds_is_their_mean_within_least_and_most():
    x, mean, least, most = over_seeds([run(0), run(3)], "agent_0")
    assert x.tolist() == [100, 200, 300]
    assert (mean.tolist(), least.tolist(), most.tolist()) == ([2.5, 3.5, 4.5], [1, 2, 3], [4, 5, 6])


def test_runs_evaluated_at_other_steps_are_interpolated_as_far_as_all_go():
    x, mean, *_ = over_seeds([run(0), run(0, (100.0, 150.0, 250.0))], "agent_0")
    assert x.tolist() == [100, 200]
    assert mean == pytest.approx([1.0, 2.0])


def write(folder, rows):
    folder.mkdir(parents=True)
    (folder / "returns.csv").write_text(HEAD + "".join(",".join(map(str, row)) + "\n" for row in rows))


def test_a_folder_of_seeds_gets_a_page_with_their_bands(tmp_path):
    for seed in range(2):
        write(tmp_path / f"seed_{seed}", [(100, 1, 5, -10 - seed, 1, 50), (200, 2, 5, -11, 2, 60 + seed)])
    [returns] = [
        own for own in report_data([tmp_path])["charts"] if own["name"] == "Return of greedy episodes"
    ]
    adversary = next(own for own in returns["series"] if own["name"] == "adversary_0")
    assert (adversary["y"], adversary["low"], adversary["high"]) == ([-10.5, -11], [-11, -11], [-10, -11])
    assert write_report([tmp_path]) == tmp_path / "report.html"
    assert read_curves(tmp_path / "seed_1")["success_agents"] == [50.0, 61.0]


def test_seeds_without_an_evaluation_have_no_page_yet(tmp_path):
    write(tmp_path / "seed_0", [])
    with pytest.raises(BadInput, match="holds no metrics yet; train first"):
        write_report([tmp_path])


def test_groups_stand_in_one_figure_with_their_names(tmp_path):
    write_curves(tmp_path / "c.html", "title", {"maddpg": [run(0)], "ddpg": [run(1), run(2)]})
    text = (tmp_path / "c.html").read_text()
    assert "maddpg 1, ddpg 2" in text
    assert '"name":"maddpg"' in text and '"name":"ddpg"' in text


def test_a_folder_without_curves_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no run"):
        read_curves(tmp_path)


def test_a_single_evaluation_is_a_point():
    one = {"env_steps": [10.0], "agent_0": [3.0]}
    assert [part.tolist() for part in over_seeds([one], "agent_0")] == [[10.0], [3.0], [3.0], [3.0]]
    assert np.isfinite(over_seeds([one, one], "agent_0")[1]).all()
