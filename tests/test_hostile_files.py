"""Mutated checkpoints and settings: each is read as something valid, or refused in one printable line.

The cases run in a process of their own, which may use little memory and is ended where a case hangs. Every
case is made from a number: `run_case(folder, number)` repeats one.
"""

from __future__ import annotations

import copy
import dataclasses
import faulthandler
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed_maddpg import MADDPG
from distributed_maddpg.checkpoint.folder import Checkpoint, load_checkpoint, save_checkpoint
from distributed_maddpg.config import MADDPGConfig
from distributed_maddpg.errors import BadInput, CheckpointError
from distributed_maddpg.types import StoredTransitions

ROOT = Path(__file__).parent.parent
MEMORY_BYTES = 64 * 2**20
"""What reading any case may take beyond what the modules do."""
DEADLINE_S = 20
STATE = {
    "learner/policy": np.arange(12, dtype=np.float32).reshape(3, 4),
    "learner/updates": np.array(12, np.int64),
    "worker_0/env/done": np.array([True, False]),
}
ROWS = np.arange(40, dtype=np.float32).reshape(8, 5)
TABLES = {"metrics.csv": "a,b\n1,2\n", "returns.csv": "steps,agent_0\n100,-1.5\n"}
CONFIG = MADDPGConfig.preset("notebook")
DATA_FILES = ("state.safetensors", "replay.safetensors", "metrics.csv", "returns.csv")

Rng = random.Random


def valid() -> Checkpoint:
    """Return the checkpoint that all mutations start from."""
    rows = StoredTransitions(11, len(ROWS), iter([ROWS]))
    return Checkpoint(CONFIG, ("red_0", "blue_0"), 1_234, 56, STATE, rows, TABLES)


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read a checkpoint with all its rows; return its data, after checking what must hold of any."""
    loaded = load_checkpoint(folder)
    assert MADDPGConfig.from_dict(loaded.config.to_dict()) == loaded.config
    assert all(type(name) is str for name in loaded.agents)
    assert all(0 <= count < 2**63 for count in (loaded.env_steps, loaded.updates))
    assert all(isinstance(array, np.ndarray) for array in loaded.state.values())
    assert loaded.tables.keys() <= TABLES.keys()
    rows = []
    if loaded.replay is not None:
        rows = list(loaded.replay.chunks)
        assert sum(map(len, rows)) == loaded.replay.num_rows <= loaded.replay.inserted
    return {
        "state": {name: (array.dtype.str, array.tolist()) for name, array in loaded.state.items()},
        "rows": [row for chunk in rows for row in chunk.tolist()],
        "tables": loaded.tables,
    }


VALID_DATA = {
    "state": {name: (array.dtype.str, array.tolist()) for name, array in STATE.items()},
    "rows": ROWS.tolist(),
    "tables": TABLES,
}
CHECKPOINT_TARGETS: list[Callable[[Path], Any]] = [read_checkpoint]
"""What is made to read each mutated folder, in turn; each may raise CheckpointError or BadInput."""
CONFIG_TARGETS: list[Callable[[Path], Any]] = [MADDPGConfig.from_toml]


class Raw(str):
    """Text that stands in a JSON document as it is."""


def nasty(rng: Rng) -> Any:
    """Return a value that some reader somewhere would stumble over."""
    digits = "9" * rng.choice([19, 20, 40, 400, 4299, 4301, 20_000])
    deep = rng.choice([50, 900, 1_100, 30_000])
    return rng.choice(
        [
            *(None, True, False, 0, 1, -1, 2, 3, 0.5, 2.0, -0.0, 1e308, 5e-324, 2**31, 2**53 + 1),
            *(2**63 - 1, 2**63, 2**64, -(2**63) - 1, [], {}, "", "x", "0", "nan", [None], {"": None}, [[[]]]),
            *("\n\r\t", "\x1b[31mred", "\u2028\u202e", "\ud800", "\0", "é" * 3_000, "x" * 50_000, "%s{0}"),
            *("../../etc/passwd", "/etc/passwd", "state.safetensors/", "..", ".", "state.safetensors\0"),
            *("os:system", "C:\\con", "F32", "U8", "rows", [0, 0], [0, 2**62], [2**62] * 4, [1] * 500),
            *([-1, 1], [1.0, 2.0], ["1"], list(range(2_000)), {"a": {"b": {"c": []}}}, ["a"] * 5_000),
            *(Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("-1e999"), Raw("01"), Raw("")),
            *(Raw(digits), Raw(f"-{digits}"), Raw(f"0.{digits}"), Raw(f"1e{digits}"), Raw("'x'"), Raw("//")),
            *(Raw("[" * deep), Raw("[" * deep + "]" * deep), Raw('{"a":' * deep + "1" + "}" * deep)),
        ]
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all nodes of a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in items for place in places(child, (*path, key)))]


def mutate_json(rng: Rng, document: Any) -> bytes:
    """Return a JSON document with one to three nodes replaced, dropped, added or doubled, as bytes."""
    document, raw = copy.deepcopy(document), {}
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        inner = [place for place in places(document) if place]
        if inner:
            *path, key = rng.choice(inner)
            parent = document
            for part in path:
                parent = parent[part]
            mutate_node(rng, parent, key, raw)
    text = json.dumps(document if rng.random() < 0.98 else nasty(rng), indent=rng.choice([None, 2]))
    for name, replacement in raw.items():
        text = text.replace(name, replacement)
    return text.encode()


def mutate_node(rng: Rng, parent: Any, key: Any, raw: dict[str, str]) -> None:
    """Change an entry of a list or object; `raw` is what to replace afterwards in the document's text."""
    kind = rng.choice(["replace"] * 4 + ["drop", "add", "double", "swap"])
    if kind == "replace":
        parent[key] = plain(nasty(rng), raw)
    elif kind == "drop":
        del parent[key]
    elif kind == "swap":
        other = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
        parent[key], parent[other] = parent[other], parent[key]
    elif isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]) if kind == "double" else plain(nasty(rng), raw))
    elif kind == "add":
        name = rng.choice(["", "more", "../x", "\ud800", "a\nb", "k" * 50_000])
        parent[name] = plain(nasty(rng), raw)
    else:
        name = f"@double {len(raw)}@"
        raw[name] = json.dumps(key)[1:-1]
        parent[name] = rng.choice([copy.deepcopy(parent[key]), plain(nasty(rng), raw)])


