"""Parts of a work as people write them."""

from __future__ import annotations

import pytest

from sdk.errors import UsageError
from trainer.units import Part, part_of


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
