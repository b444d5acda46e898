import subprocess
import sys
from pathlib import Path

import pytest

import distributed_maddpg
from distributed_maddpg import cli

NUMPY_ONLY = [
    "distributed_maddpg.rollout",
    "distributed_maddpg.replay.buffer",
    "distributed_maddpg.evaluation.matchups",
    "distributed_maddpg.pacing",
    "distributed_maddpg.checkpoint.saver",
    "distributed_maddpg.metrics",
    "distributed_maddpg.acting.joint_policy",
    "distributed_maddpg.envs",
    "distributed_maddpg.config",
    "distributed_maddpg.run.folder",
    "distributed_maddpg.preflight",
    *(f"distributed_maddpg.cli.{path.stem}" for path in Path(cli.__file__).parent.glob("*.py")),
]


def loaded_after(statements):
    """Return the top-level modules that a fresh interpreter has loaded after `statements`."""
    script = f"{statements}\nimport sys\nprint(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_stages_that_act_load_neither_torch_nor_ray():
    assert not loaded_after(f"import {', '.join(NUMPY_ONLY)}") & {"torch", "ray"}


def test_the_package_itself_loads_no_large_library():
    loaded = loaded_after("import distributed_maddpg\nprint(distributed_maddpg.__version__)")
    assert not loaded & {"torch", "ray", "numpy", "numba", "pydantic", "tyro", "rich", "plotly", "pettingzoo"}


def test_the_command_line_loads_only_what_help_needs():
    loaded = loaded_after("from distributed_maddpg.cli import main\nmain(['--version'])")
    assert not loaded & {"torch", "ray", "numba", "plotly", "tensorboardX", "pettingzoo"}


def test_the_help_of_no_command_loads_a_large_library():
    loaded = loaded_after(
        "import contextlib, io\n"
        "from distributed_maddpg.cli import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main([command, '--help'])\n"
    )
    assert not loaded & {"torch", "ray", "numba", "plotly", "tensorboardX", "pettingzoo"}


@pytest.mark.parametrize("module", ["rollout", "runtime.actors"])
def test_a_rollout_worker_does_not_load_pydantic(module):
    loaded = loaded_after(f"import distributed_maddpg.{module}")
    assert not loaded & {"pydantic", "tyro", "rich", "pettingzoo"}


def test_algorithm_and_learner_do_not_load_ray_or_environments():
    assert not loaded_after("import distributed_maddpg.learner") & {"ray", "mpe2", "pettingzoo"}


def test_training_without_workers_does_not_load_ray():
    loaded = loaded_after(
        "from tests.support.target import target_config\n"
        "from distributed_maddpg import MADDPG\n"
        "pacing = {'total_env_steps': 400, 'report_interval_env_steps': 400}\n"
        "with MADDPG(target_config(pacing=pacing)) as algo:\n"
        "    algo.train()\n"
        "    assert algo.updates > 0\n"
    )
    assert "torch" in loaded
    assert "ray" not in loaded


def test_the_public_names_are_importable():
    assert distributed_maddpg.__all__ == ["MADDPG", "Callbacks", "MADDPGConfig", "__version__"]
    assert distributed_maddpg.Callbacks.__module__ == "distributed_maddpg.run.callbacks"
    assert distributed_maddpg.MADDPG.__module__ == "distributed_maddpg.trainer"
    assert distributed_maddpg.MADDPGConfig is distributed_maddpg.config.MADDPGConfig


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'distributed_maddpg' has no attribute 'MADDPC'"):
        _ = distributed_maddpg.MADDPC