def plain(value: Any, raw: dict[str, str]) -> Any:
    """Return a value that JSON can write, in whose place the raw text is put later."""
    if not isinstance(value, Raw):
        return value
    name = f"@raw {len(raw)}@"
    raw[f'"{name}"'] = str(value)
    return name


def mutate_bytes(rng: Rng, data: bytes) -> bytes:
    """Return bytes with one to four places flipped, cut, doubled, deleted, inserted or zeroed."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.choice([1, 2, 8, 64, 512]))
        block = data[start:stop]
        changed = {
            "flip": bytes(byte ^ 1 << rng.randrange(8) for byte in block[:1]) + block[1:],
            "random": rng.randbytes(len(block)),
            "zero": bytes(len(block)),
            "ones": b"\xff" * len(block),
            "delete": b"",
            "double": block * 2,
            "insert": rng.randbytes(rng.choice([1, 8, 100])) + block,
            "many": block * 1_000,
        }
        if rng.random() < 0.1:
            data = data[:start]
        else:
            data = data[:start] + changed[rng.choice(list(changed))] + data[stop:]
    return data


def mutate_header(rng: Rng, data: bytes) -> bytes:
    """Return a safetensors file with another header, or another length of it."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.15:
        lengths = [0, 1, length - 1, length + 1, len(data), 2**24, 2**31, 2**32, 2**63, 2**64 - 1]
        return rng.choice(lengths).to_bytes(8, "little") + header + body
    header = mutate_json(rng, json.loads(header))
    return len(header).to_bytes(8, "little") + header + body


