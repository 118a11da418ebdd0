"""A file is written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from sdk.errors import FileError
from sdk.files import disk_failures, exchange, finish, held, read_regular, sha256, unfinished, write_whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write_whole(path, "<p>ä")
    assert path.read_text(encoding="utf-8") == "<p>ä"
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half\udcff")
    assert path.read_text(encoding="utf-8") == "<p>ä"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.stat().st_mode & stat.S_IRUSR


def test_a_file_that_grows_has_its_name_only_when_it_is_finished(tmp_path):
    path = tmp_path / "a" / "rows.jsonl"
    with unfinished(path) as file:
        for number in range(3):
            file.write(b"%d\n" % number)
        assert not path.exists()
        finish(file, path.with_suffix(".done"))
    with suppress(KeyboardInterrupt), unfinished(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    with pytest.raises(FileError, match=r"rows\.jsonl: can't be written .*free some space"), unfinished(path):
        raise OSError(28, "No space left on device")
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {"rows.done": b"0\n1\n2\n"}


def test_writers_of_the_same_file_do_not_disturb_each_other(tmp_path):
    """They may also be processes with the same number, on machines that share the folder."""
    path, contents = tmp_path / "unit", [bytes([number]) * 100_000 for number in range(4)]
    with ThreadPoolExecutor(4) as workers:
        for done in [workers.submit(write_whole, path, content) for content in contents * 10]:
            done.result()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_the_folders_on_the_way_are_made_and_bytes_stay_bytes(tmp_path):
    path = tmp_path / "a" / "b" / "model.bin"
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert sha256(path.read_bytes()) == hashlib.sha256(b"\x00\xff").hexdigest()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(FileError, match=r"taken.*can't be written.*check"):
        write_whole(tmp_path / "taken" / "x.json", "{}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_full_disk_says_what_to_do():
    full = Path("/dev/full")
    with pytest.raises(FileError, match=r"/dev/full: can't be written .*free some space"), disk_failures(full):
        full.write_bytes(b"x")


def test_only_regular_files_within_the_limit_are_read(tmp_path):
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_bytes(b"12345")
    os.mkfifo(pipe)
    assert read_regular(file, 5) == b"12345"
    assert read_regular(file, 4) is None
    for odd in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_regular(odd, 5)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "missing", 5)


def test_a_file_that_lies_about_its_size_is_read_up_to_the_limit():
    assert b"processor" in read_regular("/proc/cpuinfo", 2**20)
    assert read_regular("/proc/cpuinfo", 100) is None


def test_a_link_out_of_an_open_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "own").write_text("own")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        assert read_regular("own", 100, folder=descriptor) == b"own"
        with pytest.raises(OSError, match="link"):
            read_regular("link", 100, folder=descriptor)
    finally:
        os.close(descriptor)


def test_two_folders_are_exchanged_in_one_step(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    if not exchange(one, other):
        pytest.skip("this file system can't exchange names")
    assert (one / "name").read_text() == "other"
    assert (other / "name").read_text() == "one"
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "missing")


def test_a_lock_keeps_another_process_out_and_dies_with_its_process(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "True\n"
    with held(path) as mine:
        assert not mine
    holder.kill()
    holder.communicate()
    with held(path) as mine:
        assert mine
        with held(path) as again:
            assert not again


HOLD = """
import sys
from pathlib import Path
from sdk.files import held
with held(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""
