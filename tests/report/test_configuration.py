import dataclasses
from pathlib import Path

import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.config.presets import PRESETS
from distributed_maddpg.report.configuration import settings_table
from distributed_maddpg.report.runs import Group, Run


def table(*configs):
    runs = [Run(Path("run"), "gone", config, {}, {}, {}, [], []) for config in configs]
    return settings_table([Group(str(k), Path("run"), [run]) for k, run in enumerate(runs)])


def rows(*configs):
    return {row["name"]: row for row in table(*configs)["rows"]}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_differs_in_nothing_from_itself(name):
    found = table(MADDPGConfig.preset(name))
    assert found["presets"] == [name]
    assert [row["name"] for row in found["rows"] if row["preset"] != [None]] == []


def test_what_differs_from_the_nearest_preset_is_told_with_its_value():
    changed = MADDPGConfig.from_dict(
        {"algorithm": {"tau": 0.5}, "env": {"kwargs": {"N": 3}}}, MADDPGConfig.preset("paper")
    )
    found = {row["name"]: row for row in table(changed)["rows"] if row["preset"] != [None]}
    assert {name: (row["values"], row["preset"]) for name, row in found.items()} == {
        "algorithm.tau": (["0.5"], ["0.01"]),
        "env.kwargs.N": (["3"], ["2"]),
    }


def test_settings_that_a_preset_resets_for_another_environment_are_no_difference():
    config = MADDPGConfig.from_dict({"env": {"id": "simple_tag"}}, MADDPGConfig.preset("default"))
    assert [name for name, row in rows(config).items() if row["preset"] != [None]] == []


def test_runs_differ_where_their_values_do():
    one = MADDPGConfig.preset("default")
    other = dataclasses.replace(one, seed=4, env=dataclasses.replace(one.env, kwargs={"max_cycles": 25}))
    found = rows(one, other)
    differing = {name: row["values"] for name, row in found.items() if row["differs"]}
    assert differing == {
        "seed": ["0", "4"],
        "env.kwargs.N": ["2", ""],
        "env.kwargs.continuous_actions": ["true", ""],
    }


def test_a_table_that_is_empty_in_one_run_is_compared_by_its_entries():
    one = MADDPGConfig.preset("default")
    found = rows(one, MADDPGConfig.from_dict({"env": {"id": "simple_tag"}}, one))
    assert "env.kwargs" not in found and found["env.kwargs.N"]["values"] == ["2", ""]
    assert rows(MADDPGConfig())["env.kwargs"]["values"] == ["{}"]


def test_a_run_without_a_configuration_has_no_rows():
    assert table(None) == {"presets": [""], "rows": []}
