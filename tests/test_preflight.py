import pytest

from distributed_maddpg import preflight
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput
from distributed_maddpg.preflight import check, check_environment_runs
from tests.support.counting import CountingEnv
from tests.support.failing import FailingEnv
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
        ({"env": {"id": "mpe2.simple_tag_v3", "backend": "vectorized"}}, "env.backend = 'vectorized'"),
        ({"algorithm": {"team_overrides": {"agents": "ddpg"}}}, "did you mean 'agent'?"),
        ({"exploration": {"kind": "gaussian"}}, "exploration.kind = 'gaussian': needs a sigmoid policy head"),
    ],
)
def test_settings_that_do_not_fit_the_environment_are_refused_in_one_line(values, message):
    with pytest.raises(BadInput) as error:
        check(config(**values))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_replay_buffer_larger_than_memory_is_refused_with_a_size_that_fits(monkeypatch):
    monkeypatch.setattr(preflight, "_memory_bytes", lambda: 2**30)
    networks = 3 * (5_189 + 7_041) * 5 * 4  # parameters of policy and critic; float32
    fits = int(0.8 * (2**30 - networks)) // (77 * 4)
    with pytest.raises(BadInput, match=f"has 1.0 GiB beside the networks; at most {fits} is reasonable"):
        check(config(replay={"capacity": 2**30 // (77 * 4) + 1}))
    check(config(replay={"capacity": fits}))


def test_networks_larger_than_memory_are_refused_with_their_size(monkeypatch):
    monkeypatch.setattr(preflight, "_memory_bytes", lambda: 2**30)
    large = config(algorithm={"critic_hidden_sizes": [8000, 8000]}, replay={"capacity": 20_000})
    critic = 44 * 8000 + 8001 * 8000 + 8001  # 43 observations and actions of all agents
    policy = 11 * 64 + 65 * 64 + 65 * 5
    gib = 3 * (critic + policy) * 5 * 4 / 2**30
    message = rf"critic_hidden_sizes = \(8000, 8000\): with .*\(64, 64\) needs {gib:.1f} GiB, this .* 1.0 GiB"
    with pytest.raises(BadInput, match=message):
        check(large)
    check(config(algorithm={"critic_hidden_sizes": [2000, 2000]}, replay={"capacity": 20_000}))


@pytest.mark.parametrize(("text", "limit"), [("1048576\n", 1048576), ("max\n", None), ("9" * 30, None)])
def test_the_memory_limit_of_the_container_counts_if_it_is_lower(text, limit, tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(preflight, "_CGROUP_LIMITS", (str(tmp_path / "none"), str(tmp_path / "memory.max")))
    machine = preflight.os.sysconf("SC_PHYS_PAGES") * preflight.os.sysconf("SC_PAGE_SIZE")
    assert preflight._memory_bytes() == (limit or machine)


class Broken(CountingEnv):
    def step(self, actions):
        raise RuntimeError("boom\nat the first step")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Broken, "= 'factory:mine': fails when it is stepped (RuntimeError: boom at the first step)"),
        (lambda: FaultyEnv("reward", at=1, for_ever=True), "rewards are [nan"),
        (lambda: FaultyEnv("next observation", at=1, for_ever=True), "observation of counter_0 in copy 0"),
    ],
)
def test_an_environment_that_never_works_is_refused_before_the_start(env, message):
    with pytest.raises(BadInput) as error:
        check_environment_runs(config(env={"id": "factory:mine"}), env)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_environment_that_hangs_is_refused_after_the_timeout():
    hanging = config(env={"id": "factory:mine"}, num_workers=1, ray={"timeout_s": 0.2})
    message = r"'factory:mine': took more than 0.2 s \(ray.timeout_s\) for its first"
    with pytest.raises(BadInput, match=message):
        check_environment_runs(hanging, lambda: FailingEnv(how="sleep"))


def test_an_environment_that_is_sometimes_not_finite_passes():
    check_environment_runs(config(env={"id": "factory:mine"}), lambda: FaultyEnv(part="reward", at=3))
