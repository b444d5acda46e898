import subprocess
import sys

import numpy as np
import pytest
from mpe2 import simple_spread_v3
from pettingzoo.utils.conversions import parallel_wrapper_fn

from distributed_maddpg.envs import action_codecs, env_spec, make_vector_env
from distributed_maddpg.envs.mpe.mpe2_env import MPE2VectorEnv
from distributed_maddpg.envs.mpe.vector_env import MPEVectorEnv
from distributed_maddpg.envs.pettingzoo import PettingZooVectorEnv
from distributed_maddpg.errors import BadInput
from distributed_maddpg.types import MPE2_MODULES


@pytest.mark.parametrize("env_id", ["simple_adversary", "simple_adversary_v3", "mpe2.simple_adversary_v3"])
@pytest.mark.parametrize(
    ("backend", "kind"),
    [("auto", MPEVectorEnv), ("vectorized", MPEVectorEnv), ("pettingzoo", MPE2VectorEnv)],
)
def test_simple_adversary_by_any_name_and_any_backend(env_id, backend, kind):
    env = make_vector_env(env_id, 2, 0, backend=backend, N=3)
    assert type(env) is kind
    assert len(env.agents) == 4


def test_a_module_and_a_callable_of_a_module_can_be_named():
    for env_id in ("tests.support.counting", "tests.support.counting:CountingEnv"):
        env = make_vector_env(env_id, 2, 0, num_agents=3)
        assert type(env) is PettingZooVectorEnv
        assert env.reset()[2].tolist() == [[2e6] * 3] * 2


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("name", ["simple_adversary", "simple_speaker_listener"])
def test_actions_of_a_compiled_scenario_are_those_of_mpe2(name, continuous):
    kwargs = {"continuous_actions": continuous}
    compiled, original = (action_codecs(name, backend, kwargs) for backend in ("vectorized", "pettingzoo"))
    assert [codec.space for codec in compiled] == [codec.space for codec in original]
    assert [codec.agent for codec in compiled] == [codec.agent for codec in original]


@pytest.mark.parametrize("name", MPE2_MODULES)
def test_every_scenario_is_compiled_and_described_as_mpe2_does(name):
    for kwargs in ({}, {"continuous_actions": True}):
        compiled, original = (
            make_vector_env(name, 1, 0, backend=b, **kwargs) for b in ("auto", "pettingzoo")
        )
        assert type(compiled) is MPEVectorEnv
        assert compiled.spec == original.spec


def test_a_keyword_that_only_mpe2_knows_takes_its_own_environment_and_says_so(caplog, monkeypatch):
    env = make_vector_env("simple_tag", 1, 0, render_mode="rgb_array")
    assert type(env) is MPE2VectorEnv
    assert "env.kwargs.render_mode is not for the compiled simple_tag: MPE2 steps it" in caplog.text

    class NewEnv(simple_spread_v3.raw_env):
        def __init__(self, wind=0.0, **kwargs):
            super().__init__(**kwargs)

    monkeypatch.setattr(simple_spread_v3, "raw_env", NewEnv)
    monkeypatch.setattr(
        simple_spread_v3, "parallel_env", parallel_wrapper_fn(lambda **kwargs: NewEnv(**kwargs))
    )
    assert type(make_vector_env("simple_spread", 1, 0, wind=1.0)) is PettingZooVectorEnv
    assert "env.kwargs.wind is not known to the compiled simple_spread" in caplog.text
    with pytest.raises(BadInput, match="simple_spread has no such keyword"):
        make_vector_env("simple_spread", 1, 0, wind=1.0, storm=1.0)


def test_env_spec_needs_one_copy_only():
    spec = env_spec("simple_adversary", "auto", {"N": 3, "continuous_actions": True})
    assert spec.observation_sizes == (12, 14, 14, 14)
    assert spec.action_types == ("continuous",) * 4
    assert env_spec("tests.support.counting", "auto", {}).observation_sizes == (1, 2)


def refused_environment(**kwargs):
    raise AssertionError("two\nlines")


def unfit_environment():
    raise KeyError("no_such")


