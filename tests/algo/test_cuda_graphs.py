"""Repeated updates on rows of the device: equal to a plain loop, with and without CUDA graphs."""

import logging
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

from distributed_maddpg.algo.cuda_graphs import CUDAGraphUpdates
from distributed_maddpg.algo.device_replay import DeviceReplay
from distributed_maddpg.algo.handwritten import HandwrittenUpdate
from distributed_maddpg.config import AlgorithmConfig
from distributed_maddpg.types import EnvSpec, PrivatePart

SPEC = EnvSpec(("red_0", "blue_0"), (3, 2), (2, 3), ("continuous", "discrete"))
CONTINUOUS = EnvSpec(SPEC.agents, (3, 2), (2, 3), ("continuous", "continuous"))
NOISY = AlgorithmConfig(policy_hidden_sizes=(6, 5), critic_hidden_sizes=(6,), policy_head="auto")
TEAM = EnvSpec(("blue_0", "blue_1"), (3, 3), (2, 2), ("continuous",) * 2)
QUIET = replace(NOISY, policy_head="sigmoid")
MIXED = replace(NOISY, random_action_rows=0.3, other_actions="current", team_overrides={"red": "ddpg"})
PRIVATE = replace(NOISY, information_weight=2.0, private={"red": PrivatePart((0, 1), ((1, 2), (2, 3)))})
COLORED = PrivatePart((0, 2), ((2, 3),) * 2, constants=((0.25,), (0.75,)))
CASES = {
    "noisy": (NOISY, SPEC),
    "quiet": (QUIET, CONTINUOUS),
    "mixed": (MIXED, SPEC),
    "information": (PRIVATE, SPEC),
    "information of constants": (replace(PRIVATE, private={"red": COLORED}, private_values="mean"), SPEC),
    "matd3": (replace(NOISY, name="matd3"), SPEC),
    "shared critics": (replace(NOISY, share_critics=True), TEAM),
    "mean over candidates": (replace(PRIVATE, private_values="mean"), SPEC),
}
BATCH = 8


class Setup:
    """An update of two runs, its rows and metrics."""

    def __init__(self, config=NOISY, spec=SPEC, device="cpu"):
        self.spec = spec
        self.update = HandwrittenUpdate(config, spec, torch.device(device), (1, 2))
        self.metrics = torch.zeros(len(self.update.metrics), 4, device=device)
        self.replay = DeviceReplay(20, self.spec.transitions.width, self.update.generators)
        self.graph_updates = CUDAGraphUpdates(self.update, self.replay, self.metrics, BATCH)
        self.add(30, newest=30)

    def add(self, count, newest):
        for run in range(len(self.replay.sizes)):
            generator = torch.Generator().manual_seed(newest + run)
            rows = torch.rand(count, self.spec.transitions.width, generator=generator)
            self.replay.add(run, rows[-20:], newest)

    def loop(self, updates):
        for _ in range(updates):
            self.metrics += self.update(self.replay.sample(BATCH))

    def state(self):
        return {name: tensor.cpu().clone() for name, tensor in self.update.state().items()} | {
            "metrics": self.metrics.cpu().clone(),
            "generators": torch.stack([each.get_state() for each in self.update.generators]),
        }


def difference(first, second):
    assert first.keys() == second.keys()
    assert torch.equal(first["generators"], second["generators"])
    return max(float((first[name] - second[name]).abs().max()) for name in first if name != "generators")


@pytest.mark.parametrize("case", CASES)
def test_updates_are_those_of_a_plain_loop(case):
    ours, plain = Setup(*CASES[case]), Setup(*CASES[case])
    for updates, newest in ((3, 34), (0, 40), (21, 41)):
        ours.graph_updates.learn(updates)
        plain.loop(updates)
        assert difference(ours.state(), plain.state()) == 0
        for setup in (ours, plain):
            setup.add(4, newest)


def test_runs_without_rows_are_refused():
    setup = Setup()
    setup.replay.clear(1)
    with pytest.raises(ValueError, match="empty replay buffer"):
        setup.graph_updates.learn(1)


def test_preserve_state_restores_everything_an_update_changes():
    setup = Setup()
    setup.loop(2)
    before = setup.state()
    with setup.graph_updates._preserve_state():
        setup.loop(3)
        after = setup.state()
        assert difference({**after, "generators": before["generators"]}, before) > 0
        assert not any(torch.equal(after[name], before[name]) for name in before)
    assert difference(setup.state(), before) == 0


def test_memory_of_another_batch_size_is_kept():
    setup = Setup()
    setup.loop(1)
    before = setup.update._workspace
    setup.update(setup.replay.sample(3))
    assert setup.update._workspace is not before
    setup.loop(1)
    assert setup.update._workspace is before


class RecordedSteps:
    """Stands in for a CUDA graph without a GPU: remembers how many steps were recorded, and repeats them."""

    def __init__(self):
        self.generators, self.count = [], 0
        self.register_generator_state = self.generators.append

    def replay(self):
        made, self.update.updates_made = self.update.updates_made, self.phase
        for _ in range(self.count):
            self.step()
        self.update.updates_made = made  # a graph does not count on the host


