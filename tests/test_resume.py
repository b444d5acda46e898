"""A run that is saved and resumed in another object equals an uninterrupted run."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest

from distributed_maddpg import MADDPG
from distributed_maddpg.checkpoint.folder import load_checkpoint
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.envs.mpe.simple_push import SimplePush
from distributed_maddpg.errors import BadInput, CheckpointError, TrainingError
from distributed_maddpg.metrics import digest, flatten
from distributed_maddpg.trainer import train_together
from distributed_maddpg.types import RunState
from tests.support.target import target_config

SMALL = {
    "num_workers": 0,
    "env": {"kwargs": {"N": 2, "max_cycles": 7, "continuous_actions": True}},
    "rollout": {"num_envs": 4, "fragment_steps": 8},
    "algorithm": {"policy_hidden_sizes": [8], "critic_hidden_sizes": [8]},
    "learner": {"batch_size": 16, "device": "cpu"},
    "replay": {"capacity": 700},
    "pacing": {
        "total_env_steps": 2048,
        "learning_starts": 128,
        "env_steps_per_update": 16,
        "publish_interval_updates": 3,
        "report_interval_env_steps": 512,
        "evaluation_interval_env_steps": 384,
        "checkpoint_interval_env_steps": 0,
    },
    "evaluation": {"episodes": 2, "final_episodes": 2},
}


def small(**changes):
    return MADDPGConfig.from_dict(changes, MADDPGConfig.from_dict(SMALL))


def on_target(**changes):
    sections = {name: SMALL[name] for name in ("rollout", "learner", "replay", "pacing", "evaluation")}
    return MADDPGConfig.from_dict(changes, target_config(**sections))


CONFIGS = {
    "continuous": small(),
    "discrete": small(env={"kwargs": {"continuous_actions": False}}),
    "ou": small(exploration={"kind": "ou", "start": 0.3}, algorithm={"policy_head": "sigmoid"}),
    "ddpg for one team": small(algorithm={"team_overrides": {"agent": "ddpg"}, "information_weight": 1.0}),
    "the default recipe": small(
        algorithm={"policy_head": "gumbel", "share_policies": True, "n_step": 3, "lr_end": 0.1},
        exploration={"episode_offset": 1.0},
    ),
    "matd3": small(
        algorithm={
            "name": "matd3",
            "team_overrides": {"adversary": "maddpg"},
            "information_weight": 1.0,
            "share_critics": True,
        }
    ),
    "an environment of PettingZoo": on_target(),
    "agents that come and go": on_target(
        env={"id": "tests.support.coming:parallel_env", "kwargs": {"masks": "info", "truncated": [1]}},
        algorithm={"policy_head": "auto", "n_step": 3},
        exploration={"kind": "auto"},
    ),
    "agents that take turns": on_target(
        env={"id": "tests.support.coming:turns", "kwargs": {}},
        algorithm={"policy_head": "auto"},
        exploration={"kind": "auto"},
    ),
    "normalised": small(
        env={"id": "tests.support.wild:parallel_env", "kwargs": {"max_cycles": 7}, "normalise": True},
        algorithm={"n_step": 3, "share_policies": True},
    ),
    "normalised and compiled": small(env={"normalise": True}),
    "measures in infos": small(
        env={
            "id": "tests.support.scored:parallel_env",
            "kwargs": {"max_cycles": 7, "episode_from_seed": True},
            "measures": ["other"],
        }
    ),
}


def without_times(row):
    """Return a flat result as written to metrics.csv, without the values that depend on the clock."""
    row = {key: value for key, value in row.items() if key != "evaluation" and not key.startswith("time")}
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in flatten(row).items()
        if not key.endswith("_per_s")
    }


def train_on(algo, until=10**9):
    """Train whole iterations; return their rows and evaluations."""
    rows, evaluations = [], []
    while not algo.finished and algo.env_steps < until:
        rows.append(without_times(algo.train()))
        evaluations += algo.evaluations
    return rows, evaluations


def state_digest(algo):
    """Return the digest of everything in a checkpoint except times, and the names of its arrays."""
    captured = algo.capture()
    times = ("time_total_s", "rollout_s", "learner_s")
    names = sorted(name for name in captured.state if not name.endswith(times))
    rows = list(captured.replay.chunks)
    return digest(*(captured.state[name] for name in names), *rows), names


@functools.cache
def whole(name):
    """Return the rows, evaluations, weights digest and state digest of an uninterrupted run."""
    with MADDPG(CONFIGS[name]) as algo:
        return (*train_on(algo), algo.weights_digest(), state_digest(algo))


def outcome(first, algo):
    """Finish the second part of a run; return what `whole` returns, of both parts."""
    rows, evaluations = train_on(algo)
    return (first[0] + rows, first[1] + evaluations, algo.weights_digest(), state_digest(algo))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_resumed_run_equals_an_uninterrupted_one(name, tmp_path):
    with MADDPG(CONFIGS[name]) as algo:
        first = train_on(algo, 1024)
        assert algo.env_steps == 1024
        path = algo.save(tmp_path / "half")
        digest_at_half = algo.weights_digest()
    with MADDPG.from_checkpoint(path, env_id=CONFIGS[name].env.id) as algo:
        algo.start()
        assert algo.weights_digest() == digest_at_half != whole(name)[2]
        assert outcome(first, algo) == whole(name)
    assert [row["training_iteration"] for row in whole(name)[0]] == [1, 2, 3, 4]
    assert [each["num_env_steps"] for each in whole(name)[1]] == [384, 768, 1152, 1536, 1920]


@pytest.mark.parametrize("name", ["ou", "an environment of PettingZoo"])
@pytest.mark.parametrize("rounds", [1, 13, 21])
def test_an_iteration_interrupted_by_a_checkpoint_gives_the_same_row(name, rounds, tmp_path):
    with MADDPG(CONFIGS[name]) as algo:
        first, steps = train_on(algo, 32 * rounds - 511), 32 * rounds
        stop_at(algo, steps)
        cut = algo.train()
        assert (algo.env_steps, algo.iteration_complete) == (steps, False)
        assert cut["num_env_steps_sampled_lifetime"] == steps
        first = first[0], first[1] + algo.evaluations
        path = algo.save(tmp_path / "cut")
    with MADDPG.from_checkpoint(path, env_id=CONFIGS[name].env.id) as algo:
        assert outcome(first, algo) == whole(name)
        assert algo.iteration_complete


def stop_at(algo, env_steps):
    """Request a stop of a run when it has made `env_steps` steps."""
    algo.start()
    pacer, done = algo._runner.pacer, algo._runner.pacer.collection_done

    def counting(steps):
        done(steps)
        if pacer.env_steps >= env_steps:
            algo.request_stop()

    pacer.collection_done = counting


def test_runs_trained_together_resume_alone_or_together(tmp_path):
    config = small(seed=3)
    runs = MADDPG.for_seeds(config, 2)
    with runs[0]:
        for _ in range(2):
            train_together(runs)
        saved = [dataclasses.replace(run.capture(), replay=None) for run in runs]
        rings = [run._runner.capture(index, True) for index, run in enumerate(runs)]
        rows = [[], []]
        while not runs[0].finished:
            for own, result in zip(rows, train_together(runs), strict=True):
                own.append(without_times(result))
        ends = [run.weights_digest() for run in runs]
    again = MADDPG.for_seeds(config, 2)
    with again[0]:
        again[0].start()
        for index, state in reversed(list(enumerate(rings))):
            assert isinstance(state, RunState)
            again[0]._runner.restore(index, state)
        while not again[0].finished:
            train_together(again)
        assert [run.weights_digest() for run in again] == ends
    assert len(set(ends)) == 2
    alone = MADDPG(dataclasses.replace(config, seed=4))
    with alone:
        first = train_on(alone, 1024)
        path = alone.save(tmp_path / "half")
    assert {
        name: array.tobytes() for name, array in load_checkpoint(path).state.items() if "/env/" in name
    } == {name: array.tobytes() for name, array in saved[1].state.items() if "/env/" in name}
    with MADDPG.from_checkpoint(path) as algo:
        assert (train_on(algo)[0], algo.weights_digest()) == (rows[1], ends[1])
    assert len(first[0]) == 2


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Return the paths of two checkpoints at 1 024 of 2 048 steps, with and without transitions."""
    folder = tmp_path_factory.mktemp("resume")
    with MADDPG(CONFIGS["continuous"]) as algo:
        train_on(algo, 1024)
        return algo.save(folder / "with"), algo.save(folder / "without", replay=False)