def reseal(folder: Path) -> None:
    """Make the manifest say the truth of the files, so that what is behind the checksums is reached."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def mutate_folder(rng: Rng, folder: Path) -> bool:
    """Damage a checkpoint; return whether its data must still be the valid ones wherever it can be read."""
    kind = rng.choice(["bytes", "sealed bytes", "manifest", "manifest", "header", "kind of file"])
    path = folder / rng.choice(["manifest.json", *DATA_FILES])
    if kind == "manifest" or (kind != "bytes" and path.name == "manifest.json"):
        manifest = folder / "manifest.json"
        manifest.write_bytes(mutate_json(rng, json.loads(manifest.read_bytes())))
        return False
    if kind == "header":
        path = folder / rng.choice(DATA_FILES[:2])
        path.write_bytes(mutate_header(rng, path.read_bytes()))
        reseal(folder)
    elif kind == "kind of file":
        odd_file(rng, path)
        return True
    else:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
        if kind == "sealed bytes":
            reseal(folder)
    return kind == "bytes" and path.name != "manifest.json"


def odd_file(rng: Rng, path: Path) -> None:
    """Put something else than a regular file, or nothing, in a file's place."""
    import os

    size = path.stat().st_size
    path.unlink()
    kind = rng.choice(["none", "folder", "pipe", "link", "dangling", "loop", "sparse"])
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(rng.choice(["/dev/zero", "/etc/passwd", "returns.csv", "/"]))
    elif kind == "dangling":
        path.symlink_to("nothing")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, rng.choice([size, 2**33, 2**43]))


def mutate_toml(rng: Rng, text: str) -> bytes:
    """Return a settings file with some lines or bytes changed."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, text.encode())
    lines = text.splitlines()
    for _ in range(rng.choice([1, 1, 2, 3])):
        number = rng.randrange(len(lines))
        key, _, value = lines[number].partition(" = ")
        lines[number] = rng.choice(
            [
                *(
                    "",
                    lines[number] * 2,
                    f"{lines[number]}\n{lines[number]}",
                    key,
                    f"{key} =",
                    f"{key} = {value},",
                ),
                *(f"{key} = {toml_value(rng)}" for _ in range(12)),
                *(
                    f"{rng.choice(lines)}\n{lines[number]}",
                    f"[{key}]",
                    f"[[{key}]]",
                    f"{key}.{key} = {value}",
                ),
                *("a" + ".a" * rng.choice([5, 199, 201, 20_000]) + " = 1", f'"\\n\\u2028\\u0000" = {value}'),
                *(f"{key[:-1]} = {value}", f"{'k' * 30_000} = 1", f"preset = {toml_value(rng)}"),
            ]
        )
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def toml_value(rng: Rng) -> str:
    """Return a TOML value, or what looks like one."""
    many = rng.choice([5, 400, 4_299, 4_301, 30_000])
    return rng.choice(
        [
            *(
                "1",
                "-1",
                "0",
                "1.5",
                "nan",
                "-inf",
                "inf",
                "true",
                '""',
                "''",
                '"x"',
                "[]",
                "{}",
                "1e999",
                "1_0",
            ),
            *("9" * many, "0x" + "f" * many, "0b" + "1" * many, "0o" + "7" * many, "0." + "3" * many),
            *("2020-01-01", "12:00:00", "2020-01-01T00:00:00Z", "9999-99-99", '"""', "'''", '"\\ud800"'),
            *(
                "[" * many,
                "[" * many + "]" * many,
                "{a = " * many,
                "[1, 'a', []]",
                "{a = {b = 1}}",
                "[64, 64]",
            ),
            *('"' + "x" * many + '"', '"\\n\\t\\u001b"', '"../.."', '"os:system"', "[" + "1," * many + "]"),
        ]
    )


