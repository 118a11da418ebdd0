"""The specification of the bundle for readers in other languages agrees with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest

from runtimes.base import METADATA_KEY
from runtimes.engines import ENGINES, RUNNABLE
from sdk.bundle.golden import TOLERANCE
from sdk.bundle.manifest import Description, Manifest, json_schema

SPEC = Path(__file__).parents[2] / "spec"


def test_the_schema_is_the_one_of_the_manifest():
    written = json.loads((SPEC / "bundle.schema.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(json_schema())), "run `python tools/write_schema.py`"


def test_every_key_of_the_manifest_is_described():
    text = (SPEC / "bundle.md").read_text(encoding="utf-8")
    table = text[text.index("## The manifest\n") : text.index("## The manifest inside")]
    described = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert sorted(described) == sorted(Manifest.__struct_fields__)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_is_described(engine):
    text = (SPEC / "bundle.md").read_text(encoding="utf-8")
    assert METADATA_KEY in text
    assert f"`{engine}`" in text
    for file in ENGINES[engine].files:
        assert f"`{file}`" in text
    offset, magic = ENGINES[engine].magic
    shown = magic.decode() if magic.isascii() and magic.decode().isprintable() else magic.hex()
    assert f"`{shown}` at offset {offset}" in text


def test_the_tolerances_are_those_of_the_code():
    text = " ".join((SPEC / "bundle.md").read_text(encoding="utf-8").split())
    found = re.search(r"within (\S+) at fp32, (\S+) at fp16 and (\S+) at int8", text)
    assert found
    assert tuple(map(float, found.groups())) == tuple(TOLERANCE[precision] for precision in ("fp32", "fp16", "int8"))


@pytest.mark.parametrize("target", RUNNABLE)
def test_a_manifest_without_the_optional_keys_is_understood(bundles, target):
    """Bundles that were written before `backend` existed lack it, in bundle.json and inside the model file."""
    written = json.loads((bundles[target].path / "bundle.json").read_text(encoding="utf-8"))
    for key in ("backend", "quantized", "lowered"):
        del written[key]
    manifest = msgspec.convert(written, Manifest)
    assert manifest.backend is manifest.quantized is manifest.lowered is None
    assert isinstance(manifest.description(), Description)


@pytest.mark.parametrize(
    ("target", "backend", "message"),
    [
        ("tflite", None, "target 'tflite' is none of the engines here: onnx, openvino, executorch"),
        ("onnx", "cuda", "backend 'cuda' is none of onnx's"),
        ("executorch", "cuda", "backend 'cuda' is none of executorch's: xnnpack, vulkan, coreml"),
    ],
)
def test_an_unknown_engine_or_backend_is_refused_by_name(bundles, target, backend, message):
    written = json.loads((bundles["onnx"].path / "bundle.json").read_text(encoding="utf-8"))
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({**written, "target": target, "backend": backend}, Manifest)


@pytest.mark.parametrize("target", RUNNABLE)
def test_another_implementation_of_the_schema_accepts_real_bundles_and_refuses_others(bundles, target):
    schema = json.loads((SPEC / "bundle.schema.json").read_text(encoding="utf-8"))
    checker = jsonschema.Draft202012Validator(schema)
    written = json.loads((bundles[target].path / "bundle.json").read_text(encoding="utf-8"))
    checker.validate(written)
    for change in (
        {"target": "tflite"},
        {"labels": ["alone"]},
        {"labels": ["two\nlines", "b"]},
        {"unknown": 1},
        {"format": "libkd-bundle/2"},
        {"files": {"model.onnx": {"sha256": "0", "bytes": 1}}},
    ):
        assert not checker.is_valid({**written, **change}), change
