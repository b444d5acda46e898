import re
import shlex
import tomllib
from pathlib import Path

import pytest

from distributed_maddpg.cli import main
from distributed_maddpg.config import MADDPGConfig
from tests.cli.test_help import test_every_example_is_accepted as accept
from tests.test_cli import refused

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
COMMANDS = re.findall(
    r"distributed-maddpg ([a-z-]+(?: [^\n>#)]*)?)", "".join(re.findall(r"```sh\n(.*?)```", TEXT, re.S))
)
ERRORS = re.findall(r"(?m)^error: .*$", TEXT)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_is_accepted(command):
    accept(shlex.split(command))


def test_the_errors_of_the_page_are_real(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("[learner]\nbach_size = 8\n")
    wrong = (["--num-worker", "3"], ["--seed", "1.5"], ["--config", str(tmp_path / "c.toml")])
    assert [refused(["train", *words], capsys) for words in wrong] == ERRORS


def test_the_file_of_the_page_can_be_used(tmp_path, capsys, monkeypatch):
    [text] = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
    assert tomllib.loads(text)["pacing"] == {"total_env_steps": 2e6}
    (tmp_path / "c.toml").write_text(text)
    assert MADDPGConfig.from_toml(tmp_path / "c.toml").pacing.total_env_steps == 2_000_000
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", "c.toml", "--dry-run"]) == 0
    capsys.readouterr()
