import csv
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from distributed_maddpg.run.tables import CSVTable, TensorBoardWriter
from tests.support.event_files import events
from tests.support.target import target_config


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


def accumulated(folder):
    """Return what TensorBoard itself reads of a folder."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def scalars(found, tag):
    return [(event.step, pytest.approx(event.value)) for event in found.Scalars(tag)]


def test_tensorboard_reads_scalars_over_env_steps_and_the_settings(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.add_settings(target_config(seed=7))
    writer.add({"env_runners": {"episode_return_mean": -1.5}}, 100)
    writer.add({"evaluation": {"success": {"agents": 30.0}}}, 100)
    writer.add({"env_runners": {"episode_return_mean": -0.5}}, 200)
    writer.close()
    found = accumulated(tmp_path)
    assert scalars(found, "env_runners/episode_return_mean") == [(100, -1.5), (200, -0.5)]
    assert scalars(found, "evaluation/success/agents") == [(100, 30.0)]
    [text] = found.Tensors("settings/text_summary")
    [shown] = text.tensor_proto.string_val
    assert target_config(seed=7).to_toml() in shown.decode()
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["seed"].number_value == 7
    assert settings["algorithm/name"].string_value == "maddpg"
    assert settings["env/normalise"].bool_value is False


def test_tensorboard_drops_what_a_resumed_run_repeats(tmp_path):
    for env_steps, values in ((0, {100: 1.0, 200: 2.0}), (100, {200: 3.0})):
        writer = TensorBoardWriter(tmp_path, env_steps)
        for step, value in values.items():
            writer.add({"loss": value}, step)
        writer.close()
        if env_steps == 0:  # TensorBoard reads files in the order of their names, which begin with the second
            (file,) = tmp_path.iterdir()
            file.rename(tmp_path / "events.out.tfevents.1.first")
    assert scalars(accumulated(tmp_path), "loss") == [(100, 1.0), (200, 3.0)]


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))
