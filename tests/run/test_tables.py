import csv
import math

import pytest

from distributed_maddpg.run.tables import CSVTable, TensorBoardWriter
from tests.support.event_files import events


def test_a_table_has_its_first_rows_columns(tmp_path):
    table = CSVTable(tmp_path / "t.csv")
    table.add({"a": 1, "b": "x,y"})
    table.add({"b": 2, "c": 3})
    assert read(tmp_path / "t.csv") == [["a", "b"], ["1", "x,y"], ["", "2"]]  # before close
    table.close()


def test_a_table_without_a_header_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"table\.csv has no header: field larger than field limit"):
        CSVTable(tmp_path / "table.csv", "x" * 200_000 + "\n")


def test_a_table_continues_under_its_own_header(tmp_path):
    for row in ({"a": 1, "b": 2}, {"b": 4, "a": 3}):
        table = CSVTable(tmp_path / "t.csv")
        table.add(row)
        table.close()
    assert read(tmp_path / "t.csv") == [["a", "b"], ["1", "2"], ["3", "4"]]


def test_a_table_without_rows_leaves_no_file(tmp_path):
    CSVTable(tmp_path / "t.csv").close()
    assert not (tmp_path / "t.csv").exists()


def test_tensorboard_events_hold_the_finite_numbers(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.add({"a": {"b": 1.5}, "c": math.nan, "d": "text"}, 10)
    writer.close()
    (path,) = tmp_path.glob("events.out.tfevents*")
    *_, last = events(path)
    assert last.step == 10
    assert [(value.tag, value.simple_value) for value in last.summary.value] == [("a/b", 1.5)]


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))
