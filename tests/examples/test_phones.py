"""The cores of the apps for phones do what the SDK does: the same pixels, the same checks, the same answers.

The apps themselves can't be built here. Their files are parsed, so that a slip of the pen is found.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from safetensors.numpy import load_file

import reference_pixels
from bundle_edits import reseal
from hostile_bundles import damaged_tensors, hostile_bundles
from phones import KOTLIN_CORE, ROOT, SWIFT_CORE, Program, compiled
from runtimes.base import ModelFiles, Signature
from runtimes.engines import open_session
from sdk import Bundle, Classifier, LibkdError
from sdk.images import pixels

VECTORS = ROOT / "spec" / "vectors"
IMAGES = sorted((VECTORS / "images").iterdir())
EXPECTED = load_file(VECTORS / "pixels.safetensors")
INPUTS = json.loads((VECTORS / "vectors.json").read_text(encoding="utf-8"))["inputs"]
BUNDLE = VECTORS / "bundles" / "executorch-fp32"
INT8 = VECTORS / "bundles" / "executorch-int8"
APPS = {"kotlin": ROOT / "examples" / "android", "swift": ROOT / "examples" / "ios"}
SUFFIXES = {"kotlin": (".kt", ".kts"), "swift": (".swift",)}


@pytest.fixture(scope="module", params=["kotlin", "swift"])
def core(request, tmp_path_factory) -> Program:
    return compiled(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def decoded(tmp_path_factory) -> dict[str, tuple[object, ...]]:
    """The arguments of the harness for each image: file, width, height, channels and orientation."""
    folder = tmp_path_factory.mktemp("decoded")
    found = {}
    for file in IMAGES:
        with Image.open(file) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if image.mode == "I;16":
                array = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, 2)
            else:
                array = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
        found[file.name] = (*raw(folder / file.name, array), orientation)
    return found


def raw(file: Path, array: np.ndarray) -> tuple[object, ...]:
    """Write the bytes of an image, and return its file and its lengths as the harness takes them."""
    file.write_bytes(array.tobytes())
    height, width, channels = array.shape
    return file, width, height, channels


@pytest.mark.slow
def test_the_vectors_come_out_to_the_bit_and_whole_jpegs_almost(core, decoded, tmp_path):
    for name, input in INPUTS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(input))
    cases = [(name, file.name) for name in INPUTS for file in IMAGES]
    commands = [
        ("pixels", tmp_path / f"{name}.json", tmp_path / f"{name}-{image}", *decoded[image]) for name, image in cases
    ]
    assert core.answers(commands) == [["ok"]] * len(cases)
    for name, image in cases:
        expected = EXPECTED[f"{name}/{image}"]
        found = np.frombuffer((tmp_path / f"{name}-{image}").read_bytes(), np.uint8).reshape(expected.shape)
        if image.endswith(".png"):
            assert np.array_equal(found, expected), (name, image)
        else:
            assert np.abs(found.astype(int) - expected).mean() < 1, (name, image)


@pytest.mark.slow
def test_any_image_becomes_what_the_rule_says(core, tmp_path):
    random = np.random.default_rng(7)
    commands, expected = [], []
    for index in range(60):
        height, width, *lengths = (int(length) for length in random.integers(1, 90, 4))
        more = random.integers(0, 9, 2)
        input = {
            "height": lengths[0],
            "width": lengths[1],
            "resize": {
                "mode": str(random.choice(["cover", "squash"])),
                "size": [lengths[0] + int(more[0]), lengths[1] + int(more[1])],
                "filter": str(random.choice(["nearest", "box", "bilinear", "bicubic", "lanczos"])),
            },
        }
        image = random.integers(0, 256, (height, width, int(random.choice([3, 4]))), np.uint8)
        orientation = index % 8 + 1
        (tmp_path / f"{index}.json").write_text(json.dumps(input))
        source = raw(tmp_path / f"{index}.raw", image)
        commands.append(("pixels", tmp_path / f"{index}.json", tmp_path / f"{index}.out", *source, orientation))
        expected.append(reference_pixels.pixels(image, input, orientation).tobytes())
    assert core.answers(commands) == [["ok"]] * len(commands)
    assert [(tmp_path / f"{index}.out").read_bytes() for index in range(len(commands))] == expected


@pytest.mark.slow
def test_bundles_are_refused_with_the_codes_of_python(core, tmp_path):
    folders = [BUNDLE, *hostile_bundles(BUNDLE, tmp_path)]
    python = [code_of(lambda folder=folder: Bundle.open(folder)) for folder in folders]
    found = core.answers(("open", folder) for folder in folders)
    assert [(folder.name, answer[0]) for folder, answer in zip(folders, found, strict=True)] == [
        (folder.name, code) for folder, code in zip(folders, python, strict=True)
    ]
    assert python.count("ok") > 5
    assert python.count("bundle-invalid") > 60
    assert found[0] == ["ok", ",".join(Bundle.open(BUNDLE).labels)]


@pytest.mark.slow
def test_a_bundle_for_another_engine_is_named(core):
    (answer,) = core.answers([("open", VECTORS / "bundles" / "onnx-fp32")])
    assert answer[0] == "engine-missing"
    assert "--target executorch" in answer[1]


def code_of(work: Callable[[], object]) -> str:
    try:
        work()
    except LibkdError as fault:
        return fault.code
    return "ok"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> dict[Path, Path]:
    """A folder for each bundle: what the engine answers to its golden images and to all others, by the pixels' hash."""
    return {bundle: record(bundle, tmp_path_factory.mktemp(bundle.name)) for bundle in (BUNDLE, INT8)}


