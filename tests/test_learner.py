from dataclasses import replace

import numpy as np
import pytest
import torch

from distributed_maddpg import learner as learner_module
from distributed_maddpg.algo.device_replay import DeviceReplay
from distributed_maddpg.algo.fused.update import FusedUpdate
from distributed_maddpg.algo.handwritten import HandwrittenUpdate
from distributed_maddpg.config import AlgorithmConfig, LearnerConfig, MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.learner import (
    Learner,
    choose_device,
    faster_device,
    make_learner,
    measure_update_rate,
)
from distributed_maddpg.replay.ring import Draw, Ring
from distributed_maddpg.seeding import integer_seed
from distributed_maddpg.types import METRICS, EnvSpec

SPEC = EnvSpec(("red_0", "blue_0"), (3, 2), (2, 3), ("continuous", "discrete"))
ALGORITHM = AlgorithmConfig(policy_hidden_sizes=(6,), critic_hidden_sizes=(6,))


LEARNER = LearnerConfig(device="cpu", batch_size=8)


def learner(*seeds):
    return Learner(ALGORITHM, LEARNER, SPEC, seeds or [1])


def batches(count=4, seed=0):
    return np.random.default_rng(seed).random((count, 8, SPEC.transitions.width), dtype=np.float32)


def drawn(batches):
    return Draw.of(batches.reshape(-1, batches.shape[2]))


def learn(stage, *runs):
    """Learn from each run's minibatches [K, 8, width]."""
    stage.learn([drawn(own) for own in runs])


def learn_plainly(update, batches, factors, metrics):
    draw = drawn(batches)
    index = draw.index.reshape(batches.shape[:2])
    update.learn(draw.ring.rows, index, draw.counters(), factors, metrics)


@pytest.fixture
def plain_update(monkeypatch):
    """Let a CPU use what a GPU does."""
    monkeypatch.setattr(learner_module, "reason_against", lambda *_: "a test")


