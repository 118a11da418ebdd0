"""The damage that `fuzz_bundles.py` does to a bundle: a function for each class, which changes a copy in place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from sdk.bundle.keys import PrivateKey
from sdk.bundle.manifest import MANIFEST
from sdk.bundle.signature import SIGNATURE
from sdk.bundle.writing import sign

ODD_NAMES = (
    *("../model.onnx", "/etc/passwd", "a/b", "a\\b", "", ".", "..", ".hidden", "model.onnx\0", "model.onnx\n", "C:m"),
    *(
        "MODEL.ONNX",
        "model.onnx ",
        "m\u043edel.onnx",
        "con",
        "bundle.json",
        "bundle.sig",
        "x" * 300,
        "\ud800",
        "\u202en",
    ),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**63, 2**64, 1e308, -0.0, 0.5, "", "x", "\u0000", [], {}, [[]], {"": 0}, "fp16"),
    *("int8", "uint8", "NCHW", "BGR", "nearest", "squash", "none", "openvino", "libkd-bundle/2", ["a", "b"], [8, 8]),
)


class Material(NamedTuple):
    """The things that a mutation may use besides the copy: another bundle of the same shape, and two keys."""

    other: Path
    ours: PrivateKey
    theirs: PrivateKey


class Kind(NamedTuple):
    """A class of damage.

    Attributes:
        share: how often it is tried, relative to the others.
        hashed_again: the attacker made the hashes right, so the bundle goes through the child first.
        signed: the bundle is opened with a trusted key.
    """

    name: str
    damage: Callable[[Path, Random, Material], None]
    share: int
    hashed_again: bool = False
    signed: bool = False


def byte_of_the_manifest(folder: Path, draw: Random, material: Material) -> None:
    _change_bytes(folder / MANIFEST, draw)


def structure_of_the_manifest(folder: Path, draw: Random, material: Material) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    for _ in range(draw.randint(1, 2)):
        _change_value(content, draw)
    text = json.dumps(content)
    if draw.random() < 0.1:  # a key that is there twice
        text = text[:-1] + f', "labels": {json.dumps(content.get("labels"))[::-1] if draw.random() < 0.5 else "[]"}}}'
    if draw.random() < 0.05:
        text = text.replace('"bytes"', '"bytes": ' + "[" * 5000, 1)
    (folder / MANIFEST).write_text(text, errors="surrogatepass")


def byte_of_a_file(folder: Path, draw: Random, material: Material) -> None:
    _change_bytes(_any_file(folder, draw), draw)


def length_of_a_file(folder: Path, draw: Random, material: Material) -> None:
    file = _any_file(folder, draw)
    content = file.read_bytes()
    if draw.random() < 0.6:
        file.write_bytes(content[: draw.randrange(len(content))])
    else:
        file.write_bytes(content + draw.randbytes(draw.choice((1, 2, 16, 1000))))


def byte_of_a_file_hashed_again(folder: Path, draw: Random, material: Material) -> None:
    byte_of_a_file(folder, draw, material)
    _hash_again(folder)


def length_of_a_file_hashed_again(folder: Path, draw: Random, material: Material) -> None:
    length_of_a_file(folder, draw, material)
    _hash_again(folder)


def file_of_another_bundle(folder: Path, draw: Random, material: Material) -> None:
    name = draw.choice(sorted(file.name for file in folder.iterdir()))
    if draw.random() < 0.2:  # under another name
        shutil.copyfile(material.other / name, folder / draw.choice([file.name for file in folder.iterdir()]))
    else:
        shutil.copyfile(material.other / name, folder / name)


def file_of_another_bundle_hashed_again(folder: Path, draw: Random, material: Material) -> None:
    shutil.copyfile(material.other / (file := _any_file(folder, draw)).name, file)
    _hash_again(folder)


def odd_entry(folder: Path, draw: Random, material: Material) -> None:
    """Put a link, a pipe, a socket or a folder where a file was, or something further, or list an odd name."""
    kind = draw.randrange(8)
    file = draw.choice([_any_file(folder, draw), folder / MANIFEST])
    outside = folder.with_name(f"{folder.name}-outside")
    if kind == 0:
        shutil.move(file, outside)
        file.symlink_to(
            draw.choice([str(outside), "/dev/zero", "/proc/self/mem", file.name, "../" * 50 + "etc/passwd"])
        )
    elif kind == 1:
        file.unlink()
        os.mkfifo(file)
    elif kind == 2:
        file.unlink()
        file.mkdir()
    elif kind == 3:
        file.unlink()
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(file))
    elif kind == 4:
        file.unlink()
    elif kind == 5:
        names = ("w.bin", ".hidden", "model.onnx.data", "Thumbs.db", "bundle.json~", "a\nb", "é")
        further = folder / draw.choice(names)
        further.mkdir() if draw.random() < 0.3 else further.write_bytes(b"x")
    elif kind == 6:
        content = json.loads((folder / MANIFEST).read_text())
        name = draw.choice(sorted(content["files"]))
        entry = content["files"].pop(name) if draw.random() < 0.7 else content["files"][name]
        content["files"][draw.choice(ODD_NAMES)] = entry
        (folder / MANIFEST).write_text(json.dumps(content))
    else:
        file.rename(folder / draw.choice(("other", "MODEL.ONNX", "model.onnx.bak", "model .xml")))


def signature_damage(folder: Path, draw: Random, material: Material) -> None:
    """Sign the bundle, and then change the signature, or what it signs, or who signed."""
    sign(folder, material.ours)
    file, kind = folder / SIGNATURE, draw.randrange(7)
    content = json.loads(file.read_text())
    if kind == 0:
        _change_bytes(file, draw)
    elif kind == 1:
        file.unlink()
    elif kind == 2:
        sign(folder, material.theirs)
        if draw.random() < 0.5:
            file.write_text(json.dumps({**json.loads(file.read_text()), "key": material.ours.id}))
    elif kind == 3:
        file.write_bytes(draw.randbytes(draw.choice((0, 1, 64, 200, 5000))))
    elif kind == 4:
        content[draw.choice(("algorithm", "key", "signature", "more"))] = draw.choice(ODD_VALUES)
        file.write_text(json.dumps(content))
    elif kind == 5:
        (structure_of_the_manifest if draw.random() < 0.5 else byte_of_the_manifest)(folder, draw, material)
    else:
        byte_of_a_file_hashed_again(folder, draw, material)


KINDS = (
    Kind("a byte of bundle.json", byte_of_the_manifest, 20),
    Kind("structure of bundle.json", structure_of_the_manifest, 20),
    Kind("a byte of a file", byte_of_a_file, 10),
    Kind("length of a file", length_of_a_file, 5),
    Kind("a file of another bundle", file_of_another_bundle, 5),
    Kind("links, pipes, odd names", odd_entry, 15),
    Kind("signature", signature_damage, 12, signed=True),
    Kind("a byte of a file, hashed again", byte_of_a_file_hashed_again, 8, hashed_again=True),
    Kind("length of a file, hashed again", length_of_a_file_hashed_again, 3, hashed_again=True),
    Kind("another bundle's, hashed again", file_of_another_bundle_hashed_again, 2, hashed_again=True),
)


def _any_file(folder: Path, draw: Random) -> Path:
    """Choose the model file as often as all others together."""
    files = sorted(file for file in folder.iterdir() if file.name not in (MANIFEST, SIGNATURE))
    models = [file for file in files if file.name.startswith("model.")]
    return draw.choice(models if draw.random() < 0.7 else files)


def _change_bytes(file: Path, draw: Random) -> None:
    """Change one to four bytes; half of the time near the start, where headers lie."""
    content = bytearray(file.read_bytes())
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        place = draw.randrange(min(len(content), 20_000 if draw.random() < 0.5 else len(content)))
        content[place] = draw.randrange(256) if draw.random() < 0.5 else content[place] ^ 1 << draw.randrange(8)
    file.write_bytes(content)


def _change_value(content: Any, draw: Random) -> None:
    """Change something in nested dictionaries and lists: replace, remove, add, or reorder."""
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    if not keys:
        return None
    key = draw.choice(keys)
    inner = content[key]
    if isinstance(inner, dict | list) and inner and draw.random() < 0.6:
        return _change_value(inner, draw)
    change = draw.randrange(5)
    if change == 0:
        del content[key]
    elif change == 1 and isinstance(inner, list):
        draw.shuffle(inner)
    elif change == 2 and isinstance(content, dict):
        content[draw.choice(ODD_NAMES)] = draw.choice(ODD_VALUES)
    elif change == 3 and isinstance(inner, int | float) and not isinstance(inner, bool):
        content[key] = inner + draw.choice((-1, 1, 0.5, inner))
    else:
        content[key] = draw.choice(ODD_VALUES)
    return None


def _hash_again(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    for name in content["files"]:
        data = (folder / name).read_bytes()
        content["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / MANIFEST).write_text(json.dumps(content))
