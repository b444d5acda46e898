import sys

import pytest

from distributed_maddpg.envs import make_vector_env
from distributed_maddpg.errors import BadInput

ENV = """
from dataclasses import dataclass
from {sibling} import MAX_CYCLES
from tests.support.counting import CountingEnv

@dataclass
class Options:
    n: "int" = 2

def {name}(n=2):
    return CountingEnv(num_agents=Options(n).n, max_cycles=MAX_CYCLES)
"""


@pytest.fixture(autouse=True)
def _unchanged_interpreter(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write_env(folder, sibling, name="parallel_env", max_cycles=2):
    folder.mkdir(exist_ok=True)
    (folder / "my_env.py").write_text(ENV.format(sibling=sibling, name=name))
    (folder / f"{sibling}.py").write_text(f"MAX_CYCLES = {max_cycles}\n")


def episode_length(env):
    env.reset()
    for step in range(1, 10):
        if env.step([[0]] * len(env.agents)).truncated.all():
            return step
    raise AssertionError("no end")


@pytest.mark.parametrize("name", ["parallel_env", "env", "make"])
@pytest.mark.parametrize("prefix", ["", "./", "sub/../", "{absolute}/"])
def test_an_environment_in_a_file_uses_modules_beside_it(tmp_path, monkeypatch, name, prefix):
    write_env(tmp_path, "beside_one", name)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    callable_name = ":make" if name == "make" else ""
    env = make_vector_env(f"{prefix.format(absolute=tmp_path)}my_env.py{callable_name}", 1, 0, n=3)
    assert env.agents == ("counter_0", "counter_1", "counter_2")
    assert episode_length(env) == 2
    assert sys.path[0] == str(tmp_path)


def test_files_of_one_name_in_two_folders_are_two_environments(tmp_path):
    for number in (1, 2):
        write_env(tmp_path / str(number), f"beside_{number}", max_cycles=number)
    envs = [make_vector_env(f"{tmp_path}/{number}/my_env.py", 1, 0) for number in (1, 2)]
    assert [episode_length(env) for env in envs] == [1, 2]


def test_a_file_is_run_once_in_a_process(tmp_path):
    write_env(tmp_path, "beside_two")
    with (tmp_path / "my_env.py").open("a") as file:
        file.write(f"import os; os.mkdir({str(tmp_path / 'made')!r})  # raises the second time\n")
    for _ in range(3):
        make_vector_env(f"{tmp_path}/my_env.py", 2, 0)
    assert (tmp_path / "made").is_dir()


def test_a_relative_path_is_also_found_from_a_folder_of_sys_path(tmp_path, monkeypatch):
    write_env(tmp_path, "beside_three")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path)
    assert episode_length(make_vector_env("./my_env.py", 1, 0)) == 2


@pytest.mark.parametrize(
    ("text", "env_id", "remedy"),
    [
        ("", "none.py", "there is no file 'none.py' in {cwd!r}; check the path"),
        ("", "{cwd}/none.py:make", "there is no file '{cwd}/none.py'; check the path"),
        ("", "a\0b.py", "there is no file 'a\\x00b.py' in {cwd!r}; check the path"),
        (
            "x = 1",
            "./my_env.py",
            "file './my_env.py' has no callable 'parallel_env' or 'env'; "
            "name one as 'path/to/file.py:callable'",
        ),
        (
            "x = 1",
            "my_env.py:x",
            "file 'my_env.py' has no callable 'x'; name one as 'path/to/file.py:callable'",
        ),
        (
            "import no_such_dependency",
            "my_env.py",
            "its module needs 'no_such_dependency', which is not installed",
        ),
        ("1 / 0", "my_env.py", "its module cannot be imported (ZeroDivisionError: division by zero)"),
        ("import sys; sys.exit(3)", "my_env.py", "its module cannot be imported (SystemExit: 3)"),
    ],
)
def test_a_file_that_gives_no_environment_is_refused_in_one_line(tmp_path, monkeypatch, text, env_id, remedy):
    (tmp_path / "my_env.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    env_id = env_id.format(cwd=tmp_path)
    with pytest.raises(BadInput) as caught:
        make_vector_env(env_id, 1, 0)
    shown = repr(env_id)
    assert str(caught.value) == f"env.id = {shown}: {remedy.format(cwd=str(tmp_path))}"
