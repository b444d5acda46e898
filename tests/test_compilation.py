import os
import subprocess
import sys

from distributed_maddpg import compilation


def test_compiled_falls_back_where_no_cache_can_be_written(monkeypatch):
    real = compilation.numba.njit

    def njit(*args, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(*args)

    monkeypatch.setattr(compilation.numba, "njit", njit)
    assert compilation.compiled(lambda x: x + 1)(1) == 2


MODULE = """
from typing import NamedTuple
from distributed_maddpg.compilation import compiled

class {name}(NamedTuple):
    value: float

@compiled
def doubled(given):
    return 2 * given.value

print(doubled({name}(21.0)))
"""


def output_of_loops(folder):
    run = subprocess.run(
        [sys.executable, "-c", "import loops"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not run.returncode, run.stderr
    return run.stdout


def test_an_older_versions_cache_is_not_read(tmp_path):
    for name in ("Before", "After"):  # numba would look for class Before in the new file
        (tmp_path / "loops.py").write_text(MODULE.format(name=name))
        assert output_of_loops(tmp_path) == "42.0\n"
    assert len(list(tmp_path.glob("__pycache__/*.nbi"))) == 2


CALLER = """
from distributed_maddpg.compilation import compiled
from part import factor

@compiled
def scaled(x):
    return factor() * x

print(scaled(21.0))
"""
PART = """
from distributed_maddpg.compilation import compiled_part

@compiled_part
def factor():
    return {value}
"""


def test_a_change_in_another_file_of_the_folder_is_noticed(tmp_path):
    (tmp_path / "loops.py").write_text(CALLER)
    for value in (2.0, 3.0):
        (tmp_path / "part.py").write_text(PART.format(value=value))
        assert output_of_loops(tmp_path) == f"{21 * value}\n"
