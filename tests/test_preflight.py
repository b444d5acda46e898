import re
import time
from pathlib import Path

import pytest

from distributed_maddpg import preflight
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.preflight import check, check_environment_allowed, check_environment_runs
from tests.checkpoint.samples import make
from tests.support.counting import CountingEnv
from tests.support.faulty import FaultyEnv


def config(**values):
    return MADDPGConfig.from_dict({"num_workers": 0, **values}, MADDPGConfig.preset("default"))


def test_a_valid_configuration_gives_the_environments_spec():
    spec = check(config(env={"kwargs": {"N": 3}}))
    assert spec.agents == ("adversary_0", "agent_0", "agent_1", "agent_2")
    assert spec.observation_sizes == (12, 14, 14, 14)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"env": {"id": "nowhere.env"}}, "env.id = 'nowhere.env': there is no package 'nowhere' here"),
        ({"env": {"kwargs": {"N": 0}}}, "N = 0"),
        ({"env": {"kwargs": {"max_cycle": 3}}}, "max_cycle"),
        ({"env": {"id": "tests.support.counting", "backend": "vectorized"}}, "env.backend = 'vectorized'"),
        ({"algorithm": {"team_overrides": {"agents": "ddpg"}}}, "did you mean 'agent'?"),
        (
            {"algorithm": {"private": {"agnt": {"columns": [0, 2], "candidates": [[2, 4], [4, 6]]}}}},
            "algorithm.private = 'agnt': did you mean 'agent'?",
        ),
        (
            {"algorithm": {"private": {"agent": {"columns": [0, 2], "candidates": [[2, 4], [90, 92]]}}}},
            "algorithm.private.agent = (90, 92): observations have 10 columns",
        ),
        (
            {"algorithm": {"private": {"agent": {"columns": [9, 11], "constants": [[0, 1], [1, 0]]}}}},
            "algorithm.private.agent = (9, 11): observations have 10 columns",
        ),
        (
            {"algorithm": {"private_values": "mean"}, "env": {"kwargs": {"num_landmark_neighbors": 2}}},
            "algorithm.private_values = 'mean': the agents observe the candidates in different orders or",
        ),
        (
            {
                "algorithm": {
                    "private_values": "mean",
                    "private": {"agent": {"columns": [0, 2], "candidates": [[2, 4], [4, 6]]}},
                },
                "env": {"kwargs": {"num_landmark_neighbors": 2}},
            },
            "algorithm.private_values = 'mean': the agents observe the candidates in different orders or",
        ),
        (
            {
                "algorithm": {
                    "private_values": "mean",
                    "private": {"adversary": {"columns": [0, 2], "candidates": [[2, 4], [4, 6]]}},
                }
            },
            "algorithm.private_values = 'mean': agents of several teams have private parts; use observed",
        ),
        (
            {
                "algorithm": {
                    "private_values": "mean",
                    "private": {"comer": {"columns": [0, 1], "constants": [[0.0], [1.0]]}},
                },
                "env": {"id": "tests.support.coming:parallel_env"},
            },
            "algorithm.private_values = 'mean': has no constants where agents may be absent; use observed",
        ),
        ({"exploration": {"kind": "gaussian"}}, "exploration.kind = 'gaussian': needs a sigmoid policy head"),
    ],
)
def test_settings_that_do_not_fit_the_environment_are_refused_in_one_line(values, message):
    with pytest.raises(BadInput) as error:
        check(config(**values))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_replay_buffer_larger_than_memory_is_refused_with_a_size_that_fits(monkeypatch):
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 2**30)
    networks = 3 * (5_189 + 7_041) * 5 * 4  # parameters of policy and critic; float32
    fits = int(0.8 * (2**30 - networks)) // (77 * 4)
    with pytest.raises(BadInput, match=f"has 1.0 GiB beside the networks; at most {fits} is reasonable"):
        check(config(replay={"capacity": 2**30 // (77 * 4) + 1}))
    check(config(replay={"capacity": fits}))


def test_networks_larger_than_memory_are_refused_with_their_size(monkeypatch):
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 2**30)
    large = config(algorithm={"critic_hidden_sizes": [8000, 8000]}, replay={"capacity": 20_000})
    critic = 44 * 8000 + 8001 * 8000 + 8001  # 43 observations and actions of all agents
    policy = 11 * 64 + 65 * 64 + 65 * 5
    gib = 3 * (critic + policy) * 5 * 4 / 2**30
    message = rf"critic_hidden_sizes = \(8000, 8000\): with .*\(64, 64\) needs {gib:.1f} GiB, this .* 1.0 GiB"
    with pytest.raises(BadInput, match=message):
        check(large)
    check(config(algorithm={"critic_hidden_sizes": [2000, 2000]}, replay={"capacity": 20_000}))


def test_values_of_all_candidates_larger_than_memory_are_refused_with_their_size(monkeypatch):
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 2**30)
    # Three agents, two candidates, hidden layers and their gradients; float32.
    rows = 2**30 // (3 * 2 * 128 * 2 * 4)
    settings = {"algorithm": {"private_values": "mean"}, "replay": {"capacity": 400_000}}
    gib = rows * 3 * 2 * 128 * 2 * 4 / 2**30
    message = (
        rf"learner.batch_size = {rows}: with algorithm.private_values = 'mean' needs {gib:.1f} GiB, this "
        r"machine has 1.0 GiB beside the networks; lower it or use observed"
    )
    with pytest.raises(BadInput, match=message):
        check(config(**settings, learner={"batch_size": rows}))
    check(config(**settings, learner={"batch_size": rows // 2}))


@pytest.mark.parametrize(("text", "limit"), [("1048576\n", 1048576), ("max\n", None), ("9" * 30, None)])
def test_the_memory_limit_of_the_container_counts_if_it_is_lower(text, limit, tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(preflight, "_CGROUP_LIMITS", (str(tmp_path / "none"), str(tmp_path / "memory.max")))
    machine = preflight.os.sysconf("SC_PHYS_PAGES") * preflight.os.sysconf("SC_PAGE_SIZE")
    assert preflight.memory_bytes() == (limit or machine)


class Broken(CountingEnv):
    def step(self, actions):
        raise RuntimeError("boom\nat the first step")


class ObservationsOnly(CountingEnv):
    def reset(self, seed=None, options=None):
        return super().reset(seed, options)[0]


class Unseeded(CountingEnv):
    def reset(self):
        return super().reset()


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            Broken,
            "= 'factory:mine': fails when it is stepped (RuntimeError: boom at the first step, in copy 0 at "
            "step 1 of its episode)",
        ),
        (ObservationsOnly, "'factory:ObservationsOnly': its reset must return (observations, infos)"),
        (Unseeded, "'factory:Unseeded': its reset needs a seed: def reset(self, seed=None, options=None)"),
        (lambda: FaultyEnv("reward", at=1, for_ever=True), "rewards are [nan"),
        (lambda: FaultyEnv("next observation", at=1, for_ever=True), "observation of counter_0 in copy 0"),
    ],
)
def test_an_environment_that_never_works_is_refused_before_the_start(env, message):
    with pytest.raises(BadInput) as error:
        check_environment_runs(config(env={"id": "factory:mine"}), env)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def check_with(timeout_s=60.0, **methods):
    settings = {"env": {"id": "factory:mine"}, "algorithm": {"policy_head": "auto"}}
    return check(config(ray={"timeout_s": timeout_s}, **settings), type("Changed", (CountingEnv,), methods))


def raising(error):
    def call(*args, **kwargs):
        raise error

    return call


class Stop(BaseException):
    pass


class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"__init__": raising(Stop("now"))}, "created, reset for the first time or closed (Stop: now)"),
        ({"close": raising(OSError("busy"))}, "created, reset for the first time or closed (OSError: busy)"),
        (
            {"observation_space": raising(KeyError("x"))},
            "created, reset for the first time or closed (KeyError: 'x')",
        ),
        (
            {"action_space": None},
            "created, reset for the first time or closed (TypeError: 'NoneType' object is not callable)",
        ),
        ({"reset": raising(GeneratorExit("early"))}, "reset (GeneratorExit: early)"),
        ({"reset": raising(SystemExit(5))}, "reset (SystemExit: 5)"),
        (
            {"step": raising(Mute())},
            "stepped (Mute: its message raises ValueError, in copy 0 at step 1 of its episode)",
        ),
    ],
)
def test_whatever_an_environment_raises_is_one_line_that_says_when(methods, message):
    with pytest.raises(BadInput) as error:
        check_with(**methods)
    assert str(error.value) == f"env.id = 'factory:mine': fails when it is {message}"


