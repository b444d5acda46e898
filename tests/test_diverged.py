"""A learner whose numbers stop being finite names the metric and is rolled back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from distributed_maddpg.config import AlgorithmConfig, LearnerConfig
from distributed_maddpg.errors import Diverged, TrainingError
from distributed_maddpg.learner import Learner
from distributed_maddpg.replay.ring import Draw, Ring
from distributed_maddpg.types import METRICS, EnvSpec

SPEC = EnvSpec(("red_0", "blue_0"), (3, 2), (2, 3), ("continuous", "discrete"))
ALGORITHM = AlgorithmConfig(policy_hidden_sizes=(6,), critic_hidden_sizes=(6,), policy_head="auto")
STATES = ("critic", "policy", "target_critic", "target_policy")
MOMENTS = [f"{kind}_optimiser.{name}" for kind in ("policy", "critic") for name in ("exp_avg", "exp_avg_sq")]
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def learner(*seeds, device="cpu", **changes):
    config = LearnerConfig(device=device, batch_size=8)
    return Learner(replace(ALGORITHM, **changes), config, SPEC, seeds or (1,))


def batches(count=4, seed=0):
    return np.random.default_rng(seed).random((count, 8, SPEC.transitions.width), dtype=np.float32)


def learn(stage, *runs):
    """Learn from each run's minibatches [K, 8, width]."""
    stage.learn([Draw.of(own.reshape(-1, own.shape[2])) for own in runs])


def ring(seed=0):
    result = Ring(30, SPEC.transitions.width)
    result.add(batches(seed=seed).reshape(-1, SPEC.transitions.width)[:30])
    return result


def equal(first, second):
    """Whether two states are bit-identical."""
    return first.keys() == second.keys() and all(first[k].tobytes() == second[k].tobytes() for k in first)


@devices
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("rate", "metric"), [("critic_lr", "critic_loss"), ("actor_lr", "[a-z_]+")])
def test_a_diverged_call_is_rolled_back_and_learning_can_continue(rate, metric, mirrored, device):
    stage, plain = learner(device=device), learner(device=device)

    def go_on(which, seed):
        if mirrored:
            which.mirror([ring()])
            which.learn_mirrored(4)
        else:
            learn(which, batches(seed=seed))

    for each in (stage, plain):
        go_on(each, 0)
    before = stage.get_state()
    good, stage._stacks[0]._config = stage._stacks[0]._config, replace(ALGORITHM, **{rate: 9e14})
    stage.weights_version = plain.weights_version = 3
    before["weights_version"] = np.array(3)
    message = rf"^learner: {metric} of red_0, blue_0 stopped being finite between updates 4 and 8; "
    with pytest.raises(Diverged, match=message):
        go_on(stage, 5)
    assert equal(stage.get_state(), before)
    assert all(np.isfinite(array).all() for array in before.values())
    stage._stacks[0]._config = good
    for each in (stage, plain):
        go_on(each, 6)
    assert equal(stage.get_state(), plain.get_state())
    assert all(np.array_equal(own, other) for own, other in zip(*map(_means, (stage, plain)), strict=True))


class FakeUpdate:
    """An update that returns what a function returns."""

    def __init__(self, update):
        self.update = update

    def __call__(self, batch):
        return self.update()

    def scale_learning_rates(self, share):
        pass


def _means(stage):
    return list(stage.metrics()[0].values())


@devices
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("agent", [0, 1])
@pytest.mark.parametrize("name", [*STATES, *MOMENTS])
def test_any_number_that_is_not_finite_is_found_within_one_call(name, agent, value, device):
    stage = learner(device=device)
    learn(stage, batches(1))
    rows = stage._stacks[0].per_network_state()[name]
    rows[agent, -1] = value
    corrupted = stage.get_state()
    message = rf" of .*{SPEC.agents[agent]}.* stopped being finite between updates 1 and 2"
    with pytest.raises(Diverged, match=message):
        learn(stage, batches(1))
    assert equal(stage.get_state(), corrupted)


@pytest.mark.parametrize("name", [*STATES, *MOMENTS])
def test_numbers_that_no_metric_shows_are_found_in_the_state(name, monkeypatch):
    stage = learner()
    stack = stage._stacks[0]

    def corrupt():
        stack.per_network_state()[name][1, 2] = np.inf
        return torch.ones(len(METRICS), 2)

    monkeypatch.setattr(stage, "_stacks", [FakeUpdate(corrupt)])
    with pytest.raises(Diverged, match=f"learner: {name} of blue_0 stopped"):
        learn(stage, batches(1))
    assert all(torch.isfinite(rows).all() for rows in stack.per_network_state().values())


@pytest.mark.parametrize("metric", METRICS)
def test_the_error_names_the_metric_and_the_agent(metric, monkeypatch):
    stage, given = learner(), torch.ones(len(METRICS), 2)
    given[METRICS.index(metric), 1] = np.nan
    monkeypatch.setattr(stage, "_stacks", [FakeUpdate(lambda: given)])
    with pytest.raises(Diverged, match=f"learner: {metric} of blue_0 stopped"):
        learn(stage, batches(1))
    assert stage.updates == 0 and not stage._metrics[0].any()


def test_large_finite_numbers_are_no_divergence():
    stage = learner()
    for moments in (stage._stacks[0].policy_optimiser, stage._stacks[0].critic_optimiser):
        moments.exp_avg_sq.fill_(3e38)
    learn(stage, batches())
    assert stage.updates == 4


def test_the_error_names_the_settings_to_change():
    stage = learner(critic_lr=1e14, actor_lr=1e14, max_grad_norm=0.5)
    with pytest.raises(TrainingError) as raised:
        learn(stage, batches())
    message = str(raised.value)
    assert "the weights are those of update 0; lower algorithm.critic_lr = 1e+14" in message
    assert "algorithm.max_grad_norm = 0.5 (0 is none)" in message and "\n" not in message


@devices
def test_the_error_names_the_run_and_all_runs_are_rolled_back(device):
    stage = learner(3, 4, device=device)
    learn(stage, batches(), batches())
    before = [stage.get_state(run) for run in range(2)]
    corrupted = batches(seed=5)
    corrupted[3, 3, SPEC.transitions.rewards.start + 1] = np.inf  # of blue_0
    with pytest.raises(Diverged, match=r"^learner with seed 4: critic_loss of blue_0 stopped"):
        learn(stage, batches(seed=5), corrupted)
    assert all(equal(stage.get_state(run), before[run]) for run in range(2))
    assert all(np.isfinite(value).all() for run in stage.metrics() for value in run.values())


def test_the_restore_point_reuses_its_memory(monkeypatch):
    stage = learner()
    places = [saved.data_ptr() for saved in stage._restore_points[0]._saved]
    for _ in range(2):
        learn(stage, batches())
    assert [saved.data_ptr() for saved in stage._restore_points[0]._saved] == places