HERE = "tests.envs.test_make"


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        (
            "simple_adversry",
            {},
            "env.id = 'simple_adversry': there is no such environment, did you mean 'simple_adversary'?",
        ),
        (
            "simple_spread_v2",
            {},
            "env.id = 'simple_spread_v2': there is no such environment, did you mean 'simple_spread'?",
        ),
        (
            "mpe2.simple_sprad_v3",
            {},
            "env.id = 'mpe2.simple_sprad_v3': there is no such environment, "
            "did you mean 'mpe2.simple_spread_v3'?",
        ),
        (
            "no_such_package.env_v1",
            {},
            "env.id = 'no_such_package.env_v1': there is no package 'no_such_package' here; "
            "install it, or check the name",
        ),
        (
            "math",
            {},
            "env.id = 'math': module 'math' has no callable 'parallel_env' or 'env'; "
            "name one as 'package.module:callable'",
        ),
        (
            "tests.support.counting:count",
            {},
            "env.id = 'tests.support.counting:count': module 'tests.support.counting' has no callable "
            "'count'; name one as 'package.module:callable'",
        ),
        (
            ".envs",
            {},
            "env.id = '.envs': must be a scenario of MPE2, 'package.module', 'package.module:callable' or "
            "'path/to/file.py'",
        ),
        (
            ":x",
            {},
            "env.id = ':x': must be a scenario of MPE2, 'package.module', 'package.module:callable' or "
            "'path/to/file.py'",
        ),
        (
            "tests.support.counting",
            {"zzz": 3},
            "env.id = 'tests.support.counting': cannot be created with env.kwargs = {'zzz': 3} (TypeError: "
            "CountingEnv.__init__() got an unexpected keyword argument 'zzz')",
        ),
        (
            f"{HERE}:refused_environment",
            {},
            f"env.id = '{HERE}:refused_environment': cannot be created (AssertionError: two lines)",
        ),
        (
            "simple_adversary",
            {"backend": "numpy"},
            "env.backend = 'numpy': must be one of auto, vectorized, pettingzoo",
        ),
        (
            "tests.support.counting",
            {"backend": "vectorized"},
            "env.backend = 'vectorized': only simple, simple_adversary, simple_crypto, simple_formation, "
            "simple_line, simple_push, simple_reference, simple_speaker_listener, simple_spread, simple_tag, "
            "simple_world_comm, collect_treasure are compiled, not 'tests.support.counting'; use 'auto' or "
            "'pettingzoo'",
        ),
        (
            "simple_adversary",
            {"max_cycle": 5},
            "env.kwargs.max_cycle = 5: simple_adversary has no such keyword, did you mean 'max_cycles'?",
        ),
        (
            "simple_adversary",
            {"backend": "pettingzoo", "N": 0},
            "env.kwargs.N = 0: must be a whole number, at least 1",
        ),
    ],
)
def test_bad_input_is_one_clear_line(env_id, kwargs, message):
    with pytest.raises(BadInput) as caught:
        make_vector_env(env_id, 1, 0, **kwargs)
    assert str(caught.value) == message
    assert "\n" not in message


@pytest.mark.parametrize("num_envs", [0, -1, 1.5, True])
def test_number_of_copies_must_be_positive_and_whole(num_envs):
    with pytest.raises(BadInput, match=r"num_envs = .*: must be a whole number, at least 1"):
        make_vector_env("simple_adversary", num_envs, 0)


def test_a_module_that_fails_while_imported_is_bad_input(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import no_such_dependency\n")
    (tmp_path / "broken_env.py").write_text("raise OSError('no display')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match="its module needs 'no_such_dependency', which is not installed"):
        make_vector_env("needs_more", 1, 0)
    with pytest.raises(BadInput, match=r"its module cannot be imported \(OSError: no display\)"):
        make_vector_env("broken_env", 1, 0)


def test_pettingzoo_makes_the_same_run_for_the_same_seed():
    runs = []
    for seed in (1, 1, 2):
        env = make_vector_env("mpe2.simple_spread_v3", 2, seed, backend="pettingzoo")
        runs.append(np.concatenate([array.ravel() for array in env.reset()]))
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def modules_loaded_by(code):
    script = f"import sys; {code}; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_environment():
    loaded = modules_loaded_by("import distributed_maddpg.envs")
    assert not loaded & {"torch", "ray", "mpe2", "pygame", "gymnasium", "pettingzoo", "numba"}


def test_the_kernel_needs_no_mpe2_and_mpe2_prints_nothing():
    make = "from distributed_maddpg.envs import make_vector_env; make_vector_env('simple_adversary', 1, 0"
    assert not modules_loaded_by(f"{make})") & {"torch", "ray", "mpe2", "pygame", "gymnasium"}
    loaded = modules_loaded_by(f"{make}, backend='pettingzoo')")
    assert "pygame" in loaded
    assert "Hello" not in loaded  # pygame's greeting on stdout


def test_a_module_without_parallel_env_gives_its_env(tmp_path, monkeypatch):
    (tmp_path / "only_aec.py").write_text("from mpe2.simple_spread_v3 import env\n")
    takes_turns = "from pettingzoo import AECEnv\nclass env(AECEnv):\n    metadata = {}\n"
    (tmp_path / "takes_turns.py").write_text(takes_turns)
    monkeypatch.syspath_prepend(tmp_path)
    env = make_vector_env("only_aec", 1, 0, N=2)
    assert env.agents == ("agent_0", "agent_1")
    with pytest.raises(BadInput, match="the environment has no possible_agents"):
        make_vector_env("takes_turns", 1, 0)
