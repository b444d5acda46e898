import pytest

from distributed_maddpg.durations import format_duration, parse_duration
from distributed_maddpg.errors import BadInput


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("90s", 90),
        ("15m", 900),
        ("5h50m", 21_000),
        ("2d", 172_800),
        ("1d2h3m4s", 93_784),
        ("1.5h", 5_400),
        ("0.25s", 0.25),
        ("90", 90),
        ("0.5", 0.5),
        ("0", 0),
        (" 2H ", 7_200),
    ],
)
def test_a_duration_is_its_parts_added_up(text, seconds):
    assert parse_duration("--max-time", text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "h", "5x", "50m5h", "5h 50", "5h50", "1h1h", "-5m", "1e3", "inf", "nan", "٣s", "999999d"],
)
def test_anything_else_is_refused_with_the_option_and_examples(text):
    with pytest.raises(BadInput, match=r"^--max-time = .*: must be a duration such as 90s, 15m, 5h50m or 2d"):
        parse_duration("--max-time", text)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0s"),
        (0.5, "0.5s"),
        (59, "59s"),
        (60, "1m"),
        (21_000, "5h50m"),
        (93_784, "1d2h3m4s"),
        (86_400, "1d"),
    ],
)
def test_a_duration_is_written_as_it_is_read(seconds, text):
    assert format_duration(seconds) == text
    assert parse_duration("", text) == seconds


def test_seconds_are_rounded_in_longer_durations():
    assert format_duration(3_599.7) == "1h"
