"""The cluster launcher's files by Ray's own schema, and the commands in them by Ray's own options."""

from __future__ import annotations

import re
import shlex
from typing import Any

import click
import jsonschema
import pytest

pytest.importorskip("ray")
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts import scripts

from tests.support.cluster_files import misspelt, read, strings

_FILES = ("aws.yaml", "onpremise.yaml")
# Ray's schema accepts any key below `provider` and `node_config`.
_PROVIDER = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"},
    "local": {"type", "head_ip", "worker_ips"},
}
_INSTANCE = {"InstanceType", "InstanceMarketOptions", "BlockDeviceMappings"}
_REFUSALS = (jsonschema.ValidationError, click.ClickException, ValueError, AssertionError)


def check(config: dict[str, Any]) -> None:
    assert set(config["provider"]) <= _PROVIDER[config["provider"]["type"]]
    for node_type in config.get("available_node_types", {}).values():
        assert set(node_type.get("node_config", {})) <= _INSTANCE
    validate_config(prepare_config(config))
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        for command in config.get(name, []):
            check_ray_start(command)


def check_ray_start(command: str) -> None:
    """Parse the options of each `ray start` in a shell command without starting it."""
    for options in re.findall(r"\bray start ([^;]*)", command):
        scripts.start.make_context("start", shlex.split(options))


@pytest.mark.parametrize("name", _FILES)
def test_files_are_accepted(name: str) -> None:
    check(read(f"launcher/{name}"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("aws.yaml", ("max_workers",)),
        ("aws.yaml", ("idle_timeout_minutes",)),
        ("aws.yaml", ("provider", "availability_zone")),
        ("aws.yaml", ("auth", "ssh_user")),
        ("aws.yaml", ("docker", "run_options")),
        ("aws.yaml", ("initialization_commands",)),
        ("aws.yaml", ("file_mounts",)),
        ("aws.yaml", ("head_node_type",)),
        ("aws.yaml", ("head_start_ray_commands",)),
        ("aws.yaml", ("available_node_types", "rollout", "max_workers")),
        ("aws.yaml", ("available_node_types", "rollout", "labels")),
        ("aws.yaml", ("available_node_types", "rollout", "resources")),
        ("aws.yaml", ("available_node_types", "rollout", "node_config", "InstanceMarketOptions")),
        ("onpremise.yaml", ("cluster_name",)),
        ("onpremise.yaml", ("provider", "worker_ips")),
        ("onpremise.yaml", ("auth", "ssh_private_key")),
        ("onpremise.yaml", ("worker_start_ray_commands",)),
    ],
)
def test_a_misspelt_field_is_refused(name: str, path: tuple[str, ...]) -> None:
    changed = misspelt(read(f"launcher/{name}"), path)
    with pytest.raises(_REFUSALS):
        check(changed)


@pytest.mark.parametrize("name", _FILES)
def test_a_misspelt_option_of_ray_start_is_refused(name: str) -> None:
    config = read(f"launcher/{name}")
    commands = config["head_start_ray_commands"]
    commands[-1] = commands[-1].replace("--dashboard-host", "--dashboard-hosts")
    with pytest.raises(click.NoSuchOption):
        check(config)


@pytest.mark.parametrize("name", _FILES)
def test_the_dashboard_is_on_loopback_and_every_node_has_the_token(name: str) -> None:
    config = read(f"launcher/{name}")
    [head] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    [worker] = [command for command in config["worker_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in head
    for command in (head, worker):
        assert command.index("RAY_AUTH_MODE=token") < command.index("ray start")
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert not any("0.0.0.0" in text for text in strings(config))


def test_on_aws_the_learner_has_a_gpu_and_only_rollouts_are_on_spot_nodes() -> None:
    config = read("launcher/aws.yaml")
    learner, rollout = (config["available_node_types"][name] for name in ("learner", "rollout"))
    assert config["head_node_type"] == "learner" and learner["max_workers"] == 0
    assert learner["resources"]["GPU"] == 1 and "GPU" not in rollout["resources"]
    assert learner["labels"] == {"ray.io/market-type": "on-demand"}
    assert "InstanceMarketOptions" not in learner["node_config"]
    assert rollout["labels"] == {"ray.io/market-type": "spot"}
    assert rollout["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (rollout["min_workers"], rollout["max_workers"]) == (0, config["max_workers"])