def run_case(folder: Path, number: int) -> str:
    """Mutate and read once; return how it ended."""
    rng = Rng(number)
    case = folder / f"case_{number}"
    if rng.random() < 0.25:
        targets, intact = CONFIG_TARGETS, False
        case.write_bytes(mutate_toml(rng, CONFIG.to_toml()))
    else:
        targets = CHECKPOINT_TARGETS
        shutil.copytree(folder / "valid", case)
        intact = mutate_folder(rng, case)
    outcomes = []
    for target in targets:
        try:
            result = target(case)
            assert not intact or result == VALID_DATA, "other data than those that were written"
            outcomes.append("read")
        except (CheckpointError, BadInput) as error:
            line = str(error)
            assert line.isprintable(), line
            assert len(line) <= 2_000, len(line)
            outcomes.append(type(error).__name__)
    shutil.rmtree(case) if case.is_dir() else case.unlink()
    return " ".join(outcomes)


def limit_memory() -> None:
    """Let this process allocate `MEMORY_BYTES` more than it has by now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def run_cases(first: int, count: int) -> None:
    """Run cases in this process, which must not be the tests' own; print how they ended, and each failure."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_checkpoint(folder / "valid", valid())
        assert read_checkpoint(folder / "valid") == VALID_DATA
        MADDPGConfig.from_dict({})
        limit_memory()
        for number in range(first, first + count):
            faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
            try:
                outcomes[run_case(folder, number)] += 1
            except Exception as error:  # noqa: BLE001 - just what must not happen
                outcomes["failed"] += 1
                text = str(error).encode("ascii", "backslashreplace").decode()[:300]
                print(f"case {number}: {type(error).__name__}: {text}", file=sys.stderr)
            faulthandler.cancel_dump_traceback_later()
    print(json.dumps(outcomes))


def captured_states() -> list[Checkpoint]:
    """Return checkpoints of short runs, on the compiled environment and on one of PettingZoo."""
    small = {
        "num_workers": 0,
        "env": {"kwargs": {"max_cycles": 5, "continuous_actions": False}},
        "rollout": {"num_envs": 3, "fragment_steps": 7},
        "algorithm": {"policy_hidden_sizes": [4], "critic_hidden_sizes": [4]},
        "learner": {"batch_size": 4, "device": "cpu"},
        "replay": {"capacity": 100},
        "pacing": {"total_env_steps": 80, "learning_starts": 21, "env_steps_per_update": 10},
    }
    target = {"id": "tests.support.target:parallel_env", "kwargs": {}}
    head = {"algorithm": {"policy_head": "sigmoid"}, "exploration": {"kind": "ou"}}
    ours = MADDPGConfig.from_dict(small)
    made = []
    for config in (ours, MADDPGConfig.from_dict({"env": target, **head}, ours)):
        with MADDPG(config) as algo:
            algo.train()
            made.append(algo.capture(replay=False))
    return made


