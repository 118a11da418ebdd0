"""The npm package `libkd` reads what the Python SDK reads, gives the same answers, and refuses what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sdk
import sdk.errors
from bundle_edits import manifest, rewrite
from documents import PAGES, blocks
from javascript import PACKAGE, ROOT, VECTORS, needs_packages, node, passes
from runtimes.engines import ENGINES
from shell import libkd

pytestmark = [needs_packages, pytest.mark.usefixtures("package")]

FP32 = VECTORS / "bundles" / "onnx-fp32"


@pytest.mark.slow
def test_images_become_the_pixels_of_the_vectors():
    passes("pixels.test.mjs")


@pytest.mark.slow
def test_bundles_answer_as_expected_and_errors_have_their_codes():
    passes("classifier.test.mjs")


def test_the_committed_app_is_what_the_sources_build():
    done = node(PACKAGE / "build.mjs", "--check")
    assert done.returncode == 0, done.stderr
    done = node("node_modules/typescript/bin/tsc", "--project", "tsconfig.app.json")
    assert done.returncode == 0, done.stdout


def test_the_package_has_the_version_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for file in ("package.json", "package-lock.json"):
        assert json.loads((PACKAGE / file).read_text(encoding="utf-8"))["version"] == project["version"]


def test_the_engines_are_those_of_the_project():
    program = 'import { TARGETS } from "./dist/manifest.js"; console.log(JSON.stringify(TARGETS))'
    done = node("--input-type=module", "--eval", program)
    assert json.loads(done.stdout) == {name: list(engine.backends) for name, engine in ENGINES.items()}


def test_the_codes_are_those_of_the_python_errors():
    source = (PACKAGE / "src" / "errors.ts").read_text(encoding="utf-8")
    codes = dict(re.findall(r'"([a-z-]+)": ([12]),', source))
    errors = [kind for kind in vars(sdk.errors).values() if isinstance(kind, type) and issubclass(kind, sdk.LibkdError)]
    assert codes
    assert codes.items() <= {error.code: str(error.exit_code) for error in errors}.items()


# ----------------------------------------------------------------------------------------------------- the example


@pytest.fixture
def example(tmp_path) -> Path:
    """Return the program of `examples/node`, installed beside a link to the package."""
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "libkd").symlink_to(PACKAGE)
    return Path(shutil.copy(ROOT / "examples" / "node" / "predict.mjs", tmp_path))


@pytest.mark.slow
def test_the_example_prints_what_the_command_prints(example, tmp_path):
    (tmp_path / "no image\u2028.png").write_bytes(b"no image")
    images = [VECTORS / "images" / "rgba.png", tmp_path / "no image\u2028.png", VECTORS / "images" / "turn-6.jpg"]
    done, expected = node(example, FP32, *images), libkd("predict", FP32, *images, "--json")
    assert done.returncode == expected.returncode == 2
    assert done.stderr == ""
    found, wanted = (
        [json.loads(line) for line in text.split("\n") if line] for text in (done.stdout, expected.stdout.decode())
    )
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["source"] == theirs["source"]
        assert mine.get("code") == theirs.get("code")
        for one, other in zip(mine.get("top", []), theirs.get("top", []), strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "usage: node predict.mjs BUNDLE IMAGE... [usage]"),
        (("nowhere", "a.png"), "nowhere: not a bundle (it has no bundle.json); give the folder that export wrote"),
        ((VECTORS / "bundles" / "openvino-fp32", "a.png"), "JavaScript runs ONNX bundles only"),
    ],
)
def test_the_example_says_in_one_line_what_is_wrong(example, arguments, line):
    done = node(example, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_snippets_of_the_documentation_run(example):
    (example.parent / "run" / "bundles").mkdir(parents=True)
    (example.parent / "run" / "bundles" / "onnx").symlink_to(FP32)
    shutil.copy(VECTORS / "images" / "odd.jpg", example.parent / "photo.jpg")
    snippets = [block.text for page in PAGES for block in blocks(page) if block.language == "javascript"]
    assert snippets
    for snippet in snippets:
        (example.parent / "snippet.mjs").write_text(snippet, encoding="utf-8")
        done = node("snippet.mjs", cwd=example.parent)
        assert done.stdout.splitlines() == ["Bag"], done.stderr


# ----------------------------------------------------------------------------------------------------- bad bundles

Change = Callable[[Path], None]


def with_keys(**changes: Any) -> Change:
    return lambda folder: rewrite(folder, **changes)


def with_input(**changes: Any) -> Change:
    return lambda folder: rewrite(folder, input={**manifest(folder)["input"], **changes})


def with_file(name: str, content: bytes | None) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)

    return change


def with_text(text: bytes) -> Change:
    return with_file("bundle.json", text)


def with_listed(name: str, **entry: Any) -> Change:
    listed = {"sha256": "0" * 64, "bytes": 1, **entry}
    return lambda folder: rewrite(folder, files={**manifest(folder)["files"], name: listed})


def linked(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(FP32 / "model.onnx")


def with_flipped_bit(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


RESIZE = {"mode": "cover", "size": [36, 36], "filter": "bicubic"}
BAD: dict[str, Change] = {
    "another format": with_keys(format="libkd-bundle/2", novelty=1),
    "a foreign format": with_keys(format="something/1"),
    "an unknown key": with_keys(novelty=1),
    "an unknown engine": with_keys(target="tensorrt"),
    "an unknown precision": with_keys(precision="int3"),
    "a backend that is none": with_keys(backend="xnnpack"),
    "no labels": with_keys(labels=[]),
    "one label": with_keys(labels=["only"]),
    "a label with a control character": with_keys(labels=["a", "b\x1b[31m"]),
    "a label with a line end": with_keys(labels=["a", "b\n"]),
    "a label of half a character": with_keys(labels=["a", "\ud800"]),
    "a long label": with_keys(labels=["a", "b" * 501]),
    "logits": with_keys(output={"kind": "logits", "temperature": 1.0}),
    "no temperature": with_keys(output={"kind": "probabilities", "temperature": 0}),
    "no files": with_keys(files={}),
    "half an input": with_keys(input={"height": 32}),
    "a huge input": with_input(height=8193),
    "no height": with_input(height=0),
    "half a pixel": with_input(height=31.5),
    "another layout": with_input(layout="NCHW"),
    "a resize that is smaller than the crop": with_input(resize={**RESIZE, "size": [31, 36]}),
    "three lengths": with_input(resize={**RESIZE, "size": [36, 36, 36]}),
    "an unknown filter": with_input(resize={**RESIZE, "filter": "hamming"}),
    "no crop, and not the size": with_input(crop="none"),
    "a proof of no images": with_keys(proof={"images": 0, "max_abs_difference": 0, "top1_agreement": 1}),
    "a share above one": with_keys(proof={"images": 1, "max_abs_difference": 2, "top1_agreement": 1}),
    "versions that are numbers": with_keys(versions={"torch": 2}),
    "an empty text": with_text(b""),
    "null": with_text(b"null"),
    "a list": with_text(b"[]"),
    "no UTF-8": with_text(b"\xff\xfe"),
    "a byte order mark": lambda folder: with_text(b"\xef\xbb\xbf" + (folder / "bundle.json").read_bytes())(folder),
    "a number beyond all": with_text(b'{"format": "libkd-bundle/1", "created": 1e999}'),
    "many brackets": with_text(b'{"format": ' + b"[" * 100_000),
    "a manifest of many megabytes": with_text(b" " * (2**24 + 1)),
    "a file of terabytes": with_listed("model.onnx", bytes=2**42),
    "a hash in capitals": with_listed("model.onnx", sha256="A" * 64),
    "a name that leads elsewhere": with_listed("../secret"),
    "a name with a backslash": with_listed("a\\b"),
    "a hidden name": with_listed(".hidden"),
    "no name": with_listed(""),
    "the name of the manifest": with_listed("bundle.json"),
    "a name that can't be printed": with_listed("a\u200b"),
    "a name of JavaScript": with_listed("__proto__"),
    "a file that is not listed": with_file("more.txt", b"x"),
    "a file that is missing": with_file("golden.safetensors", None),
    "a file that is cut off": with_file("golden.safetensors", b"x"),
    "a link": linked,
    "a changed model": with_flipped_bit,
}
SIGNATURE = json.dumps({"algorithm": "ed25519", "key": "0" * 16, "signature": "A" * 86 + "=="}).encode()
GOOD: dict[str, Change] = {
    "nothing": lambda folder: None,
    "keys that may be absent": lambda folder: with_text(
        json.dumps(
            {key: value for key, value in manifest(folder).items() if key not in ("backend", "lowered")}
        ).encode()
    )(folder),
    "a signature that nobody asked for": with_file("bundle.sig", SIGNATURE),
}


@pytest.mark.slow
def test_both_languages_refuse_the_same_bundles(tmp_path):
    changes = {**BAD, **GOOD}
    for number, change in enumerate(changes.values()):
        change(Path(shutil.copytree(FP32, tmp_path / str(number))))
    done = node("test/codes.mjs", *(tmp_path / str(number) for number in range(len(changes))))
    assert done.returncode == 0, done.stderr
    found = dict(zip(changes, json.loads(done.stdout), strict=True))
    expected = {}
    for number, what in enumerate(changes):
        try:
            sdk.Bundle.open(tmp_path / str(number))
            expected[what] = "ok"
        except sdk.LibkdError as fault:
            expected[what] = fault.code
    assert found == expected
    assert {what: code for what, code in found.items() if code == "ok"} == dict.fromkeys(GOOD, "ok")
