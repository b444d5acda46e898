"""docs/environments.md describes what there is."""

from pathlib import Path

from distributed_maddpg.envs.mpe.scenarios import SCENARIOS, keywords

TEXT = (Path(__file__).parents[3] / "docs" / "environments.md").read_text(encoding="utf-8")
COMMON = set(keywords("simple"))


def test_every_scenario_its_keywords_and_its_measures_are_described():
    lines = [line for line in TEXT.splitlines() if line.startswith("| `")]
    rows = {line.split("|")[1].strip(): line for line in reversed(lines)}  # the first table counts
    for name, scenario in SCENARIOS.items():
        assert f"`{name}`" in rows, name
        for keyword in set(keywords(name)) - COMMON:
            assert f"`{keyword}`" in rows[f"`{name}`"], (name, keyword)
        for measure in scenario.measures:
            assert f"| `{measure.name}` | {measure.text} |" in TEXT, (name, measure.name)
    assert all(f"`{keyword}`" in TEXT for keyword in COMMON)
