import pytest

from distributed_maddpg.envs.make import is_builtin


@pytest.mark.parametrize(
    "env_id",
    [
        "simple_adversary",
        "mpe2.simple_tag_v3",
        "mpe2.simple_adversary_v3",
        "pettingzoo.butterfly.pistonball_v6",
    ],
)
def test_environments_of_known_packages_are_builtin(env_id):
    assert is_builtin(env_id)


@pytest.mark.parametrize(
    "env_id",
    [
        "",
        "os:system",
        "os",
        "mpe2",
        "mpe2.",
        "mpe2..simple_tag_v3",
        "mpe2.simple_tag_v3:parallel_env",
        "mpe2.simple_tag_v3\n",
        "mpe2.simple tag",
        "mpe2.__main__",
        "mpe2._mpe_utils.core",
        "mpe2x.simple_tag_v3",
        ".mpe2.simple_tag_v3",
        "mpe2/simple_tag_v3",
        "pettingzoo.test.é",
        "tests.support.target:parallel_env",
        "simple_adversary:x",
        "mpe2.py",
        "pettingzoo.butterfly.py",
        "mpe2.py:parallel_env",
        "./mpe2.py:make",
        "simple_adversary.py",
        "/tmp/my_env.py",
    ],
)
def test_every_other_environment_is_not_built_in(env_id):
    assert not is_builtin(env_id)
