"""Numbers of an environment that are not finite are reported and dropped; the run continues without them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distributed_maddpg import MADDPG
from distributed_maddpg.config import AlgorithmConfig, ExplorationConfig
from distributed_maddpg.envs import env_spec, make_vector_env
from distributed_maddpg.errors import TrainingError
from distributed_maddpg.evaluation.episodes import evaluate
from distributed_maddpg.metrics import IterationLog
from distributed_maddpg.rollout import RolloutWorker, describe_column
from distributed_maddpg.trainer import train_together
from distributed_maddpg.types import EpisodeReport, RolloutReport, TransitionLayout, Weights, policy_layout
from tests.support.serial_runs import learner_digest, run_all, start, tiny

FAULTY = "tests.support.faulty:parallel_env"
HIDDEN = (4,)


def worker_on(env, exploration=None):
    """Return a rollout worker with small random weights on a vector environment."""
    algorithm = AlgorithmConfig(policy_hidden_sizes=HIDDEN, policy_head="auto")
    worker = RolloutWorker(algorithm, exploration or ExplorationConfig(), env, np.random.default_rng(0))
    size = policy_layout(env.spec, HIDDEN).num_parameters
    flat = np.random.default_rng(1).normal(scale=1e-6, size=(env.spec.num_agents, size)).astype(np.float32)
    worker.set_weights(Weights(1, 10, flat))
    return worker


def faulty_worker(exploration=None, num_envs=3, copy=1, max_cycles=4, continuous=True, **fault):
    """Return a rollout worker on FaultyEnv, one copy of which has a fault."""
    env = make_vector_env(FAULTY, num_envs, 0, max_cycles=max_cycles, continuous=continuous)
    for name, value in fault.items():
        setattr(env.envs[copy], name, value)
    return worker_on(env, exploration)


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize(
    ("value", "seen"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf"), (-1e300, "-inf")]
)
@pytest.mark.parametrize("part", ["reward", "next observation"])
@pytest.mark.parametrize("at", [7, 8])  # within an episode, and its last step
def test_a_fragment_with_a_fault_is_reported_dropped_and_collected_again(part, value, seen, continuous, at):
    worker = faulty_worker(part=part, faulty="counter_1", at=at, value=value, continuous=continuous)
    layout = worker._env.spec.transitions
    collected = [worker.collect(4, 0) for _ in range(4)]
    assert [rows.shape for rows, _ in collected] == [(12, layout.width)] * 4
    assert all(np.isfinite(rows).all() for rows, _ in collected)
    dropped = 3 * (at - 4)
    line = f"dropped {dropped} env steps: {part} of counter_1 in copy 1 is {seen} at vector step {at}"
    assert worker.pop_dropped() == (line,)
    assert worker.pop_dropped() == ()
    for rows, report in collected:  # fragments hold whole episodes: all copies started new ones
        assert rows[:, layout.rewards].tolist() == [[t, t] for t in (1, 2, 3, 4) for _ in range(3)]
        assert report.lengths.tolist() == [4, 4, 4]
        assert report.returns.tolist() == [[10, 10]] * 3


def test_episodes_cut_by_a_dropped_fragment_are_not_reported():
    worker = faulty_worker(max_cycles=10, part="reward", at=6)
    reports = [worker.collect(4, 0)[1] for _ in range(4)]
    assert [report.lengths.tolist() for report in reports] == [[], [], [], [10] * 3]
    assert reports[-1].returns.tolist() == [[55, 55]] * 3
    # Of 4 + 2 + 12 steps, the first 6 belong to no reported episode.


@pytest.mark.parametrize("at", [1, 2])
def test_a_first_observation_that_is_not_finite_is_never_acted_on(at):
    worker = faulty_worker(part="observation", at=at)
    if at == 1:  # the observation that the worker got when it was built
        worker._obs = (worker._obs[0].copy(), worker._obs[1])
        worker._obs[0][1] = np.nan
    rows, report = worker.collect(6, 0)
    assert np.isfinite(rows).all()
    assert report.lengths.tolist() == [4] * 3
    dropped, steps = (0, 0) if at == 1 else (12, 4)
    line = f"observation of counter_0 in copy 1 is nan after vector step {steps}"
    assert worker.pop_dropped() == (f"dropped {dropped} env steps: {line}",)


@pytest.mark.parametrize("part", ["reward", "next observation", "observation"])
def test_a_permanent_fault_raises_after_five_fragments(part):
    worker = faulty_worker(part=part, faulty="counter_1", at=2, for_ever=True, max_cycles=3)
    with pytest.raises(TrainingError) as raised:
        for _ in range(10):
            worker.collect(4, 0)
    message = str(raised.value)
    beginning = f"environment: 5 fragments in a row were not finite, the last: {part} of counter_1 "
    assert message.startswith(beginning)
    assert " in copy 1 is nan " in message and "check what the environment computes" in message
    assert len(worker.pop_dropped()) == 5


def test_a_worker_continues_after_three_faults_in_a_row():
    worker = faulty_worker(part="reward", at=1, for_ever=True)
    env, step = worker._env.envs[1], type(worker._env.envs[1]).step

    def faulty_for_three_steps(actions):
        env.for_ever = env.steps < 3
        return step(env, actions)

    env.step = faulty_for_three_steps
    rows, _ = worker.collect(4, 0)
    assert np.isfinite(rows).all()
    assert [line.split()[1] for line in worker.pop_dropped()] == ["3"] * 3
    assert worker._vector_steps == 3 + 4


def test_exploration_noise_is_reset_after_a_dropped_fragment():
    schedule = ExplorationConfig("ou", 0.5, 0.0, decay_env_steps=1)
    fault = dict(part="reward", at=3, max_cycles=100)
    noisy, silent = faulty_worker(schedule, **fault), faulty_worker(ExplorationConfig("none"), **fault)
    for worker in (noisy, silent):
        worker.collect(2, 0)
    actions = noisy._env.spec.transitions.actions[0]
    assert np.array_equal(noisy.collect(2, 100)[0][:, actions], silent.collect(2, 100)[0][:, actions])
    assert noisy.pop_dropped() == silent.pop_dropped() != ()


class CorruptedEnv:
    """A vector environment that sets one number of its `at`-th step to NaN."""

    def __init__(self, env, at, part):
        self._env, self._at, self._part, self._steps = env, at, part, 0

    def __getattr__(self, name):
        return getattr(self._env, name)

    def step(self, actions):
        result, self._steps = self._env.step(actions), self._steps + 1
        if self._steps != self._at:
            return result
        values = [array.copy() for array in getattr(result, self._part)]
        values[2][1, 3] = np.nan
        corrupted = {self._part: tuple(values)}
        if result.obs is result.final_obs:
            corrupted = dict.fromkeys(("obs", "final_obs"), tuple(values))
        return result._replace(**corrupted)


@pytest.mark.parametrize(
    ("at", "part", "line"),
    [
        (2, "obs", "next observation of agent_1 in copy 1 is nan at vector step 2"),
        (5, "final_obs", "next observation of agent_1 in copy 1 is nan at vector step 5"),
        (5, "obs", "observation of agent_1 in copy 1 is nan after vector step 5"),
    ],
)
def test_an_environment_that_refuses_nan_gets_none_after_a_fault(at, part, line):
    inner = make_vector_env("simple_adversary", 3, 0, N=2, max_cycles=5, continuous_actions=True)
    worker = worker_on(CorruptedEnv(inner, at, part))
    rows, _ = worker.collect(8, 0)
    assert len(rows) == 24 and np.isfinite(rows).all()
    assert worker.pop_dropped() == (f"dropped {3 * at} env steps: {line}",)


def test_each_column_is_named_by_its_part_and_agent():
    layout, agents = TransitionLayout((2, 1), (1, 2)), ("a_0", "b_0")
    owners = [describe_column(layout, agents, column) for column in range(layout.width)]
    parts = {"observation": (2, 1), "action": (1, 2), "reward": (1, 1), "next observation": (2, 1)}
    expected = [
        f"{part} of {agent}"
        for part, sizes in {**parts, "discount": (1, 1)}.items()
        for agent, size in zip(agents, sizes, strict=True)
        for _ in range(size)
    ]
    assert owners == expected


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_and_the_old_ones_kept(value):
    worker = faulty_worker()
    flat = np.zeros((2, policy_layout(worker._spec, HIDDEN).num_parameters), np.float32)
    flat[1, 3] = value
    with pytest.raises(TrainingError, match=r"weights version 8: the policy of counter_1 is not finite"):
        worker.set_weights(Weights(8, 80, flat))
    assert worker.weights_version == 1
    assert np.isfinite(worker.collect(4, 0)[0]).all()


# Whole runs


def settings(seed=0, **kwargs):
    kwargs = {"max_cycles": 6, "continuous": True, **kwargs}
    exploration, pacing = {"kind": "ou", "start": 0.3}, {"evaluation_interval_env_steps": 0}
    return tiny(FAULTY, kwargs, seed=seed, exploration=exploration, pacing=pacing)


def add_fault(runner, run, at=21):
    env = runner._runs[run].worker._env.envs[2]
    env.part, env.faulty, env.at = "next observation", "counter_1", at


def test_a_run_with_a_fault_finishes_and_is_reproducible(caplog):
    outcomes = []
    for faulty in (True, True, False):
        runner = start(settings())
        if faulty:
            add_fault(runner, 0)
        caplog.clear()
        results = run_all(runner)
        outcomes.append(learner_digest(runner))
        ring = runner._runs[0].replay.ring
        assert np.isfinite(ring.rows[:240]).all() and ring.inserted == 240
        assert results[-1]["num_env_steps_sampled_lifetime"] == 240
        assert results[-1]["num_updates_lifetime"] == 21
        counts = [result["fault_tolerance"]["num_quarantined_blocks"] for result in results]
        assert counts == ([0, 1, 1] if faulty else [0, 0, 0])
        line = "next observation of counter_1 in copy 2 is nan at vector step 21"
        assert caplog.messages == [f"rollout worker 0: dropped 4 env steps: {line}"] * faulty
        assert all(record.levelname == "WARNING" for record in caplog.records)
    assert outcomes[0] == outcomes[1] != outcomes[2]  # the run without the fault differs


def test_a_fault_in_one_of_several_runs_does_not_change_the_others():
    together = start(settings(4), settings(5))
    add_fault(together, 0)
    results = run_all(together)
    assert [result["fault_tolerance"]["num_quarantined_blocks"] for result in results[-2:]] == [1, 0]
    for run, seed in enumerate((4, 5)):
        alone = start(settings(seed))
        if run == 0:
            add_fault(alone, 0)
        run_all(alone)
        assert learner_digest(together, run) == learner_digest(alone)


def test_train_together_continues_after_a_fault():
    algos = MADDPG.for_seeds(settings(4, part="reward", at=9), 2)
    with algos[0]:
        results = train_together(algos)
    assert [result["fault_tolerance"]["num_quarantined_blocks"] for result in results] == [1, 1]


def test_a_run_with_a_permanent_fault_raises_one_line():
    runner = start(settings(part="reward", at=9, for_ever=True))
    message = r"^environment: 5 fragments in a row .* reward of counter_0 in copy 0"
    with pytest.raises(TrainingError, match=message):
        run_all(runner)
    assert np.isfinite(runner._runs[0].replay.ring.rows[: runner._runs[0].replay.size]).all()


def test_dropped_fragments_are_counted_beside_other_faults():
    spec = env_spec(FAULTY, "auto", {})
    log = IterationLog(spec, 0)
    report = RolloutReport(3, 8, EpisodeReport.empty(2), 0, 1.0, dropped=("one", "two"))
    log.add_rollout(report, 0)
    counters = {"fault_tolerance": {"num_restarts": 4}}
    for _ in range(2):  # counts are not reset between iterations
        faults = log.result(counters, {})["fault_tolerance"]
        log.next_iteration()
        assert faults == {"num_restarts": 4, "num_quarantined_blocks": 2}
    assert counters == {"fault_tolerance": {"num_restarts": 4}}


# Evaluations


def play(part, at, **changes):
    env = make_vector_env(FAULTY, 3, 0, max_cycles=4, **changes)
    env.envs[1].part, env.envs[1].faulty, env.envs[1].at = part, "counter_1", at
    return evaluate(env, lambda obs: [np.zeros(3, np.int64)] * 2, 6)


@pytest.mark.parametrize(
    ("part", "at", "line"),
    [
        ("next observation", 2, "observation of counter_1 in copy 1 is nan"),
        ("observation", 2, "observation of counter_1 in copy 1 is nan"),
        ("observation", 1, "observation of counter_1 in copy 1 is nan"),
        ("reward", 6, "return of counter_1 in copy 1 is nan"),
    ],
)
def test_an_evaluation_names_what_is_not_finite(part, at, line):
    with pytest.raises(TrainingError, match=f"^evaluation: {line}; check"):
        play(part, at)


def test_an_evaluation_without_faults_completes():
    assert play("reward", 0).to_dict()["episode_return_mean"] == 20
