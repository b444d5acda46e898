from __future__ import annotations

import json
from pathlib import Path

import pytest

from distributed_maddpg.benchmarks.files import check_folder, check_name, read_results, write_result
from distributed_maddpg.errors import BadInput
from tests.benchmarks.test_tables import job, result


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_result_leaves_its_json_and_the_document(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    check_folder(folder)
    written = write_result(folder, "env", result())
    assert names(folder) == ["benchmarks.md", "env.json"] == sorted(path.name for path in written)
    assert json.loads((folder / "env.json").read_text()) == result()


def test_the_document_covers_what_earlier_commands_left(tmp_path: Path) -> None:
    write_result(tmp_path, "env", result())
    write_result(tmp_path, "scaling", result(benchmark="scaling", points=[job(1)]))
    text = (tmp_path / "benchmarks.md").read_text()
    assert "## Environment" in text
    assert "## Scaling over workers" in text
    assert names(tmp_path) == ["benchmarks.md", "env.json", "scaling.html", "scaling.json"]


def test_names_and_labels_keep_results_apart(tmp_path: Path) -> None:
    write_result(tmp_path, "env", result(), "small")
    write_result(tmp_path, "learner-cuda", result(benchmark="learner", settings={"device": "cuda:0"}))
    write_result(tmp_path, "env", result())
    assert names(tmp_path) == ["benchmarks.md", "env-small.json", "env.json", "learner-cuda.json"]
    assert [found["benchmark"] for found in read_results(tmp_path)] == ["env", "env", "learner"]


def test_other_json_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "future.json").write_text(json.dumps(result(benchmark="of another version")))
    write_result(tmp_path, "env", result())
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.count("## Environment") == 1


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("{")
    with pytest.raises(BadInput, match=r"env\.json.*is not valid JSON"):
        read_results(tmp_path)


def test_a_file_in_the_way_and_a_name_that_is_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(BadInput, match="is a file; name a folder"):
        check_folder(tmp_path / "x")
    with pytest.raises(BadInput, match=r"^--name = '\.\./y': takes small letters"):
        check_name("../y")


def test_a_damaged_result_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("{")
    with pytest.raises(BadInput, match=r"env\.json.*is not valid JSON"):
        check_folder(tmp_path)
