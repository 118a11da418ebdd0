"""A file is written whole or not at all."""

from __future__ import annotations

import hashlib
import stat

import pytest

from sdk.files import sha256, write_whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write_whole(path, "<p>ä")
    assert path.read_text(encoding="utf-8") == "<p>ä"
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half\udcff")
    assert path.read_text(encoding="utf-8") == "<p>ä"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.stat().st_mode & stat.S_IRUSR


def test_the_folders_on_the_way_are_made_and_bytes_stay_bytes(tmp_path):
    path = tmp_path / "a" / "b" / "model.bin"
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert sha256(path) == hashlib.sha256(b"\x00\xff").hexdigest()