def resume_to_end(path, **changes):
    """Train to the end with other settings; return (algorithm, rows, (restored state, transitions))."""
    with MADDPG.from_checkpoint(path, small(**changes)) as algo:
        algo.start()
        restored = algo._runner.capture(0, False).stages, algo._runner._runs[0].replay.size
        rows, _ = train_on(algo)
        return algo, rows, restored


UPDATES = 1 + (2048 - 128) // 16


@pytest.mark.parametrize("num_envs", [2, 6])
def test_with_another_number_of_copies_new_episodes_start(half, num_envs):
    algo, rows, (state, stored) = resume_to_end(half[0], rollout={"num_envs": num_envs})
    assert state["worker_0/env/cycle"].tolist() == [0] * num_envs
    assert state["worker_0/vector_steps"] == 0
    assert stored == 700
    assert algo.env_steps >= 2048
    assert rows[-1]["num_updates_lifetime"] == 1 + (algo.env_steps - 128) // 16
    before = load_checkpoint(half[0]).state["log/totals"][0]
    assert rows[-1]["env_runners/num_episodes_lifetime"] > before


def test_with_the_same_number_of_copies_the_episodes_continue(half):
    state = resume_to_end(half[0])[2][0]
    saved = load_checkpoint(half[0]).state
    assert saved["worker_0/env/cycle"].tolist() == [256 % 7] * 4
    saved = {name: array for name, array in saved.items() if not name.startswith("algorithm/")}
    assert state.keys() == saved.keys()
    assert all(np.array_equal(state[name], saved[name]) for name in saved)


