import tomllib
from pathlib import Path

import jsonschema
import pytest

from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.config.presets import PRESETS
from distributed_maddpg.config.schema import DIALECT, settings_schema

SCHEMA = settings_schema()
CHECKER = jsonschema.Draft202012Validator(SCHEMA)
FILES = list(Path(__file__).parents[2].glob("examples/*.toml"))


def problems(text):
    return [error.message for error in CHECKER.iter_errors(tomllib.loads(text))]


def test_the_schema_is_one_of_its_dialect():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == DIALECT == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_and_their_files_fit(name):
    assert problems(MADDPGConfig.preset(name).to_toml()) == []
    assert list(CHECKER.iter_errors(PRESETS[name])) == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_committed_files_fit(path):
    assert problems(path.read_text()) == []
    assert MADDPGConfig.from_toml(path)


GOOD = [
    'preset = "paper"',
    "[pacing]\ntotal_env_steps = 1e6",
    "[env.kwargs]\nanything = [1, 'a', {b = true}]",
    "[algorithm.private.agent]\ncolumns = [0, 2]\ncandidates = [[2, 4], [4, 6]]",
    "[algorithm]\ngamma = 1",
]
BAD = {
    "sed = 1": "Additional properties are not allowed ('sed' was unexpected)",
    'preset = "papr"': "'papr' is not one of ['default', 'deception', 'notebook', 'paper']",
    "seed = -1": "-1 is less than the minimum of 0",
    "num_workers = 10_001": "10001 is greater than the maximum of 10000",
    "[learner]\nbatch_size = 1.5": "1.5 is not of type 'integer'",
    "[learner]\nbatch_size = 0": "0 is less than the minimum of 1",
    "[learner]\ndevice = 'gpu'": "'gpu' is not one of ['auto', 'cpu', 'cuda']",
    "[learner]\nbach_size = 8": "Additional properties are not allowed ('bach_size' was unexpected)",
    "[algorithm]\ngamma = 1.1": "1.1 is greater than the maximum of 1",
    "[algorithm]\ntau = 0.0": "0.0 is less than or equal to the minimum of 0",
    "[algorithm]\npolicy_hidden_sizes = []": "[] should be non-empty",
    "[algorithm]\npolicy_hidden_sizes = [0]": "0 is less than the minimum of 1",
    "[algorithm.team_overrides]\nagent = 'ppo'": "'ppo' is not one of ['maddpg', 'ddpg', 'matd3']",
    "[algorithm.private.agent]\ncandidates = []": "'columns' is a required property",
    "[ray]\nwait_for_nodes = 15": "15 is not of type 'string'",
}


@pytest.mark.parametrize("text", GOOD)
def test_right_files_fit(text):
    assert problems(text) == []


@pytest.mark.parametrize("text", BAD)
def test_wrong_files_do_not(text, tmp_path):
    assert problems(text) == [BAD[text]]


def test_every_setting_is_described_in_one_line():
    sections = [SCHEMA, *SCHEMA["$defs"].values()]
    described = {name: each for section in sections for name, each in section["properties"].items()}
    assert len(described) > 60
    texts = [each["description"] for each in described.values() if "$ref" not in each]
    assert all(text and "\n" not in text for text in texts)


def test_an_editor_learns_types_choices_defaults_and_bounds():
    name = SCHEMA["$defs"]["AlgorithmConfig"]["properties"]["name"]
    assert (name["type"], name["enum"], name["default"]) == ("string", ["maddpg", "ddpg", "matd3"], "maddpg")
    threads = SCHEMA["$defs"]["LearnerConfig"]["properties"]["num_threads"]
    assert (threads["minimum"], threads["maximum"]) == (0, 1024)
    temperature = SCHEMA["$defs"]["AlgorithmConfig"]["properties"]["temperature"]
    assert (temperature["minimum"], temperature["maximum"]) == (1e-6, 10**15)
    assert SCHEMA["$defs"]["AlgorithmConfig"]["properties"]["tau"]["exclusiveMinimum"] == 0
