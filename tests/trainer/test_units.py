"""Parts of a work, times, sizes and numbers as people write them."""

from __future__ import annotations

import pytest

from sdk.errors import UsageError
from trainer.units import Part, count_of, duration, part_of, size


def test_parts_share_all_items_evenly():
    parts = [Part(number, 3).of(range(8)) for number in (1, 2, 3)]
    assert sorted(item for part in parts for item in part) == list(range(8))
    assert [len(part) for part in parts] == [3, 3, 2]


def test_a_part_is_written_as_i_of_n():
    assert part_of(" 2/3 ") == Part(2, 3)


@pytest.mark.parametrize("text", ["5/4", "0/4", "1/0", "1", "1/2/3", "a/b", "-1/2", "", "1.5/2"])
def test_other_parts_are_refused(text):
    with pytest.raises(UsageError, match="--part"):
        part_of(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("2", 2), ("50000", 50_000), ("1e9", 10**9), ("1.28e6", 1_280_000), (" 5E3 ", 5000), ("20e-1", 2)],
)
def test_a_number_of_images_is_read_as_people_write_it(text, count):
    assert count_of(text) == count


@pytest.mark.parametrize("text", ["", "0", "1", "-5", "1.5", "1e-3", "abc", "nan", "inf", "1e400", "1e999999999"])
def test_other_numbers_of_images_are_refused(text):
    with pytest.raises(ValueError, match="is not a number of images; write a whole number of 2 or more"):
        count_of(text)


def test_large_figures_stay_readable():
    assert [size(count) for count in (999, 36e12, 2.62e15)] == ["999 bytes", "36 TB", "2.62 PB"]
    assert [duration(hours * 3600) for hours in (3.14, 99.94, 100, 12_345.6)] == [
        "3.1 h",
        "99.9 h",
        "100 h",
        "12,346 h",
    ]