@pytest.mark.parametrize(("capacity", "stored", "cursor"), [(300, 300, 0), (701, 700, 700), (2000, 700, 700)])
def test_with_another_capacity_the_newest_transitions_are_kept(half, capacity, stored, cursor):
    _, rows, restored = resume_to_end(half[0], replay={"capacity": capacity})
    assert restored[1] == stored
    assert rows[-1]["num_updates_lifetime"] == UPDATES
    assert rows[-1]["replay_buffer/num_env_steps_stored"] == min(stored + 1024, capacity)
    kept = np.concatenate(list(load_checkpoint(half[0]).replay.chunks))[-stored:]
    with MADDPG.from_checkpoint(half[0], small(replay={"capacity": capacity})) as algo:
        algo.start()
        ring = algo._runner._runs[0].replay.ring
        assert np.array_equal(ring.read_from(0)[0], kept)
        assert ring.inserted % capacity == cursor


def test_without_transitions_the_buffer_is_filled_before_learning_resumes(half):
    with MADDPG.from_checkpoint(half[1]) as algo:
        algo.start()
        runner = algo._runner
        made = runner.pacer.updates
        assert runner._runs[0].replay.size == 0
        seen = []
        runner.run(lambda: seen.append((runner.pacer.env_steps, runner.pacer.updates)) or len(seen) > 5)
        assert [updates == made for _, updates in seen] == [True] * 4 + [
            False
        ] * 2  # four rounds collect 128 steps
        assert [updates for env_steps, updates in seen[4:]] == [1 + (n - 128) // 16 for n, _ in seen[4:]]
        rows, _ = train_on(algo)
    assert rows[-1]["num_updates_lifetime"] == UPDATES
    assert rows[-1]["replay_buffer/num_env_steps_stored"] == 700


def test_an_interrupted_warmup_continues(half, tmp_path):
    ends = []
    for cut in (False, True):
        with MADDPG.from_checkpoint(half[1]) as algo:
            if cut:
                stop_at(algo, 1024 + 64)
                algo.train()
                path = algo.save(tmp_path / "cut")
                algo = MADDPG.from_checkpoint(path)
            with algo:
                rows, _ = train_on(algo)
                ends.append((algo.weights_digest(), rows))
    assert ends[0] == ends[1]


def test_a_finished_run_continues_with_more_total_steps(tmp_path):
    short, long = (small(pacing={"total_env_steps": steps}) for steps in (1024, 2048))
    with MADDPG(short) as algo:
        first, _ = train_on(algo)
        path = algo.save(tmp_path / "end")
    with MADDPG.from_checkpoint(path) as algo:
        algo.start()
        assert algo.finished
    with MADDPG.from_checkpoint(path, long) as algo:
        algo.start()
        assert not algo.finished
        rows, _ = train_on(algo)
        assert first + rows == whole("continuous")[0]
        assert algo.weights_digest() == whole("continuous")[2]


# All arrays of a checkpoint


def captured(name):
    config = dataclasses.replace(
        CONFIGS[name], pacing=dataclasses.replace(CONFIGS[name].pacing, total_env_steps=200)
    )
    with MADDPG(config) as algo:
        train_on(algo)
        return algo.capture()


@pytest.fixture(scope="module")
def checkpoints():
    """Return checkpoints and their transitions as a list, which can be read more than once."""
    made = {name: captured(name) for name in ("ou", "an environment of PettingZoo")}
    return {name: (each, list(each.replay.chunks)) for name, each in made.items()}


def restart(checkpoint, rows, state):
    """Start a run from a checkpoint with another state or other transitions."""
    replay = dataclasses.replace(checkpoint.replay, chunks=iter(rows))
    with MADDPG.from_loaded_checkpoint(dataclasses.replace(checkpoint, state=state, replay=replay)) as algo:
        algo.start()
        return algo


def changes_of(array):
    """Yield changed versions of an array that a checkpoint must not contain."""
    yield (
        "longer",
        np.concatenate([array, array]) if array.ndim and array.size else np.zeros((2, 3, 4), array.dtype),
    )
    yield "one axis more", array[None]
    yield "other type", array.astype(np.float32 if array.dtype == np.float64 else np.float64)
    if array.dtype.kind == "i" and array.size:
        yield "negative", np.full_like(array, -1)
    if array.dtype.kind == "u" and array.size:
        yield "impossible", np.full_like(array, 254)
    if array.dtype.kind == "f" and array.size:
        yield "not finite", np.full_like(array, np.nan)


MAY_BE_NOT_FINITE = ("log/", "worker_0/episodes/returns", "worker_0/obs")
"""Values that are only displayed, or that a worker checks before it acts."""


@pytest.mark.parametrize("name", ["ou", "an environment of PettingZoo"])
def test_a_checkpoint_with_a_missing_or_wrong_array_is_refused(name, checkpoints):
    checkpoint, rows = checkpoints[name]
    restart(checkpoint, rows, checkpoint.state)
    wrong = []
    for array, values in checkpoint.state.items():
        cases = [("missing", {key: value for key, value in checkpoint.state.items() if key != array})]
        cases += [(kind, {**checkpoint.state, array: changed}) for kind, changed in changes_of(values)]
        for kind, state in cases:
            if kind == "not finite" and array.startswith(MAY_BE_NOT_FINITE):
                continue
            try:
                restart(checkpoint, rows, state)
                wrong.append((array, kind, "was accepted"))
            except CheckpointError as error:
                if not str(error).isprintable():
                    wrong.append((array, kind, str(error)))
            except Exception as error:  # noqa: BLE001 - any other error is a failure
                wrong.append((array, kind, repr(error)))
    assert wrong == []
    assert len(checkpoint.state) > 40


def test_a_run_resumes_if_the_checkpoint_lacks_the_worker(checkpoints):
    checkpoint, rows = checkpoints["ou"]
    state = {name: array for name, array in checkpoint.state.items() if not name.startswith("worker_")}
    algo = restart(checkpoint, rows, state)
    assert algo.env_steps == checkpoint.env_steps


def test_training_after_a_failed_start_raises(checkpoints):
    checkpoint, rows = checkpoints["ou"]
    state = {name: array for name, array in checkpoint.state.items() if name != "pacing/counts"}
    replay = dataclasses.replace(checkpoint.replay, chunks=iter(rows))
    algo = MADDPG.from_loaded_checkpoint(dataclasses.replace(checkpoint, state=state, replay=replay))
    with pytest.raises(CheckpointError, match="lacks pacing/counts"):
        algo.start()
    with pytest.raises(TrainingError, match="was stopped"):
        algo.train()


@pytest.mark.parametrize("count", ["env_steps", "updates"])
def test_counts_that_disagree_are_refused(checkpoints, count):
    checkpoint, rows = checkpoints["ou"]
    other = dataclasses.replace(checkpoint, **{count: getattr(checkpoint, count) + 1})
    with pytest.raises(CheckpointError, match="counts disagree"):
        restart(other, rows, checkpoint.state)


def test_transitions_of_another_width_are_refused(checkpoints):
    checkpoint, rows = checkpoints["ou"]
    with pytest.raises(CheckpointError, match=r"stored rows have shape .* expected"):
        restart(checkpoint, [chunk[:, 1:] for chunk in rows], checkpoint.state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "matd3"},
            r"algorithm\.name = 'matd3': with matd3, .* of the checkpoint: maddpg, maddpg, maddpg",
        ),
        (
            {"team_overrides": {"agent": "matd3"}},
            r"algorithm\.team_overrides = {'agent': 'matd3'}: with matd3, .* maddpg, maddpg, maddpg",
        ),
        (
            {"name": "ddpg", "team_overrides": {"agent": "matd3"}},
            r"algorithm\.team_overrides = {'agent': 'matd3'}: with matd3, .* maddpg, maddpg, maddpg",
        ),
        (
            {"policy_delay": 2},
            r"algorithm\.policy_delay = 2: the checkpoint was trained with a policy update in every update",
        ),
        ({"gamma": 0.5}, r"algorithm\.gamma = 0\.5: its transitions are stored with 0\.95"),
    ],
)
def test_settings_that_a_checkpoint_cannot_resume_with_are_refused_before_the_start(
    tmp_path, changes, message
):
    with MADDPG(small()) as algo:
        algo.train()
        path = algo.save(tmp_path / "saved")
    with pytest.raises(BadInput, match=message):
        MADDPG.from_checkpoint(path, small(algorithm=changes))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_information_regularisation_stays_on_or_off_in_a_run(tmp_path, weight):
    with MADDPG(small(algorithm={"information_weight": weight})) as algo:
        algo.train()
        path = algo.save(tmp_path / "saved")
    message = (
        rf"algorithm\.information_weight = {1.0 - weight}: the checkpoint was trained with(out)? information "
        rf"regularisation; use {weight}, or start a new run"
    )
    with pytest.raises(BadInput, match=message):
        MADDPG.from_checkpoint(path, small(algorithm={"information_weight": 1.0 - weight}))
    with MADDPG.from_checkpoint(path, small(algorithm={"information_weight": 3.0 * weight})) as algo:
        assert ("information" in algo.train()["learners"]["agent_0"]) == bool(weight)


