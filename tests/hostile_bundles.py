"""Bundles for ExecuTorch that somebody changed to do harm, for readers in any language."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from bundle_edits import manifest, reseal, rewrite

MANIFESTS: list[dict[str, Any]] = [
    {"format": "libkd-bundle/2", "novelty": 1},
    {"format": "something/1"},
    {"novelty": 1},
    {"name": ""},
    {"name": 5},
    {"name": "x" * 501},
    {"created": None},
    {"target": "tensorrt"},
    {"backend": "cuda"},
    {"backend": None},
    {"precision": "int3"},
    {"labels": []},
    {"labels": ["only one"]},
    {"labels": ["a", "b\x1b[31m"]},
    {"labels": ["a", "b\n"]},
    {"labels": ["a", 1]},
    {"labels": ["a", "😀" * 500]},
    {"labels": ["a", "😀" * 501]},
    {"output": {"kind": "logits", "temperature": 1.0}},
    {"output": {"kind": "probabilities", "temperature": 0}},
    {"output": {"temperature": True}},
    {"output": {}},
    {"files": {}},
    {"files": {"model.pte": {"sha256": "0" * 64, "bytes": 1}}},
    {"files": {"model.pte": {"sha256": "0" * 64, "bytes": 2**42}}},
    {"files": {"model.pte": {"sha256": "0" * 64, "bytes": 1.0}}},
    {"files": {"model.pte": {"sha256": "A" * 64, "bytes": 1}}},
    {"input": {"height": 32}},
    {"input": {"height": 0, "width": 32, "resize": {"mode": "cover", "size": [32, 32]}}},
    {"input": {"height": 32, "width": 9000, "resize": {"mode": "cover", "size": [32, 9000]}}},
    {"input": {"height": 32, "width": 32, "resize": {"mode": "cover", "size": [31, 32]}}},
    {"input": {"height": 32, "width": 32, "resize": {"mode": "cover", "size": [32]}}},
    {"input": {"height": 32, "width": 32, "resize": {"mode": "cover", "size": [32, 32]}, "crop": "none"}},
    {"input": {"height": 32, "width": 32, "resize": {"mode": "squash", "size": [32, 32]}, "crop": "none"}},
    {"input": {"height": 32, "width": 32, "resize": {"mode": "squash", "size": [32, 32], "filter": "hamming"}}},
    {"input": {"height": 32, "width": 32, "resize": {"mode": "squash", "size": [32, 32]}, "mean": 0}},
    {"model": {"arch": "x"}},
    {"model": {"arch": "x", "parameters": -1}},
    {"model": {"arch": "x", "parameters": 1, "teachers": None}},
    {"quantized": {"calibration_images": 0}},
    {"quantized": {"calibration_images": 8, "float_layers": ["a"]}},
    {"lowered": {"delegates": 1}},
    {"lowered": {"delegates": 1, "outside": {"op": "1"}}},
    {"proof": {"images": 8, "max_abs_difference": 2, "top1_agreement": 1.0}},
    {"proof": {"images": 8, "max_abs_difference": 0, "top1_agreement": 1, "top1": None}},
    {"proof": None},
    {"versions": {"torch": 2}},
]
NAMES = [
    "../secret",
    "/etc/passwd",
    "..",
    "",
    "a/b",
    "a\\b",
    ".hidden",
    "bundle.json",
    "bundle.sig",
    "a\nb",
    "a\u200bb",
]
TEXTS = [
    b"",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'{"format": "libkd-bundle/1", "name": NaN}',
    b'{"format": ' + b"[" * 100_000,
    b'{"x": ' * 50_000,
]
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte-order mark": lambda text: b"\xef\xbb\xbf" + text,
    "a trailing comma": lambda text: text.rstrip()[:-1] + b",}",
    "more text": lambda text: text + b"x",
    "half a pair": lambda text: text.replace(b'"created": "', b'"created": "\\ud83d', 1),
    "a whole pair": lambda text: text.replace(b'"created": "', b'"created": "\\ud83d\\ude00', 1),
    "an unknown escape": lambda text: text.replace(b'"created": "', b'"created": "\\x', 1),
    "a raw tab": lambda text: text.replace(b'"created": "', b'"created": "\t', 1),
    "a surrogate in UTF-8": lambda text: text.replace(b'"created": "', b'"created": "\xed\xa0\x80', 1),
    "a leading zero": lambda text: text.replace(b'"height": 32', b'"height": 032', 1),
    "a fraction": lambda text: text.replace(b'"height": 32', b'"height": 32.0', 1),
    "a number out of range": lambda text: re.sub(rb'"temperature": [\d.]+', b'"temperature": 1e999', text),
    "a key twice": lambda text: text.replace(b'"created": "', b'"created": "", "created": "', 1),
}


def hostile_bundles(bundle: Path, place: Path) -> list[Path]:
    """Return copies of an ExecuTorch bundle that somebody changed to do harm, and a few that are still right."""
    folders: list[Path] = []

    def copy() -> Path:
        folders.append(Path(shutil.copytree(bundle, place / str(len(folders)))))
        return folders[-1]

    for changes in MANIFESTS:
        rewrite(copy(), **changes)
    for name in NAMES:
        folder = copy()
        rewrite(folder, files={**manifest(folder)["files"], name: {"sha256": "0" * 64, "bytes": 1}})
    for text in TEXTS:
        (copy() / "bundle.json").write_bytes(text)
    for damage in DAMAGES.values():
        file = copy() / "bundle.json"
        file.write_text(json.dumps(json.loads(file.read_text())))  # with the spaces that the damages look for
        text = file.read_bytes()
        file.write_bytes(damage(text))
        assert file.read_bytes() != text
    (copy() / "bundle.json").unlink()
    with (copy() / "bundle.json").open("r+b") as large:
        large.truncate(17 * 2**20)
    (copy() / "notes.txt").write_text("not listed")
    signature = {"algorithm": "ed25519", "key": "0123456789abcdef", "signature": base64.b64encode(bytes(64)).decode()}
    (copy() / "bundle.sig").write_text(json.dumps(signature))
    (copy() / "bundle.sig").write_bytes(b"x" * 4097)
    (copy() / "model.pte").unlink()
    with (copy() / "model.pte").open("ab") as longer:
        longer.write(b"x")
    with (copy() / "model.pte").open("r+b") as changed:
        changed.seek(1000)
        changed.write(b"\xff\x00\xff")
    folder = copy()
    with (folder / "model.pte").open("r+b") as foreign:
        foreign.seek(4)
        foreign.write(b"ET99")
    reseal(folder)
    folder = copy()
    (folder / "model.pte").write_bytes(b"ET")
    reseal(folder)
    folder = copy()
    (folder / "model.pte").unlink()
    (folder / "model.pte").symlink_to(bundle / "model.pte")
    return folders


def damaged_tensors(content: bytes) -> list[bytes]:
    """Return files that are no safetensors files, or hold other tensors than golden images."""
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]

    def whole(changed: dict[str, Any], more: bytes = b"") -> bytes:
        text = json.dumps(changed).encode()
        return len(text).to_bytes(8, "little") + text + body + more

    def with_pixels(**changes: Any) -> bytes:
        return whole({**header, "pixels": {**header["pixels"], **changes}})

    count, *lengths = header["pixels"]["shape"]
    begin, end = header["pixels"]["data_offsets"]
    return [
        content[:5],
        content[:-1],
        content + b"x",
        b"\xff" * 8 + content[8:],
        (2**63 - 1).to_bytes(8, "little") + content[8:],
        whole({"probabilities": header["probabilities"]}),
        whole(header, b"more"),
        with_pixels(dtype="I8"),
        with_pixels(dtype="nothing"),
        with_pixels(shape=[count, *reversed(lengths)]),
        with_pixels(shape=[count * 2, *lengths]),
        with_pixels(shape=[2**31, 2**31, 2**31, 3]),
        with_pixels(data_offsets=[begin + 1, end + 1]),
        with_pixels(data_offsets=[end, begin]),
        with_pixels(data_offsets=[-1, end - begin - 1]),
        with_pixels(novelty=1),
        save({"pixels": np.zeros((0, *lengths), np.uint8), "probabilities": np.zeros((0, 10), np.float32)}),
    ]
