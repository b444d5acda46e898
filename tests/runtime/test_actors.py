"""The shells carry values from process to process unchanged, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.preflight import check
from distributed_maddpg.types import EnvSpec
from tests.support.target import target_config

ray = pytest.importorskip("ray")
from distributed_maddpg.runtime import actors  # noqa: E402
from distributed_maddpg.runtime.cluster import Processes, start_processes  # noqa: E402
from tests.support.processes import modules, pid  # noqa: E402

pytestmark = pytest.mark.ray

_ENVS, _STEPS, _CYCLES = 3, 4, 5


def _config() -> MADDPGConfig:
    return MADDPGConfig.from_dict(
        {
            "num_workers": 2,
            "env": {"id": "tests.support.counting:parallel_env", "kwargs": {"max_cycles": _CYCLES}},
            "rollout": {"num_envs": _ENVS, "fragment_steps": _STEPS},
            "algorithm": {"policy_head": "auto", "n_step": 1},
            "exploration": {"kind": "auto", "start": 1.0, "end": 1.0},
            "learner": {"batch_size": 16},
        },
        target_config(),
    )


@pytest.fixture(scope="module")
def spec() -> EnvSpec:
    return check(_config())


@pytest.fixture(scope="module")
def processes(ray_cluster: None, spec: EnvSpec) -> Iterator[Processes]:
    started = start_processes([_config()], spec)
    for actor in (started.learner, *started.workers):
        _get(actor.connect.remote(started.replay))
    yield started
    started.end_all()


def _get(call: Any) -> Any:
    return ray.get(call, timeout=300)


def test_a_workers_transitions_reach_replay_by_value(processes: Processes, spec: EnvSpec) -> None:
    before = _get(processes.replay.size.remote())
    [report] = _get(processes.workers[0].collect.remote(5, 0))
    assert report.env_steps == 5 * _ENVS * _STEPS == _get(processes.replay.size.remote()) - before
    rows = _get(processes.replay.sample.remote(4, 64)).reshape(-1, spec.transitions.width)
    t = rows[:, spec.transitions.obs[0]][:, 0] % 1000
    episode = rows[:, spec.transitions.obs[0]][:, 0] // 1000
    assert set(t) == set(range(_CYCLES)), "every step of an episode was stored"
    for agent in range(spec.num_agents):
        value = (t + 1000 * episode + 1_000_000 * agent)[:, None]
        np.testing.assert_array_equal(
            rows[:, spec.transitions.obs[agent]], np.repeat(value, agent + 1, axis=1)
        )
        np.testing.assert_array_equal(
            rows[:, spec.transitions.next_obs[agent]], np.repeat(value + 1, agent + 1, axis=1)
        )
    np.testing.assert_array_equal(rows[:, spec.transitions.rewards], np.stack([t + 1, t + 1], axis=1))


def test_a_report_counts_the_episodes_that_ended(processes: Processes) -> None:
    [report] = _get(processes.workers[1].collect.remote(10, 0))
    assert len(report.episodes.lengths) == _ENVS * (10 * _STEPS // _CYCLES)
    assert set(report.episodes.lengths) == {_CYCLES}
    assert set(report.episodes.returns.ravel()) == {_CYCLES * (_CYCLES + 1) / 2}


def test_a_worker_says_how_long_it_was_blocked_and_by_what(processes: Processes) -> None:
    [report] = _get(processes.workers[0].collect.remote(5, 0))
    assert report.busy_s > 0 and report.blocked_push_s > 0 and report.blocked_pacing_s > 0


@pytest.mark.parametrize("size", ["small", "large"])
def test_weights_are_pulled_when_a_push_reports_a_newer_version(processes: Processes, size: str) -> None:
    learner, worker = processes.learner, processes.workers[0]
    limit = 0 if size == "large" else 1 << 20
    _get(processes.replay.__ray_call__.remote(_set_limit_of_direct_weights, limit))
    _get(worker.collect.remote(4, 0))
    before = _get(learner.weights.remote(0)).updates
    learnt = _get(learner.learn.remote(3, True))
    [report] = _get(worker.collect.remote(1, 0))
    assert report.weights_version == learnt.weights_version - 1, "collected before the push said so"
    weights = _get(learner.weights.remote(0))
    version, policies = _get(worker.__ray_call__.remote(_acting_weights))
    assert version == weights.version == learnt.weights_version
    np.testing.assert_array_equal(policies, weights.policies)
    assert weights.updates == before + learnt.updates


def _set_limit_of_direct_weights(_: Any, size: int) -> None:
    actors._SENT_DIRECTLY_BYTES = size


def _acting_weights(actor: Any) -> tuple[int, Any]:
    """Return version and policies `[N, P]` that a worker acts with; runs in its process."""
    worker = actor._runs[0]
    layers = worker._policies._policy._layers
    parts = [part.reshape(len(part), -1) for layer in layers for part in layer]
    return worker.weights_version, np.concatenate(parts, axis=1)


def test_weights_that_are_not_published_stay_with_the_learner(processes: Processes) -> None:
    version = _get(processes.learner.weights.remote(0)).version
    assert _get(processes.learner.learn.remote(2, False)).weights_version == version
    _get(processes.workers[0].refresh_weights.remote())
    assert _get(processes.workers[0].__ray_call__.remote(_acting_weights))[0] == version


def test_the_learner_samples_the_memory_that_the_replay_buffer_writes(processes: Processes) -> None:
    def look(actor: Any) -> tuple[int, int]:
        return actor._shared[0].inserted, len(actor._draw(2)[0].index) // 2

    inserted, batch_size = _get(processes.learner.__ray_call__.remote(look))
    assert inserted == _get(processes.replay.size.remote()) > 0
    assert batch_size == 16


def test_a_learner_that_draws_itself_follows_the_memory_that_the_replay_buffer_writes(
    processes: Processes,
) -> None:
    def learn(actor: Any) -> tuple[int, int]:
        kind = type(actor._learner)
        samples_on_device, kind.samples_on_device = kind.samples_on_device, True
        try:
            actor.learn(3, False)
        finally:
            kind.samples_on_device = samples_on_device
        return actor._learner._device_replays[0].inserted[0], actor._shared[0].inserted

    before = _get(processes.learner.weights.remote(0)).updates
    mirrored, inserted = _get(processes.learner.__ray_call__.remote(learn))
    assert mirrored == inserted > 0
    assert _get(processes.learner.weights.remote(0)).updates == before + 3


def test_without_shared_memory_learner_and_replay_agree_on_the_minibatches(processes: Processes) -> None:
    def part(actor: Any) -> None:
        actor._shared = []

    _get(processes.learner.__ray_call__.remote(part))
    sample = _get(processes.replay.sample.remote(3, 16))
    assert sample.shape[:3] == (1, 3, 16) and sample.dtype == np.float32
    for updates in (2, 2, 2, 3, 1):  # with and without a prefetched answer of the right length
        assert _get(processes.learner.learn.remote(updates, False)).updates == updates
    assert np.isfinite(_get(processes.learner.metrics.remote())[0]["critic_loss"]).all()


def test_only_the_learner_loads_torch(processes: Processes) -> None:
    for actor in (*processes.workers, processes.replay, processes.evaluator):
        assert "torch" not in modules(actor)
    assert "torch" in modules(processes.learner)


def test_replay_runs_on_the_learners_node(processes: Processes) -> None:
    locations = [_get(actor.location.remote()) for actor in (processes.learner, processes.replay)]
    assert locations[0].node == locations[1].node
    assert [place.pid for place in locations] == [pid(processes.learner), pid(processes.replay)]
