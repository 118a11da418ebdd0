"""The reader in C++ answers malformed bundles and images with the right error, and does nothing undefined."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdk
from bundle_edits import manifest, reseal, rewrite
from cpp_reader import IMAGES, VECTORS, refusal
from sdk.bundle.manifest import MANIFEST

pytestmark = pytest.mark.slow

BUNDLE, MODEL = VECTORS / "bundles" / "executorch-fp32", "model.pte"


def edited(**changes: object) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, **changes)


def inner(key: str, **changes: object) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, **{key: {**manifest(folder)[key], **changes}})


def without(*keys: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        left = {key: value for key, value in manifest(folder).items() if key not in keys}
        (folder / MANIFEST).write_text(json.dumps(left))

    return change


def text(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / MANIFEST).write_bytes(content)


def bytes_of(name: str, change: Callable[[bytes], bytes], *, sealed: bool = False) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))
        if sealed:
            reseal(folder)

    return apply


def linked(folder: Path) -> None:
    shutil.move(folder / MODEL, folder.parent / MODEL)
    (folder / MODEL).symlink_to(folder.parent / MODEL)


def replaced_by_folder(folder: Path) -> None:
    (folder / MODEL).unlink()
    (folder / MODEL).mkdir()


def listing(name: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, files={**manifest(folder)["files"], name: {"sha256": "0" * 64, "bytes": 1}})


def golden(header: bytes | dict, data: bytes = b"") -> Callable[[Path], None]:
    """Replace golden.safetensors by one with this header."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return bytes_of("golden.safetensors", lambda _: struct.pack("<Q", len(head)) + head + data, sealed=True)


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "bundle.json is missing"),
    "changed byte": (bytes_of(MODEL, lambda old: old[:-1] + bytes([old[-1] ^ 1])), "was changed since its export"),
    "cut off": (bytes_of(MODEL, lambda old: old[:-1]), "copy or export the bundle again"),
    "longer": (bytes_of(MODEL, lambda old: old + b"0"), "has more than"),
    "missing file": (lambda folder: (folder / MODEL).unlink(), "model.pte is missing"),
    "link": (linked, "model.pte is a link"),
    "folder for a file": (replaced_by_folder, "model.pte is not a file"),
    "unlisted file": (lambda folder: (folder / "more.txt").write_text("x"), "holds 'more.txt'"),
    "large signature": (lambda folder: (folder / "bundle.sig").write_bytes(b"x" * 4097), "bundle.sig has more than"),
    "other magic": (bytes_of(MODEL, lambda old: old[:4] + b"XX12" + old[8:], sealed=True), "not a file of ExecuTorch"),
    "short model": (bytes_of(MODEL, lambda _: b"ET", sealed=True), "not a file of ExecuTorch"),
    "next format": (edited(format="libkd-bundle/2", novelty={"a": [1, None]}), "written in format libkd-bundle/2"),
    "other format": (edited(format="something/1"), "$.format: one of: libkd-bundle/1"),
    "unknown key": (edited(novelty=1), "$.novelty: an unknown key"),
    "unknown inner key": (inner("input", novelty=1), "$.input.novelty: an unknown key"),
    "missing key": (without("versions"), "the key versions is missing"),
    "other engine": (edited(target="tensorrt"), "$.target"),
    "other backend": (edited(backend="cuda"), "$.backend"),
    "other precision": (edited(precision="int3"), "$.precision"),
    "one label": (edited(labels=["alone"]), "two labels or more"),
    "label with control": (edited(labels=["a", "b\x1b[31m"]), "control character"),
    "label of 501": (edited(labels=["a", "\u00e4" * 501]), "between 1 and 500"),
    "label of a number": (edited(labels=[1, 2]), "$.labels"),
    "logits": (edited(output={"kind": "logits"}), "$.output.kind"),
    "temperature of 0": (edited(output={"temperature": 0}), "$.output.temperature"),
    "no height": (inner("input", height=None), "$.input.height"),
    "height of 0": (inner("input", height=0), "$.input.height"),
    "huge height": (inner("input", height=2**70), "$.input.height"),
    "crop that is larger": (inner("input", height=8000), "smaller than the crop"),
    "no files": (edited(files={}), "does not list model.pte"),
    "file of terabytes": (edited(files={MODEL: {"sha256": "0" * 64, "bytes": 2**42}}), "$.files.model.pte.bytes"),
    "hash that is none": (edited(files={MODEL: {"sha256": "g" * 64, "bytes": 1}}), "$.files.model.pte.sha256"),
    **{
        f"name {name!a}": (listing(name), "not a valid name")
        for name in ("../up", "a/b", ".a", "", "a\\b", "a\nb", "a\0")
    },
    "name of 300": (listing("x" * 300), "unreadable"),
    "empty": (text(b""), "not understood"),
    "null": (text(b"null"), "not understood"),
    "no UTF-8": (text(b'{"format": "\xff"}'), "not understood"),
    "half a character": (text(rb'{"format": "\ud800"}'), "not understood"),
    "NaN": (text(b'{"format": "libkd-bundle/1", "name": NaN}'), "not understood"),
    "1e999": (text(b'{"x": 1e999, "format": "libkd-bundle/1"}'), "not understood"),
    "deep": (text(b'{"x": ' + b"[" * 100_000), "nested too deeply"),
    "deep objects": (text(b'{"x": ' * 50_000), "nested too deeply"),
    "many keys": (text(b'{"format": "libkd-bundle/1"' + b', "a": 9' * 10_000 + b"}"), "not understood"),
    "two values": (text(b'{"format": "libkd-bundle/1"} {}'), "not understood"),
    "leading zero": (text(b'{"format": "libkd-bundle/1", "a": 01}'), "not understood"),
    "17 MB": (lambda folder: os.truncate(folder / MANIFEST, 17 * 2**20), "bundle.json has more than"),
}
BEYOND_FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "another name": (edited(name="somebody else's"), "bundle-invalid", "was made for another bundle.json"),
    "another shape": (
        inner("input", height=31),
        "bundle-invalid",
        "the model's input is a tensor: uint8 [1, 32, 32, 3]",
    ),
    "another class": (edited(labels=["a", "b"]), "bundle-invalid", "the model's output is a tensor: float32 [1, "),
    "damaged model": (bytes_of(MODEL, lambda old: old[:600], sealed=True), "engine-failed", "loading model.pte failed"),
    "header cut off": (golden(b'{"pixels"'), "bundle-invalid", "golden.safetensors can't be read"),
    "header too long": (
        bytes_of("golden.safetensors", lambda old: b"\xff" * 8 + old[8:], sealed=True),
        "bundle-invalid",
        "ends too early",
    ),
    "no header": (bytes_of("golden.safetensors", lambda old: old[:5], sealed=True), "bundle-invalid", "ends too early"),
    "data cut off": (
        bytes_of("golden.safetensors", lambda old: old[:-1], sealed=True),
        "bundle-invalid",
        "does not fit the manifest",
    ),
    "other tensors": (golden({"pixel": tensor("U8", [1], 0, 1)}, b"1"), "bundle-invalid", "unknown key"),
    "other types": (
        golden(
            {"pixels": tensor("F32", [1, 32, 32, 3], 0, 12288), "probabilities": tensor("F32", [1, 5], 0, 20)},
            bytes(12288),
        ),
        "bundle-invalid",
        "does not fit the manifest",
    ),
    "lengths that overflow": (
        golden(
            {
                "pixels": tensor("U8", [2**31, 32, 32, 3], 0, 0),
                "probabilities": tensor("F32", [2**31, 5], 2**31, 0),
            }
        ),
        "bundle-invalid",
        "does not fit the manifest",
    ),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A bundle for ExecuTorch that may be damaged."""
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


def test_a_backend_of_phones_is_refused(sanitized, folder):
    edited(backend="vulkan")(folder)
    assert refusal(sanitized(folder, IMAGES[0]))[1] == "engine-missing"


@pytest.mark.parametrize("case", HOSTILE)
def test_a_malformed_bundle_is_refused(sanitized, folder, case):
    change, words = HOSTILE[case]
    change(folder)
    message, code = refusal(sanitized(folder, IMAGES[0]))
    assert code == "bundle-invalid"
    assert words in message
    with pytest.raises(sdk.BundleError):
        sdk.Bundle.open(folder)


@pytest.mark.parametrize("case", BEYOND_FILES)
def test_a_bundle_that_does_not_fit_its_model_is_refused(sanitized, folder, case):
    pytest.importorskip("executorch")
    change, code, words = BEYOND_FILES[case]
    change(folder)
    message, found = refusal(sanitized(folder, "--verify"))
    assert found == code, message
    assert words in message


def test_a_model_that_answers_otherwise_fails_its_golden_images(sanitized, folder):
    pytest.importorskip("executorch")
    tensors = load_file(folder / "golden.safetensors")
    tensors["probabilities"] = np.ascontiguousarray(tensors["probabilities"][:, ::-1])
    save_file(tensors, folder / "golden.safetensors")
    reseal(folder)
    message, code = refusal(sanitized(folder, "--verify"))
    assert code == "proof-failed"
    assert "golden answers are off by" in message


def test_a_bundle_without_golden_images_can_not_be_verified(sanitized, folder):
    pytest.importorskip("executorch")
    (folder / "golden.safetensors").unlink()
    reseal(folder)
    assert refusal(sanitized(folder, "--verify"))[1] == "usage"
    assert sanitized(folder, IMAGES[0]).returncode == 0


def png(width: int, height: int, data: bytes = b"", kind: int = 2) -> bytes:
    """Return a PNG whose header claims a size."""
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0),
        b"IDAT": zlib.compress(data),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts.items()
    )


def jpeg_of(width: int, height: int) -> bytes:
    """Return a small JPEG whose header claims another size."""
    content = (VECTORS / "images" / "small.jpg").read_bytes()
    frame = content.index(b"\xff\xc0")
    return content[: frame + 5] + struct.pack(">HH", height, width) + content[frame + 9 :]


def malformed_images() -> dict[str, bytes]:
    whole = {
        name: (VECTORS / "images" / name).read_bytes()
        for name in ("odd.jpg", "progressive.jpg", "rgba.png", "palette.png")
    }
    return {
        "empty.png": b"",
        "one.jpg": b"\xff",
        "text.txt": b"no image at all",
        "gif.gif": b"GIF89a" + bytes(40),
        "signature.png": png(1, 1)[:8],
        "signature.jpg": b"\xff\xd8\xff",
        "huge.png": png(2**31 - 1, 2**31 - 1),
        "wide.png": png(70_000, 1, bytes(210_001)),
        "many.png": png(65_000, 65_000),
        "none.png": png(0, 5),
        "little.png": png(64, 64, b"\0" * 10),
        "kind.png": png(8, 8, bytes(500), kind=5),
        "palette.png": png(8, 8, bytes(500), kind=3),
        "huge.jpg": jpeg_of(65_500, 65_500),
        "zero.jpg": jpeg_of(0, 0),
        "scans.jpg": scans(),
        "no-end.jpg": whole["odd.jpg"].removesuffix(b"\xff\xd9"),
        **{
            f"cut-{share}-{name}": content[: len(content) * share // 100]
            for name, content in whole.items()
            for share in (3, 20, 60, 98)
        },
    }


def scans() -> bytes:
    """Return a progressive JPEG whose first scan comes five hundred times."""
    content = (VECTORS / "images" / "progressive.jpg").read_bytes()
    start = content.index(b"\xff\xda")
    end = min(
        place for place in (content.find(b"\xff\xc4", start + 2), content.find(b"\xff\xda", start + 2)) if place > 0
    )
    return content[:end] + content[start:end] * 500 + content[end:]


def test_malformed_images_are_named_and_the_others_predicted(sanitized, tmp_path):
    pytest.importorskip("executorch")
    bad = malformed_images()
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    names = [*bad, ".", "pipe", "absent.png", VECTORS / "images" / "rgba.png"]
    done = sanitized(BUNDLE, *(tmp_path / name for name in names))
    assert done.returncode == 2
    assert done.stderr == b""
    *rows, last = map(json.loads, done.stdout.splitlines())
    assert "label" in last
    assert [(row["source"], row.get("code")) for row in rows] == [
        (str(tmp_path / name), "image-unreadable") for name in names[:-1]
    ]


EXIF = {
    "whole": b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0",
    "no directory": b"II*\0\x08\0\0\0",
    "far directory": b"MM\0*\xff\xff\xff\xff",
    "many tags": b"II*\0\x08\0\0\0\xff\xff" + bytes(20),
    "cut off": b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1",
    "turn of 9": b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x09\0\0\0",
}


def test_damaged_exif_says_nothing(sanitized, tmp_path):
    """It lies in a PNG, from which libpng copies it to a place of exactly its size."""
    image = (VECTORS / "images" / "rgb-37x53.png").read_bytes()
    for name, body in EXIF.items():
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        (tmp_path / f"{name}.png").write_bytes(image[:33] + chunk + image[33:])
    input = '{"height": 8, "width": 8, "resize": {"mode": "squash", "size": [8, 8]}}'
    done = sanitized(
        "--pixels", input, VECTORS / "images" / "rgb-37x53.png", *(tmp_path / f"{name}.png" for name in EXIF)
    )
    assert done.returncode == 0, done.stderr.decode()
    plain, turned, *others = np.frombuffer(done.stdout, np.uint8).reshape(-1, 8, 8, 3)
    assert np.array_equal(turned, np.rot90(plain, -1))
    assert all(np.array_equal(other, plain) for other in others)


def test_damaged_images_are_refused_or_predicted(sanitized, tmp_path):
    """Single bytes are changed, in headers more often than in pixels."""
    pytest.importorskip("executorch")
    draw = random.Random(5)
    sources = [file for file in IMAGES if file.stat().st_size < 20_000]
    files = []
    for number in range(250):
        source = sources[number % len(sources)]
        content = bytearray(source.read_bytes())
        for _ in range(draw.randint(1, 3)):
            content[draw.randrange(len(content) if draw.random() < 0.5 else min(200, len(content)))] = draw.randrange(
                256
            )
        files.append(tmp_path / f"{number}-{source.name}")
        files[-1].write_bytes(content)
    done = sanitized(BUNDLE, *files)
    assert done.stderr == b""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["source"] for row in rows] == list(map(str, files))
    codes = [row.get("code", "predicted") for row in rows]
    assert set(codes) == {"image-unreadable", "predicted"}