def test_whatever_a_module_raises_when_it_is_imported_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "stops_at_import.py").write_text("raise GeneratorExit('early')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match=r"'stops_at_import': fails when .* \(GeneratorExit: early\)"):
        check(config(env={"id": "stops_at_import"}))


def test_an_interrupt_stays_one(monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        check_with(reset=raising(KeyboardInterrupt()))
    monkeypatch.setattr(preflight, "make_vector_env", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        check(config())


@pytest.mark.parametrize(
    ("method", "when"),
    [
        ("__init__", "created, reset for the first time or closed"),
        ("close", "created, reset for the first time or closed"),
        ("reset", "created, reset for the first time or closed"),
        ("step", "stepped"),
    ],
)
def test_an_environment_that_hangs_is_refused_after_the_timeout(method, when):
    message = rf"= 'factory:mine': took more than 0.5 s \(ray.timeout_s\) when it was {when}$"
    with pytest.raises(BadInput, match=message):
        check_with(0.5, **{method: lambda *args, **kwargs: time.sleep(3600)})


def test_a_timeout_longer_than_any_thread_can_wait_is_no_error():
    assert check_with(9e14).agents == ("counter_0", "counter_1")


def test_a_callable_that_always_returns_the_same_environment_is_refused_before_the_start():
    same = CountingEnv()
    with pytest.raises(BadInput, match="returns the same environment twice"):
        check_environment_runs(config(env={"id": "factory:mine"}), lambda: same)


def test_an_environment_that_is_sometimes_not_finite_passes():
    check_environment_runs(config(env={"id": "factory:mine"}), lambda: FaultyEnv(part="reward", at=3))


@pytest.mark.parametrize("env_id", ["./my_env.py:make", "mpe2.py", "pettingzoo.butterfly.py"])
def test_a_file_that_only_a_checkpoint_names_is_not_run(env_id):
    checkpoint = make(config=config(env={"id": env_id}))
    with pytest.raises(CheckpointError, match=r"which a file alone must not decide; .* --env\.id"):
        check_environment_allowed(checkpoint, "")
    check_environment_allowed(checkpoint, env_id)


# 64 x 4 env steps a fragment; the tolerance of 128 updates is 12,800 env steps, of 1,024 it is 102,400.
@pytest.mark.parametrize(
    ("num_workers", "tolerance", "line"),
    [
        (50, 128, ""),
        (51, 128, "num_workers = 51: pacing lets 50 fragments .*tolerance_updates to 131 or more"),
        (500, 128, "num_workers = 500: pacing lets 50 fragments .*tolerance_updates to 256 or more"),
        (100, 1_024, ""),
        (101, 1_024, "num_workers = 101: about 100 saturate the replay buffer's process"),
    ],
)
def test_more_workers_than_the_design_carries_get_a_line_that_names_the_bottleneck(
    caplog, num_workers, tolerance, line
):
    changes = {"num_workers": num_workers, "pacing": {"tolerance_updates": tolerance}}
    check(MADDPGConfig.from_dict(changes, MADDPGConfig.preset("paper")))
    assert len(caplog.messages) == bool(line)
    assert all(re.search(f"^{line}.*see docs/scaling.md$", message) for message in caplog.messages)


def test_lock_step_has_other_limits(caplog):
    changes = {"num_workers": 500, "sync": True}
    check(MADDPGConfig.from_dict(changes, MADDPGConfig.preset("paper")))
    assert not caplog.messages


def test_the_document_on_scaling_states_how_many_workers_are_carried():
    text = (Path(__file__).parent.parent / "docs/scaling.md").read_text(encoding="utf-8")
    assert f"more than {preflight.MOST_WORKERS} workers" in text
