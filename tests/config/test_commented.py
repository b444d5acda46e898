import dataclasses

import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.config.commented import commented_toml
from distributed_maddpg.config.presets import PRESETS
from tests.config.test_settings import private

CONFIGS = {
    **{name: MADDPGConfig.preset(name) for name in PRESETS},
    "private parts": MADDPGConfig.from_dict(private([0, 2], [[2, 3], [3, 4]], constants=[[0.5], [1.0]])),
    "tables": MADDPGConfig.from_dict(
        {
            "env": {"id": "a.b", "kwargs": {"x": {"y z": [1, {"k": "#"}]}, "t": 'a"b\n'}, "measures": ["m"]},
            "algorithm": {"team_overrides": {"agent": "ddpg"}},
        }
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_read_back_to_equal_settings(name, tmp_path):
    (tmp_path / "c.toml").write_text(commented_toml(CONFIGS[name], "Title"))
    assert MADDPGConfig.from_toml(tmp_path / "c.toml") == CONFIGS[name]
    for other in PRESETS.values():  # whatever it is laid over, as it holds every setting
        base = MADDPGConfig.from_dict({key: value for key, value in other.items() if key != "env"})
        assert MADDPGConfig.from_toml(tmp_path / "c.toml", base) == CONFIGS[name]


def test_each_setting_stands_below_its_help_text():
    lines = commented_toml(MADDPGConfig.preset("paper"), "Settings of the preset paper.").splitlines()
    assert lines[:4] == ["# Settings of the preset paper.", "", "# Seed of all random streams.", "seed = 0"]
    where = lines.index("batch_size = 1024")
    assert lines[where - 3 : where] == [
        "# The device and the minibatches of updates.", "[learner]", "# Transitions per update.",
    ]  # fmt: skip
    assert lines[where + 1 : where + 5] == [
        "",
        "# auto: cuda if there is a GPU, else cpu. Asynchronous runs with a GPU measure both for half a",
        "# second and use the faster. One of auto, cpu, cuda.",
        'device = "auto"',
    ]
    assert "total_env_steps = 1_500_000" in lines
    assert "policy_hidden_sizes = [64, 64]" in lines
    names = {line.partition(" = ")[0] for line in lines if " = " in line and not line.startswith("#")}
    sections = [each for each in vars(MADDPGConfig()).values() if dataclasses.is_dataclass(each)]
    tables = {"kwargs", "team_overrides", "private"}
    assert {item.name for section in sections for item in dataclasses.fields(section)} - tables <= names
    assert max(map(len, lines)) <= 100
