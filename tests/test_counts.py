import pytest

from distributed_maddpg.counts import parse_count

COUNTS = {
    "1000000": 1_000_000,
    "1_000_000": 1_000_000,
    "1e6": 1_000_000,
    "1E6": 1_000_000,
    "2.5e3": 2_500,
    "1_0e2": 1_000,
    "50e-1": 5,
    "-1e3": -1_000,
    "0e9": 0,
    " 7 ": 7,
    "9" * 30: int("9" * 30),
}


@pytest.mark.parametrize("text", COUNTS)
def test_counts_are_read_as_people_write_them(text):
    assert parse_count(text) == COUNTS[text]


@pytest.mark.parametrize(
    "text", ["1__0", "1_0_", "1.5", "2.55e1", "1e-1", "1e99", "1e999", "inf", "nan", "x", "", "1e", "0x10"]
)
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(ValueError, match="must be a whole number, such as 1000000, 1_000_000 or 1e6"):
        parse_count(text)
