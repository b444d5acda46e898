import os

import pytest

from distributed_maddpg.threads import ThreadTuner, available_cores


def group(root, path, name, text):
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Write control groups; return the cores available on a machine of 8."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def cores(own, *groups):
        (tmp_path / "own").write_text(own)
        for path, name, text in groups:
            group(tmp_path / "cgroup", path, name, text)
        return available_cores(tmp_path / "cgroup", tmp_path / "own")

    return cores


@pytest.mark.parametrize(
    ("own", "groups", "expected"),
    [
        ("0::/\n", [], 8),
        ("0::/\n", [(".", "cpu.max", "max 100000\n")], 8),
        ("0::/\n", [(".", "cpu.max", "250000 100000\n")], 3),
        ("0::/a/b\n", [("a/b", "cpu.max", "max 100000\n"), ("a", "cpu.max", "200000 100000\n")], 2),
        ("0::/of/the/host\n", [(".", "cpu.max", "50000 100000\n")], 1),
        (
            "5:memory:/x\n4:cpu,cpuacct:/x\n",
            [("cpu/x", "cpu.cfs_quota_us", "400000"), ("cpu/x", "cpu.cfs_period_us", "100000")],
            4,
        ),
        (
            "4:cpu,cpuacct:/x\n",
            [("cpu/x", "cpu.cfs_quota_us", "-1"), ("cpu/x", "cpu.cfs_period_us", "100000")],
            8,
        ),
        ("0::/\n", [(".", "cpu.max", "3200000 100000\n")], 8),
    ],
    ids=[
        "none",
        "no_limit",
        "rounded_up",
        "of_a_parent",
        "in_a_container",
        "version_1",
        "unlimited_1",
        "large",
    ],
)
def test_a_quota_limits_the_cores(own, groups, expected, system):
    assert system(own, *groups) == expected


def test_without_control_groups_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5}, raising=False)
    assert available_cores(tmp_path, tmp_path / "missing") == 2


def learn(tuner, rates, seconds=1.0):
    """Let updates take as long as `rates`, by threads, say; return the numbers of threads used."""
    used, passed = [], 0.0
    while passed < seconds:
        used.append(tuner.threads)
        passed += 10 / rates[tuner.threads]
        tuner.add(10, 10 / rates[tuner.threads])
    return used


@pytest.mark.parametrize(
    ("most", "rates", "chosen"),
    [
        (1, {1: 100}, 1),
        (2, {1: 100, 2: 180}, 2),
        (2, {1: 100, 2: 60}, 1),
        (2, {1: 100, 2: 101}, 1),  # not worth a core
        (6, {1: 100, 2: 190, 4: 300, 6: 350}, 6),
        (16, {1: 100, 2: 190, 4: 200, 8: 190, 16: 50}, 4),
        (16, {1: 100, 2: 190, 4: 191, 8: 900, 16: 1000}, 2),
    ],
)
def test_as_many_threads_are_used_as_make_it_faster(most, rates, chosen):
    tuner = ThreadTuner(most)
    tuner.add(10, 60.0)  # compiles
    learn(tuner, rates, 5.0)
    assert set(learn(tuner, rates)) == {chosen}


def test_the_number_is_found_again_when_the_machine_changes():
    tuner = ThreadTuner(4)
    tuner.add(10, 60.0)
    alone, beside_others = {1: 100, 2: 190, 4: 350}, {1: 100, 2: 90, 4: 20}
    learn(tuner, alone, 5.0)
    assert set(learn(tuner, alone)) == {4}
    learn(tuner, beside_others, 50.0)  # less by a half each time
    assert set(learn(tuner, beside_others)) == {1}
    learn(tuner, alone, 30.0)
    assert set(learn(tuner, alone)) == {4}


def test_trials_take_a_small_share_of_the_time():
    tuner, rates = ThreadTuner(16), {1: 100, 2: 190, 4: 350, 8: 600, 16: 500}
    tuner.add(10, 60.0)
    used = learn(tuner, rates, 200.0)
    assert used.count(8) > 0.95 * len(used)