@pytest.fixture
def recorder(monkeypatch):
    """Fake CUDA graphs on a CPU; return (function that patches a setup, list of recordings)."""
    recordings = []

    def believe(setup, fail_after=10**9):
        step, recording = setup.graph_updates._step, []

        def counting():
            if recording:
                recording[0].count += 1
                if recording[0].count > fail_after:
                    raise RuntimeError("operation not permitted when stream is capturing")
            step()

        @contextmanager
        def record(graph, **_):
            recording.append(graph)
            graph.step, graph.update, graph.phase = step, setup.update, setup.update.updates_made
            try:
                yield
            finally:
                recordings.append(recording.pop())

        monkeypatch.setattr(setup.graph_updates, "_step", counting)
        monkeypatch.setattr(setup.graph_updates, "_use_graphs", True)
        monkeypatch.setattr(torch.cuda, "graph", record)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedSteps)
    monkeypatch.setattr(torch.cuda, "current_stream", Mock)
    monkeypatch.setattr(torch.cuda, "Stream", Mock)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return believe, recordings


def test_any_count_is_composed_of_graphs_and_capture_changes_no_state(recorder):
    believe, recordings = recorder
    ours, plain = Setup(), Setup()
    believe(ours)
    for updates in (2, 27, 16):
        ours.graph_updates.learn(updates)
        plain.loop(updates)
        assert difference(ours.state(), plain.state()) == 0
    assert [recording.count for recording in recordings] == [16, 4, 1]
    assert all(recording.generators == ours.update.generators for recording in recordings)


@pytest.mark.parametrize(
    ("delay", "recorded"),
    [(2, [(16, 0), (4, 0), (1, 0), (1, 1)]), (5, [(15, 0), (5, 0), *((1, phase) for phase in range(5))])],
)
def test_delayed_policies_are_recorded_as_whole_cycles(recorder, delay, recorded):
    believe, recordings = recorder
    ours, plain = (Setup(replace(NOISY, name="matd3", policy_delay=delay)) for _ in range(2))
    believe(ours)
    ours.update.updates_made = plain.update.updates_made = 1  # as after a resume
    for updates in (3, 27, 1, 20):
        ours.graph_updates.learn(updates)
        plain.loop(updates)
        assert difference(ours.state(), plain.state()) == 0
        assert ours.update.updates_made == plain.update.updates_made
    assert [(recording.count, recording.phase) for recording in recordings] == recorded


@pytest.mark.parametrize("fail_after", [0, 7])
def test_a_failed_capture_falls_back_to_single_steps_with_one_warning(recorder, caplog, fail_after):
    ours, plain = Setup(), Setup()
    recorder[0](ours, fail_after)
    for updates in (3, 18):
        ours.graph_updates.learn(updates)
        plain.loop(updates)
        assert difference(ours.state(), plain.state()) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "without CUDA graphs" in caplog.text and "not permitted" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_graphs_equal_single_steps(case):
    ours, plain = Setup(*CASES[case], "cuda"), Setup(*CASES[case], "cuda")
    for updates, newest in ((1, 34), (0, 40), (27, 41), (16, 50)):
        ours.graph_updates.learn(updates)
        plain.loop(updates)
        assert difference(ours.state(), plain.state()) < 1e-4
        for setup in (ours, plain):
            setup.add(4, newest)
    delay = ours.update.policy_delay
    assert [each.count for each in ours.graph_updates._plan] == [16, 4, *[1] * delay], "not recorded"


@pytest.mark.gpu
def test_recording_changes_nothing():
    setup = Setup(device="cuda")
    setup.loop(2)
    before = setup.state()
    setup.graph_updates.learn(0)
    assert len(setup.graph_updates._plan) == 3
    assert difference(setup.state(), before) == 0


@pytest.mark.gpu
def test_graphs_honour_a_state_that_is_set_later():
    ours, plain = Setup(device="cuda"), Setup(device="cuda")
    for setup in (ours, plain):
        setup.graph_updates.learn(5)
    saved = {name: tensor.clone() for name, tensor in plain.update.state().items()}
    generators = [generator.get_state() for generator in plain.update.generators]
    ours.graph_updates.learn(20)
    for name, tensor in ours.update.state().items():
        tensor.copy_(saved[name])
    for generator, state in zip(ours.update.generators, generators, strict=True):
        generator.set_state(state)
    for setup in (ours, plain):
        setup.metrics.zero_()
        setup.graph_updates.learn(23)
    assert difference(ours.state(), plain.state()) < 1e-4


@pytest.mark.gpu
def test_a_recording_that_fails_is_one_warning_and_no_more(monkeypatch, caplog):
    ours, plain = Setup(device="cuda"), Setup(device="cuda")
    record = ours.graph_updates._step

    def synchronising():
        record()
        torch.cuda.synchronize()  # forbidden while recording

    monkeypatch.setattr(ours.graph_updates, "_step", synchronising)
    with caplog.at_level(logging.WARNING):
        ours.graph_updates.learn(3)
    monkeypatch.undo()
    plain.loop(3)
    assert len(caplog.records) == 1 and "without CUDA graphs" in caplog.text
    assert difference(ours.state(), plain.state()) < 1e-4