def test_a_run_from_before_its_scenario_said_what_is_private_goes_on_hiding_nothing(tmp_path, monkeypatch):
    push = {"env": {"id": "simple_push", "kwargs": {}}}
    plain = MADDPGConfig.from_dict(push, small())
    old = MADDPGConfig.from_dict(
        {**push, "algorithm": {"information_weight": 1.0, "private_values": "mean"}}, small()
    )
    with monkeypatch.context() as patch:
        patch.setattr(SimplePush, "private_parts", ())
        with MADDPG(old) as algo:
            algo.train()
            path = algo.save(tmp_path / "saved")
    message = (
        "information_weight = 1.0: .* without .*, when simple_push did not say what is private; use 0, or"
    )
    with pytest.raises(BadInput, match=message):
        MADDPG.from_checkpoint(path, old)
    with MADDPG.from_checkpoint(path) as resumed, MADDPG(plain) as whole:
        assert resumed.config == plain
        whole.train()
        assert resumed.train()["learners"] == whole.train()["learners"]


TWO_COLUMNS = {"columns": [0, 2], "candidates": [[2, 4], [4, 6]]}
OBSERVED_GOAL_AMONG_TWO = {"num_agent_neighbors": 2, "num_landmark_neighbors": 2}
NO_OTHER_LANDMARK = {"num_agent_neighbors": 3, "num_landmark_neighbors": 1}  # observations are as large


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        (
            {"env": {"kwargs": OBSERVED_GOAL_AMONG_TWO}},
            {"env": {"kwargs": NO_OTHER_LANDMARK}},
            r"env\.kwargs = \{.*with",
        ),
        (
            {"env": {"kwargs": NO_OTHER_LANDMARK}},
            {"env": {"kwargs": OBSERVED_GOAL_AMONG_TWO}},
            r"env\.kwargs = \{.*without",
        ),
        (
            {"env": {"kwargs": NO_OTHER_LANDMARK}, "algorithm": {"private": {"agent": TWO_COLUMNS}}},
            {"env": {"kwargs": NO_OTHER_LANDMARK}},
            r"algorithm\.private = \{\}.*with",
        ),
    ],
)
def test_what_is_private_may_not_appear_or_vanish_when_a_run_resumes(tmp_path, before, after, field):
    weight = {"algorithm": {"information_weight": 1.0}}
    with MADDPG(MADDPGConfig.from_dict(before, small(**weight))) as algo:
        algo.train()
        path = algo.save(tmp_path / "saved")
    message = f"^{field} information regularisation, and this changes whether something is private"
    with pytest.raises(BadInput, match=message):
        MADDPG.from_checkpoint(path, MADDPGConfig.from_dict(after, small(**weight)))