def nasty_array(rng: Rng, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array of another shape, another type, or with numbers that some reader would stumble over."""
    kind = rng.choice(["value", "value", "value", "bytes", "shape", "type"])
    changed = array.copy()
    if kind == "shape":
        shapes = [(0,), (), (1, *array.shape), (*array.shape, 1), (2, 3), (0, 5), (1,) * 30, (2**12,)]
        return np.resize(changed, rng.choice(shapes)) if changed.size else np.zeros((1, 2), array.dtype)
    if kind == "type":
        types = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
        with np.errstate(all="ignore"):
            return changed.astype(rng.choice(types))
    if kind == "bytes":
        data = bytearray(changed.tobytes())
        for place in rng.sample(range(len(data)), min(len(data), rng.choice([1, 8]))):
            data[place] = rng.randrange(256)
        return np.frombuffer(bytes(data), array.dtype).reshape(array.shape).copy()
    values: list[Any] = [0, 1, 2, 3, 7]
    if array.dtype.kind == "f":
        values += [np.nan, np.inf, -np.inf, -1.0, 3e38, 1e-45, -0.0]
    elif array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        values = [min(value, info.max) for value in [*values, info.min, info.max, info.max - 1, 2**31, 2**40]]
        values += [-1, -(2**40)] if array.dtype == np.int64 else []
    value = rng.choice(values)
    if rng.random() < 0.5 or not changed.size:
        changed[...] = value
    else:
        changed.flat[rng.randrange(changed.size)] = value
    return changed


def run_state_case(checkpoints: list[Checkpoint], number: int) -> str:
    """Start a run from a state of which one to three arrays are mutated, dropped or exchanged."""
    rng = Rng(number)
    checkpoint = checkpoints[number % len(checkpoints)]
    state = dict(checkpoint.state)
    for _ in range(rng.choice([1, 1, 2, 3])):
        name, other = rng.choice(sorted(state)), rng.choice(sorted(state))
        kind = rng.choice(["mutate"] * 6 + ["drop", "exchange", "add"])
        if kind == "drop":
            del state[name]
        elif kind == "exchange":
            state[name], state[other] = state[other], state[name]
        elif kind == "add":
            state[rng.choice([f"{name}x", f"{name}/{name}", "", "/", "worker_1/env", "worker_"])] = state[
                other
            ]
        else:
            state[name] = nasty_array(rng, state[name])
    try:
        with MADDPG.from_loaded_checkpoint(dataclasses.replace(checkpoint, state=state)) as algo:
            algo.start()
            assert (algo.env_steps, algo.updates) == (checkpoint.env_steps, checkpoint.updates)
        return "read"
    except CheckpointError as error:
        line = str(error)
        assert line.isprintable() and len(line) <= 2_000, line
        return "CheckpointError"


def run_state_cases(first: int, count: int) -> None:
    """Start runs from mutated states in this process; print as `run_cases` does."""
    outcomes: Counter[str] = Counter()
    checkpoints = captured_states()
    limit_memory()
    for number in range(first, first + count):
        faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
        try:
            outcomes[run_state_case(checkpoints, number)] += 1
        except Exception as error:  # noqa: BLE001 - just what must not happen
            outcomes["failed"] += 1
            text = str(error).encode("ascii", "backslashreplace").decode()[:300]
            print(f"case {number}: {type(error).__name__}: {text}", file=sys.stderr)
        faulthandler.cancel_dump_traceback_later()
    print(json.dumps(outcomes))


def in_a_child(call: str) -> subprocess.CompletedProcess[str]:
    """Run a call of this module in a fresh interpreter."""
    code = f"from tests.test_hostile_files import *; {call}"
    command = [sys.executable, "-W", "error", "-c", code]
    # Of one arena: for each thread, malloc would reserve more addresses than the limit allows.
    env = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1_200, check=False
    )


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory by /proc and RLIMIT_AS")


@pytest.mark.parametrize(
    ("first", "count"), [(0, 400), pytest.param(1_000, 5_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_whatever_is_read_is_valid_or_refused_in_one_line(first: int, count: int) -> None:
    done = in_a_child(f"run_cases({first}, {count})")
    assert done.returncode == 0, done.stderr[-5_000:]
    outcomes = json.loads(done.stdout)
    assert not outcomes.pop("failed", 0), done.stderr[-5_000:]
    assert sum(outcomes.values()) == count
    # Mutations that are all refused, or all survived, would test nothing.
    assert all(outcomes[kind] > count // 40 for kind in ("read", "CheckpointError", "BadInput")), outcomes


@pytest.mark.parametrize(
    ("first", "count"), [(0, 400), pytest.param(1_000, 5_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_whatever_a_run_is_started_from_fits_or_is_refused_in_one_line(first: int, count: int) -> None:
    done = in_a_child(f"run_state_cases({first}, {count})")
    assert done.returncode == 0, done.stderr[-5_000:]
    outcomes = json.loads(done.stdout)
    assert not outcomes.pop("failed", 0), done.stderr[-5_000:]
    assert sum(outcomes.values()) == count
    assert all(outcomes[kind] > count // 10 for kind in ("read", "CheckpointError")), outcomes


def test_the_limits_of_the_child_hold() -> None:
    done = in_a_child("limit_memory(); bytearray(2 * MEMORY_BYTES)")
    assert "MemoryError" in done.stderr
    done = in_a_child("faulthandler.dump_traceback_later(0.1, exit=True); [0 for _ in iter(int, 1)]")
    assert done.returncode == 1
    assert "Timeout" in done.stderr