def record(place: Path, folder: Path) -> Path:
    bundle = Bundle.open(place)
    files = ModelFiles(str(place), {"model.pte": bundle.read("model.pte")})
    signature = Signature(bundle.input.height, bundle.input.width, len(bundle.labels))
    session, carried = open_session("executorch", files, signature, 1)
    golden = bundle.golden()
    assert golden is not None
    for image in [*golden.pixels, *(pixels(file, bundle.input) for file in IMAGES)]:
        (folder / digest(image)).write_bytes(session.run(image[None]).tobytes())
    session.close()
    (folder / "manifest.json").write_text(carried, encoding="utf-8")
    return folder


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("bundle", [BUNDLE, INT8], ids=lambda bundle: bundle.name)
def test_images_get_the_labels_and_scores_of_python(core, decoded, recorded, bundle):
    names = [file.name for file in IMAGES if file.suffix == ".png"]
    answers = core.answers(("classify", bundle, recorded[bundle], *decoded[name]) for name in names)
    with Classifier(bundle, threads=1) as classifier:
        for name, answer in zip(names, answers, strict=True):
            assert answer[0] == "ok", answer
            found = [word.rsplit("=", 1) for word in answer[1].split(",")]
            expected = classifier.predict(VECTORS / "images" / name).top
            assert [label for label, _ in found] == [label for label, _ in expected], name
            assert [float(score) for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)


@pytest.mark.slow
def test_the_golden_check_tells_a_right_model_from_a_wrong_one(core, recorded, tmp_path):
    golden = Bundle.open(BUNDLE).golden()
    assert golden is not None
    right = recorded[BUNDLE]
    names = ("wrong", "broken", "foreign", "extended")
    wrong, broken, foreign, extended = (Path(shutil.copytree(right, tmp_path / name)) for name in names)
    image, answer = golden.pixels[1], golden.probabilities[1]
    (wrong / digest(image)).write_bytes(np.roll(answer, 1).tobytes())
    (broken / digest(image)).write_bytes(np.full_like(answer, np.nan).tobytes())
    carried = (right / "manifest.json").read_text()
    (foreign / "manifest.json").write_text(carried.replace("fp32", "fp16"))
    (extended / "manifest.json").write_text(json.dumps({**json.loads(carried), "novelty": 1}))
    commands = [("self-test", BUNDLE, folder) for folder in (right, wrong, broken, foreign, extended)]
    codes = ["ok", "proof-failed", "engine-failed", "bundle-invalid", "bundle-invalid", "ok"]
    found = core.answers([*commands, ("self-test", INT8, recorded[INT8])])
    assert [words[0] for words in found] == codes
    assert float(found[0][1]) <= 1e-4
    assert float(found[-1][1]) <= 0.1


@pytest.mark.slow
def test_tensors_are_read_and_damaged_ones_refused(core, recorded, tmp_path):
    content = (BUNDLE / "golden.safetensors").read_bytes()
    folders = [BUNDLE]
    for index, damaged in enumerate(damaged_tensors(content)):
        folders.append(Path(shutil.copytree(BUNDLE, tmp_path / str(index))))
        (folders[-1] / "golden.safetensors").write_bytes(damaged)
        reseal(folders[-1])
    python = [code_of(Bundle.open(folder).golden) for folder in folders]
    assert python.count("ok") == 2
    assert [words[0] for words in core.answers(("self-test", folder, recorded[BUNDLE]) for folder in folders)] == python

    (answer,) = core.answers([("tensors", BUNDLE / "golden.safetensors")])
    dtypes = {"uint8": "U8", "float32": "F32"}
    for found, (name, tensor) in zip(
        answer[1].split(","), sorted(load_file(BUNDLE / "golden.safetensors").items()), strict=True
    ):
        lengths = "x".join(map(str, tensor.shape))
        assert found == f"{name} {dtypes[str(tensor.dtype)]} {lengths} {digest(tensor)}"


@pytest.mark.parametrize("language", APPS)
def test_every_file_of_the_apps_parses(language):
    tree_sitter = pytest.importorskip("tree_sitter", reason="pip install 'libkd-sdk[test]'")
    grammar = pytest.importorskip(f"tree_sitter_{language}", reason="pip install 'libkd-sdk[test]'")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    files = [file for file in APPS[language].rglob("*") if file.suffix in SUFFIXES[language]]
    assert len(files) > 10
    assert [file.name for file in files if parser.parse(file.read_bytes()).root_node.has_error] == []


def test_the_cores_need_no_phone():
    for file in [*KOTLIN_CORE.glob("*.kt"), *SWIFT_CORE.glob("*.swift")]:
        imports = [line.split()[1] for line in file.read_text().splitlines() if line.startswith("import ")]
        allowed = ("java.", "kotlin.", "Darwin", "Glibc")
        assert [name for name in imports if not name.startswith(allowed)] == [], file.name


def test_the_apps_take_the_version_of_executorch_that_exports():
    project = (ROOT / "pyproject.toml").read_text()
    assert "executorch>=1.5.1,<1.6" in project
    assert 'executorch = "1.5.1"' in (APPS["kotlin"] / "gradle" / "libs.versions.toml").read_text()
    assert "branch: swiftpm-1.5.1" in (APPS["swift"] / "project.yml").read_text()
