"""A bundle is written whole or not at all, and replaced in one step."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from sdk import Bundle, BundleError, FileError, UsageError
from sdk.bundle.manifest import MANIFEST
from sdk.bundle.writing import check_replaceable, new_folder, seal


class TestWriting:
    def everything_in(self, folder: Path) -> list[str]:
        return sorted(file.name for file in folder.iterdir())

    def test_a_folder_appears_whole(self, tmp_path):
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
            assert not (tmp_path / "out").exists()
        assert self.everything_in(tmp_path) == ["out"]
        assert self.everything_in(tmp_path / "out") == ["a"]

    @pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_or_not_at_all(self, tmp_path, fault):
        def interrupted() -> None:
            with new_folder(tmp_path / "deep" / "out") as folder:
                (folder / "a").write_text("a")
                raise fault

        with pytest.raises(fault):
            interrupted()
        assert self.everything_in(tmp_path) == []

    def test_the_folders_on_the_way_are_made(self, tmp_path):
        with new_folder(tmp_path / "deep" / "er" / "out") as folder:
            (folder / "a").write_text("a")
        assert self.everything_in(tmp_path / "deep" / "er" / "out") == ["a"]

    def test_an_old_bundle_stays_until_the_new_one_is_whole(self, own_copy):
        out = own_copy("onnx")

        def interrupted() -> None:
            with new_folder(out):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert Bundle.open(out).target == "onnx"
        with new_folder(out) as folder:
            (folder / "a").write_text("a")
        assert self.everything_in(out) == ["a"]
        assert self.everything_in(out.parent) == [out.name]

    def test_another_name_is_never_without_a_bundle(self, own_copy):
        # A reader beside a writer, which replaces one bundle by another: it sees the old one or the new one, whole.
        out, other = own_copy("onnx"), own_copy("openvino")
        first, second = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in (out, other))
        writer = multiprocessing.get_context("spawn").Process(target=_replace_by_turns, args=(out, [second, first], 40))
        writer.start()
        seen = []
        while writer.is_alive():
            bundle = Bundle.open(out)
            assert set(bundle.contents) == {MANIFEST, *bundle.manifest.files}
            seen.append(bundle.target)
        writer.join()
        assert writer.exitcode == 0
        assert set(seen) == {"onnx", "openvino"}
        assert self.everything_in(out.parent) == [out.name, other.name]

    def test_what_a_killed_export_left_is_swept_and_what_lives_stays(self, own_copy):
        out = own_copy("onnx")
        stale = out.with_name(f".{out.name}.{'0' * 12}.new")
        stale.mkdir()
        (stale / "model.onnx").write_text("half")
        alike = out.with_name(f".{out.name}.backup.new")
        alike.mkdir()
        with new_folder(out) as living, new_folder(out) as folder:
            assert living.exists()
            assert not stale.exists()
            (folder / "a").write_text("a")
            (living / "a").write_text("a")
        assert self.everything_in(out.parent) == [alike.name, out.name]

    def test_a_bundle_that_was_being_replaced_when_the_process_was_killed_comes_back(self, own_copy):
        # That can only happen where names can't be exchanged in one step.
        out = own_copy("onnx")
        out.rename(out.with_name(f".{out.name}.{'0' * 12}.old"))

        def refused() -> None:
            with new_folder(out):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            refused()
        assert Bundle.open(out).target == "onnx"

    def test_a_full_disk_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(FileError, match=r"file.*can't be written"), new_folder(tmp_path / "file" / "out"):
            pass

    def test_what_is_no_bundle_is_not_replaced(self, own_copy, tmp_path):
        own = own_copy("onnx")
        (own / "notes.txt").write_text("mine")
        strange = tmp_path / "strange"
        strange.mkdir()
        (strange / "thesis.tex").write_text("mine")
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        (foreign / MANIFEST).write_text("{}")
        for out, name in ((own, "notes.txt"), (strange, "thesis.tex"), (foreign, MANIFEST)):
            with pytest.raises(UsageError, match=f"holds {name}, which is not part of a bundle; choose another folder"):
                check_replaceable(out)
        with pytest.raises(UsageError, match="not a folder"):
            check_replaceable(strange / "thesis.tex")
        assert (strange / "thesis.tex").read_text() == "mine"

    def test_empty_folders_are_taken(self, tmp_path):
        (tmp_path / "out").mkdir()
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
        assert self.everything_in(tmp_path / "out") == ["a"]

    def test_the_same_manifest_is_the_same_bytes(self, bundles, tmp_path):
        written = bundles["onnx"].manifest
        turned = msgspec.structs.replace(written, versions=dict(reversed(written.versions.items())))
        for name, version in (("one", written), ("two", turned)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "model.onnx").write_bytes(b"\x08")
            seal(tmp_path / name, version)
        assert (tmp_path / "one" / MANIFEST).read_bytes() == (tmp_path / "two" / MANIFEST).read_bytes()

    def test_errors_of_the_file_system_are_ours(self):
        with pytest.raises(BundleError, match=r"can't be read \(File name too long\)"):
            Bundle.open("x" * 5000)


KILLED = """
import os, signal, sys
from pathlib import Path
from sdk import whole_folder as room

out, other, place, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
home, name = (room, place) if hasattr(room, place) else (room.shutil, place)
untouched = getattr(home, name)

def deadly(*arguments, **named):
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = untouched(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
    return done

setattr(home, name, deadly)
with room.whole_folder(out) as new:
    for file in other.iterdir():
        (new / file.name).write_bytes(file.read_bytes())
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("place", "left"),
    [("sync_tree", "onnx"), ("exchange", None), ("sync_folder", "openvino"), ("rmtree", "openvino")],
)
def test_a_kill_at_any_moment_leaves_the_old_bundle_or_the_new_one(own_copy, place, left, when):
    out, other = own_copy("onnx"), own_copy("openvino")
    killed = subprocess.run([sys.executable, "-c", KILLED, out, other, place, when], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    expected = left or {"before": "onnx", "after": "openvino"}[when]
    assert Bundle.open(out).target == expected
    with new_folder(out) as new:
        (new / "a").write_text("a")
    assert sorted(file.name for file in out.parent.iterdir()) == sorted([out.name, other.name])


def _replace_by_turns(out: Path, contents: list[dict[str, bytes]], times: int) -> None:
    for turn in range(times):
        with new_folder(out) as folder:
            for name, content in contents[turn % len(contents)].items():
                (folder / name).write_bytes(content)
