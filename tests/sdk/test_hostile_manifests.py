"""A manifest that somebody wrote to do harm is refused, or reads the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle_edits import manifest, rewrite
from sdk import Bundle, BundleError
from sdk.bundle.manifest import MANIFEST, FileEntry
from sdk.files import sha256


@pytest.fixture(scope="module")
def hostile(bundles, tmp_path_factory) -> tuple[Path, bytes]:
    """A bundle whose manifest is overwritten again and again, and what it was."""
    folder = Path(shutil.copytree(bundles["onnx"].path, tmp_path_factory.mktemp("hostile") / "bundle"))
    return folder, (folder / MANIFEST).read_bytes()


class TestHostileManifests:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": "libkd-bundle/2", "novelty": 1}, "written in format libkd-bundle/2, .*; upgrade libkd-sdk"),
            ({"format": "something/1"}, "not understood"),
            ({"novelty": 1}, "unknown field `novelty`"),
            ({"target": "tensorrt"}, "target 'tensorrt' is none of the engines here"),
            ({"precision": "int3"}, r"\$.precision"),
            ({"labels": []}, r"\$.labels"),
            ({"labels": ["only one"]}, r"\$.labels"),
            ({"labels": ["a", "b\x1b[31m", "c", "d", "e"]}, r"\$.labels"),
            ({"labels": ["a", "b\n", "c", "d", "e"]}, r"\$.labels"),
            ({"output": {"kind": "logits", "temperature": 1.0}}, r"\$.output.kind"),
            ({"output": {"kind": "probabilities", "temperature": 0}}, r"\$.output.temperature"),
            ({"files": {}}, "does not list model.onnx"),
            ({"input": {"height": 32}}, r"\$.input"),
        ],
    )
    def test_what_is_not_understood(self, own_copy, changes, message):
        folder = own_copy("onnx")
        rewrite(folder, **changes)
        with pytest.raises(BundleError, match=message):
            Bundle.open(folder)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"null",
            b"[]",
            b"\xff\xfe",
            b'{"format": "libkd-bundle/1", "name": NaN}',
            b'{"format": "libkd-bundle/1", "created": 1e999}',
            b'{"format": ' + b"[" * 100_000,
            b'{"x": ' * 50_000,
            b'{"format": "libkd-bundle/1"' + b', "a": 9' * 10_000 + b"}",
        ],
        ids=lambda text: repr(text[:20]),
    )
    def test_what_is_no_manifest(self, own_copy, text):
        folder = own_copy("onnx")
        (folder / MANIFEST).write_bytes(text)
        with pytest.raises(BundleError, match="not understood"):
            Bundle.open(folder)

    def test_not_a_number_where_a_number_belongs(self, own_copy):
        folder = own_copy("onnx")
        for value in ("NaN", "Infinity", "-Infinity", "1e999"):
            text = json.dumps(manifest(folder)).replace('"temperature": 1.0', f'"temperature": {value}')
            (folder / MANIFEST).write_text(text)
            with pytest.raises(BundleError, match="not understood"):
                Bundle.open(folder)
            (folder / MANIFEST).write_text(text.replace(value, "1.0"))

    def test_a_manifest_of_many_megabytes_is_not_read(self, own_copy):
        folder = own_copy("onnx")
        with (folder / MANIFEST).open("r+b") as file:
            file.truncate(17 * 2**20)
        with pytest.raises(BundleError, match="larger than 16 MB"):
            Bundle.open(folder)

    def test_a_file_of_terabytes_is_not_read(self, own_copy):
        folder = own_copy("onnx")
        entries = manifest(folder)["files"]
        entries["model.onnx"]["bytes"] = 2**42
        rewrite(folder, files=entries)
        with pytest.raises(BundleError, match=r"\$.files"):
            Bundle.open(folder)

    @pytest.mark.parametrize(
        "name",
        ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\\b", ".hidden", "bundle.json", "a\0b", "x" * 300, "a\nb"],
    )
    def test_names_that_lead_elsewhere(self, own_copy, name):
        folder = own_copy("onnx")
        (folder.parent / "secret").write_text("x")
        rewrite(folder, files={**manifest(folder)["files"], name: {"sha256": "0" * 64, "bytes": 1}})
        with pytest.raises(BundleError):
            Bundle.open(folder)

    def test_links_that_lead_elsewhere(self, bundles, own_copy):
        folder = own_copy("onnx")
        (folder / "model.onnx").unlink()
        (folder / "model.onnx").symlink_to(bundles["onnx"].path / "model.onnx")
        with pytest.raises(BundleError, match=r"model\.onnx is a link; copy the file itself"):
            Bundle.open(folder)

    def test_a_folder_in_place_of_a_file(self, own_copy):
        folder = own_copy("onnx")
        (folder / "model.onnx").unlink()
        (folder / "model.onnx").mkdir()
        with pytest.raises(BundleError, match=r"model\.onnx"):
            Bundle.open(folder)

    @settings(max_examples=200, deadline=None)
    @given(data=st.data())
    def test_damaged_text_is_refused_or_reads_the_same_files(self, hostile, data):
        folder, text = hostile
        damaged = bytearray(text)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        damaged = damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged
        (folder / MANIFEST).write_bytes(damaged)
        self.opens_or_is_refused(folder)

    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )

    @settings(max_examples=200, deadline=None)
    @given(data=st.data())
    def test_any_json_in_any_place_is_refused_or_reads_the_same_files(self, hostile, data):
        folder, text = hostile
        described = json.loads(text)
        key = data.draw(st.sampled_from(sorted(described)))
        inner = described[key]
        if isinstance(inner, dict) and inner and data.draw(st.booleans()):
            inner[data.draw(st.sampled_from(sorted(inner)) | st.text(max_size=8))] = data.draw(self.json_values)
        else:
            described[key] = data.draw(self.json_values)
        (folder / MANIFEST).write_text(json.dumps(described))
        self.opens_or_is_refused(folder)

    def opens_or_is_refused(self, folder: Path) -> None:
        model = folder / "model.onnx"
        try:
            read = Bundle.open(folder).manifest.files[model.name]
        except BundleError as fault:
            assert str(folder) in str(fault)  # noqa: PT017 (either outcome is right)
        else:
            assert read == FileEntry(sha256(model.read_bytes()), model.stat().st_size)
