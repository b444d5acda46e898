import os
import subprocess
import sys

from distributed_maddpg import compilation


def test_compiled_falls_back_where_no_cache_can_be_written(monkeypatch):
    real = compilation.numba.njit

    def njit(*args, cache=False):
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


def test_an_older_versions_cache_is_not_read(tmp_path):
    for name in ("Before", "After"):  # numba would look for class Before in the new file
        (tmp_path / "loops.py").write_text(MODULE.format(name=name))
        run = subprocess.run(
            [sys.executable, "-c", "import loops"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.stdout == "42.0\n", run.stderr
    assert len(list(tmp_path.glob("__pycache__/*.nbi"))) == 2