def equal(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def test_learn_makes_one_update_per_batch_in_order():
    stage = learner()
    plain = FusedUpdate(ALGORITHM, SPEC, integer_seed(1, "learner"))
    metrics = np.zeros((len(METRICS), 2), np.float32)
    learn_plainly(plain, batches(), [1.0] * 4, metrics)
    learn(stage, batches())
    assert stage.updates == 4
    assert np.array_equal(stage.weights().policies, plain.policy.flat.numpy())
    taken = stage.metrics()[0]
    assert list(taken) == list(METRICS)
    np.testing.assert_allclose(list(taken.values()), metrics / 4, rtol=1e-5)


def test_learning_rates_fall_by_the_count_of_updates_however_they_are_called():
    falling = replace(ALGORITHM, lr_end=0.25)
    whole, pieces = (Learner(falling, LEARNER, SPEC, [1], 8) for _ in range(2))
    plain, data = FusedUpdate(falling, SPEC, integer_seed(1, "learner")), batches(12)
    factors = [max(1.0 - 0.75 * made / 8, 0.25) for made in range(12)]
    learn_plainly(plain, data, factors, np.zeros((len(METRICS), 2), np.float32))
    learn(whole, data)
    for piece in (data[:1], data[1:8], data[8:]):
        learn(pieces, piece)
    for stage in (whole, pieces):
        assert np.array_equal(stage.weights().policies, plain.policy.flat.numpy())
    constant = Learner(falling, LEARNER, SPEC, [1])
    learn(constant, data)
    assert not np.array_equal(constant.weights().policies, plain.policy.flat.numpy())


@pytest.mark.parametrize("delay", [2, 3])
def test_matd3_continues_exactly_from_its_state(delay):
    config = replace(ALGORITHM, name="matd3", policy_delay=delay, share_policies=True)
    whole, first, second = (Learner(config, LEARNER, SPEC, [1]) for _ in range(3))
    data = batches(7)
    learn(whole, data)
    learn(first, data[:4])
    second.set_state(first.get_state())
    learn(second, data[4:])
    assert equal(whole.get_state(), second.get_state())
    assert {"critic2", "target_critic2", "policy_metrics"} < set(whole.get_state())


def test_runs_of_one_stack_have_their_own_shared_critics(monkeypatch):
    spec = EnvSpec(("red_0", "blue_0", "blue_1"), (2, 3, 3), (1, 2, 2), ("continuous",) * 3)
    config = replace(ALGORITHM, share_critics=True)
    alone = [
        HandwrittenUpdate(config, spec, torch.device("cpu"), [integer_seed(k, "learner")]) for k in (1, 2)
    ]
    streams = [integer_seed(k, "learner") for k in (1, 2)]
    monkeypatch.setattr(
        Learner, "_make_stacks", lambda *_: [HandwrittenUpdate(config, spec, torch.device("cpu"), streams)]
    )
    together = Learner(config, LEARNER, spec, [1, 2])  # as on a GPU
    data = [np.random.default_rng(k).random((3, 8, spec.transitions.width), dtype=np.float32) for k in (1, 2)]
    learn(together, *data)
    for run, update in enumerate(alone):
        for batch in data[run]:
            update(torch.from_numpy(batch)[None])
        for name, rows in update.per_network_state().items():
            np.testing.assert_allclose(together.get_state(run)[name], rows.numpy(), rtol=1e-4, atol=1e-6)
    together._stacks[0].critic.flat[3] = np.nan  # of the second run's team
    assert together._restore_points[0].find_not_finite() == ("critic", [4, 5])


def test_metrics_are_those_of_the_iteration():
    stage = learner()
    assert all(np.isnan(values).all() for values in stage.metrics()[0].values())
    learn(stage, batches())
    first = stage.metrics()[0]
    assert all(np.isfinite(values).all() for values in first.values())
    assert equal(stage.metrics()[0], first)
    stage.next_iteration()
    assert all(np.isnan(values).all() for values in stage.metrics()[0].values())
    learn(stage, batches(seed=1))
    assert not equal(stage.metrics()[0], first)


def test_read_only_batches_are_accepted_and_unchanged():
    given = batches()
    given.flags.writeable = False
    learn(learner(), given)
    assert np.array_equal(given, batches())


def test_publish_counts_versions_and_weights_are_a_copy():
    stage = learner()
    (first,), (second,) = stage.publish(), stage.publish()
    assert (first.version, second.version, stage.weights().version) == (1, 2, 2)
    before = first.policies.copy()
    learn(stage, batches())
    assert np.array_equal(first.policies, before)
    assert not np.array_equal(stage.weights().policies, before)
    assert (stage.weights().version, stage.weights().updates) == (2, 4)


@pytest.mark.parametrize("updates", [0, 4])
def test_a_restored_learner_continues_exactly(updates):
    old, new = learner(), learner(2)
    learn(old, batches(updates))
    new.set_state(old.get_state())
    for stage in (old, new):
        learn(stage, batches(seed=5))
    assert equal(old.get_state(), new.get_state())


def test_a_read_only_state_is_accepted():
    old, new = learner(), learner(2)
    learn(old, batches())
    state = old.get_state()
    for array in state.values():
        array.flags.writeable = False
    new.set_state(state)
    learn(new, batches(seed=5))
    assert new.updates == 8


def test_a_state_is_a_copy():
    stage = learner()
    learn(stage, batches(1))
    state = stage.get_state()
    before = {name: array.copy() for name, array in state.items()}
    learn(stage, batches(1))
    assert equal(state, before)


def test_a_state_without_a_part_is_refused():
    state = learner().get_state()
    del state["critic"]
    with pytest.raises(ValueError, match="the state lacks critic"):
        learner().set_state(state)


def test_a_state_of_other_networks_is_refused():
    other = Learner(AlgorithmConfig(policy_hidden_sizes=(7,)), LEARNER, SPEC, [1])
    with pytest.raises(ValueError, match=r"policy has shape \(2, \d+\) .*, expected"):
        learner().set_state(other.get_state())


def test_several_runs_learn_as_each_would_alone():
    together, alone = learner(3, 4), [learner(3), learner(4)]
    for seed in (0, 10):
        given = [batches(seed=seed), batches(seed=seed + 1)]
        learn(together, *given)
        for stage, own in zip(alone, given, strict=True):
            learn(stage, own)
    published = together.publish()
    for run, stage in enumerate(alone):
        assert np.array_equal(published[run].policies, stage.publish()[0].policies)
        assert equal(together.get_state(run), stage.get_state())
    for got, stage in zip(together.metrics(), alone, strict=True):
        assert equal(got, stage.metrics()[0])


def test_one_run_of_several_is_restored_alone():
    together, alone = learner(3, 4), learner(5)
    learn(alone, batches())
    before = together.get_state(0)
    together.set_state(alone.get_state(), run=1)
    assert equal(together.get_state(1), alone.get_state())
    assert np.array_equal(together.get_state(0)["policy"], before["policy"])


def ring(rows=40, seed=0):
    result = Ring(30, SPEC.transitions.width)
    add(result, rows, seed)
    return result


def add(to, rows, seed):
    for row in np.random.default_rng(seed).random((rows, 1, SPEC.transitions.width), dtype=np.float32):
        to.add(row)


def test_bf16_takes_the_plain_update_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr("distributed_maddpg.learner.multiplies_bf16", lambda: False)
    low = Learner(ALGORITHM, LearnerConfig(batch_size=8, device="cpu", precision="bf16"), SPEC, [1])
    assert low.device_reason == "cpu: cpu, plain update: the fused update has no bf16"
    assert "learner.precision = bf16 is slow" in caplog.text
    plain = HandwrittenUpdate(
        ALGORITHM, SPEC, torch.device("cpu"), [integer_seed(1, "learner")], precision="bf16"
    )
    learn(low, batches(1))
    plain(torch.from_numpy(batches(1)))
    assert np.array_equal(low.weights().policies, plain.policy.flat.numpy())


def test_learn_mirrored_equals_updates_on_rows_of_a_device_replay(plain_update):
    stage, source = learner(), ring()
    plain = HandwrittenUpdate(ALGORITHM, SPEC, torch.device("cpu"), [integer_seed(1, "learner")])
    copy, metrics = DeviceReplay(30, SPEC.transitions.width, plain.generators), []
    for updates in (3, 5):
        stage.mirror([source])
        stage.learn_mirrored(updates)
        copy.add(0, torch.from_numpy(source.read_from(0)[0]), source.inserted)
        metrics += [plain(copy.sample(8)) for _ in range(updates)]
        add(source, 7, seed=1)
    assert stage.updates == 8
    assert np.array_equal(stage.weights().policies, plain.policy.flat.numpy())
    taken = stage.metrics()[0]
    np.testing.assert_allclose(list(taken.values()), torch.stack(metrics).mean(0).numpy(), rtol=1e-5)


def test_only_new_rows_are_mirrored(monkeypatch, plain_update):
    stage, source, read = learner(), ring(), []
    monkeypatch.setattr(source, "read_from", lambda at: read.append(at) or Ring.read_from(source, at))
    for rows in (0, 7, 0):
        add(source, rows, seed=1)
        stage.mirror([source])
    assert read == [0, 40, 47]


def test_learn_mirrored_without_rows_is_refused(plain_update):
    with pytest.raises(ValueError, match="empty replay buffer"):
        learner().learn_mirrored(1)
    stage = learner()
    stage.mirror([ring(0)])
    with pytest.raises(ValueError, match="empty replay buffer"):
        stage.learn_mirrored(1)


def test_several_runs_learn_from_their_mirrors_as_each_would_alone(plain_update):
    together, alone = learner(3, 4), [learner(3), learner(4)]
    rings = [ring(seed=3), ring(25, seed=4)]
    for _ in range(2):
        together.mirror(rings)
        together.learn_mirrored(3)
        for run, stage in enumerate(alone):
            stage.mirror([rings[run]])
            stage.learn_mirrored(3)
            assert equal(together.get_state(run), stage.get_state())
            add(rings[run], 5, seed=run)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_restored_learner_goes_on_drawing_from_the_same_rows(device, plain_update):
    source = ring()
    old, new = (
        Learner(ALGORITHM, LearnerConfig(device=device, batch_size=8), SPEC, [seed]) for seed in (1, 2)
    )
    other = ring(13, seed=5)
    new.mirror([other])
    new.learn_mirrored(2)
    old.mirror([source])
    old.learn_mirrored(4)
    new.set_state(old.get_state())
    with pytest.raises(ValueError, match="empty replay buffer"):
        new.learn_mirrored(1)
    add(source, 7, seed=6)
    for stage in (old, new):
        stage.mirror([source])
        stage.learn_mirrored(21)
    assert equal(old.get_state(), new.get_state())


def test_the_seed_decides_the_start():
    assert equal(learner(1).get_state(), learner(1).get_state())
    assert not np.array_equal(learner(1).weights().policies, learner(2).weights().policies)


def test_a_runs_learner_uses_its_seed():
    config = MADDPGConfig.from_dict({"seed": 5, "learner": {"device": "cpu"}})
    start = make_learner(config, SPEC).weights().policies
    again = Learner(config.algorithm, config.learner, SPEC, [5]).weights().policies
    assert np.array_equal(start, again)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_without_a_gpu_is_refused():
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(BadInput, match=r"learner\.device = 'cuda': torch sees no GPU"):
        choose_device("cuda")


@pytest.mark.gpu
def test_a_gpu_starts_from_the_same_weights_and_learns_the_same():
    stages = [Learner(ALGORITHM, replace(LEARNER, device=name), SPEC, [1]) for name in ("cpu", "cuda")]
    assert stages[1].device.type == "cuda"
    assert np.array_equal(*(stage.weights().policies for stage in stages))
    learn(stages[1], batches())
    new = Learner(ALGORITHM, replace(LEARNER, device="cuda"), SPEC, [2])
    new.set_state(stages[1].get_state())
    for stage in (stages[1], new):
        learn(stage, batches(seed=5))
    np.testing.assert_allclose(stages[1].weights().policies, new.weights().policies, atol=1e-5)


def test_the_faster_device_is_chosen_and_says_so():
    assert faster_device(5200.4, 165.2) == ("cuda", "auto: cuda 5 200 updates/s, cpu 165 updates/s")
    assert faster_device(900, 1234567) == ("cpu", "auto: cpu 1 234 567 updates/s, cuda 900 updates/s")


def test_auto_measures_both_devices_once(monkeypatch, caplog):
    tried, config = [], MADDPGConfig.from_dict({"learner": {"device": "auto"}})

    def trial(config, spec, seeds):
        tried.append((config.learner.device, tuple(seeds)))
        return {"cuda": 50.0, "cpu": 70.0}[config.learner.device]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(learner_module, "measure_update_rate", trial)
    with caplog.at_level("INFO"):
        stage = make_learner(config, SPEC, [3, 4])
    assert tried == [("cuda", (3, 4)), ("cpu", (3, 4))]
    assert stage.device.type == "cpu" and stage.num_runs == 2
    assert stage.device_reason == "auto: cpu 70 updates/s, cuda 50 updates/s"
    assert caplog.messages == [f"learner.device = {stage.device_reason}"]


def test_nothing_is_measured_without_a_choice(monkeypatch):
    monkeypatch.setattr(learner_module, "measure_update_rate", None)
    config = MADDPGConfig.from_dict({"learner": {"device": "cpu"}})
    assert make_learner(config, SPEC).device_reason == "cpu: cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = MADDPGConfig.from_dict({"learner": {"device": "auto"}})
    assert make_learner(config, SPEC).device_reason == "auto: cpu"


@pytest.mark.parametrize("samples_on_device", [False, True])
def test_the_rate_is_measured_with_the_sampling_of_training(samples_on_device, monkeypatch):
    monkeypatch.setattr(learner_module, "_RATE_TEST_S", 0.05)
    monkeypatch.setattr(Learner, "samples_on_device", samples_on_device)
    monkeypatch.setattr(Learner, "learn" if samples_on_device else "learn_mirrored", None)
    config = MADDPGConfig.from_dict({"learner": {"device": "cpu", "batch_size": 16}})
    assert 1 < measure_update_rate(config, SPEC, [1, 2]) < 1e5


def test_tf32_is_off():
    learner()
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.gpu
def test_a_trial_of_both_devices_picks_one():
    stage = make_learner(MADDPGConfig.from_dict({"learner": {"device": "auto"}}), SPEC)
    assert stage.device_reason.startswith(f"auto: {stage.device.type} ")
    stage.mirror([ring()])
    stage.learn_mirrored(1)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_gpu_samples_and_updates_without_synchronisation():
    stage = Learner(ALGORITHM, LearnerConfig(device="cuda", batch_size=8), SPEC, [1])
    assert stage.samples_on_device
    stage.mirror([ring()])
    stage.learn_mirrored(1)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        stage._graph_updates[0].learn(21)
        stage._graph_updates[0]._step()
        stage.mirror([ring(45)])
    finally:
        torch.cuda.set_sync_debug_mode(before)
    stage.learn_mirrored(1)
    assert all(np.isfinite(values).all() for values in stage.metrics()[0].values())


@pytest.mark.gpu
@pytest.mark.alone
def test_a_gpu_makes_updates_faster_than_one_core():
    config = MADDPGConfig.from_dict({"learner": {"device": "cuda"}})
    spec = EnvSpec(("adversary_0", "agent_0", "agent_1"), (8, 10, 10), (5, 5, 5), ("continuous",) * 3)
    assert measure_update_rate(config, spec, [1]) > 500


def test_copied_rows_stay_while_all_newer_ones_are_being_overwritten():
    stage, ring = learner(1), Ring(16, SPEC.transitions.width)
    ring.add(batches(2).reshape(16, -1))
    stage.mirror([ring])
    ring._header[:2] = 32, 48  # the writer is behind one whole round and in the next
    stage.mirror([ring])
    stage.learn_mirrored(2)
    assert stage.updates == 2


def test_rows_that_cannot_be_read_are_an_error_that_changes_nothing():
    stage, source = learner(), ring()
    draw = source.draw(np.random.default_rng(0), 16)
    learn(stage, batches())
    before = stage.get_state()
    source.clear(0)
    with pytest.raises(RuntimeError, match="the replay buffer was cleared, or its writer died"):
        stage.learn([draw])
    assert equal(stage.get_state(), before)


@pytest.mark.parametrize(("capacity", "fits"), [(2000, True), (1_000_000, False)])
def test_rows_stay_on_the_host_where_the_gpu_has_too_little_memory(capacity, fits, monkeypatch, caplog):
    config = MADDPGConfig.from_dict(
        {"replay": {"capacity": capacity}, "learner": {"device": "cpu"}, "pacing": {"learning_starts": 100}}
    )
    made = Learner(config.algorithm, config.learner, SPEC, [1, 2])
    made.device = torch.device("cuda")
    monkeypatch.setattr(learner_module, "Learner", lambda *_: made)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (100_000_000, 0))
    assert make_learner(config, SPEC, [1, 2]).samples_on_device == fits
    assert ("would not fit the GPU's free 0.1 GB" in caplog.text) == (not fits)
