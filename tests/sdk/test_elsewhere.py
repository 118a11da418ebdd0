"""Bundles that only run on other devices: what is proved here, and how all that would run them refuses."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import sdk
from patterns import LABELS, SIZE, patterns
from runtimes.base import Outcome, lowering_refusals
from runtimes.engines import ENGINES, RUNNABLE, check_runs_here, elsewhere
from sdk.bundle.golden import TOLERANCE
from sdk.bundle.manifest import Manifest, json_schema
from sdk.exporting.card import model_card
from sdk.exporting.request import find_lowering
from shell import Shell

torch = pytest.importorskip("torch")

ELSEWHERE = {("coreml", None), ("executorch", "vulkan"), ("executorch", "coreml")}


def small_net(classes: int = len(LABELS)) -> Any:
    from torch import nn

    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)]
    return nn.Sequential(*layers).eval()


def needs_coremltools() -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed; pip install 'libkd-sdk[coreml]'")


@pytest.fixture(scope="module")
def export(preprocessing, tmp_path_factory) -> Callable[..., sdk.Bundle]:
    def made(target: str, **arguments: Any) -> sdk.Bundle:
        out = tmp_path_factory.mktemp("bundles") / target
        arguments = {"labels": LABELS, "validation": (patterns(16, seed=2), None), **arguments}
        return sdk.export(small_net(), target=target, out=out, preprocessing=preprocessing, **arguments)

    return made


@pytest.fixture(scope="module")
def core_ml(export) -> sdk.Bundle:
    needs_coremltools()
    return export("coreml", precision="fp16")


@pytest.fixture(scope="module")
def here(export) -> sdk.Bundle:
    return export("onnx")


@pytest.fixture
def shell(capfd) -> Shell:
    return Shell(capfd)


def unpacked(bundle: sdk.Bundle, folder: Path) -> Any:
    """Return the specification in a bundle's package, which is unpacked into `folder`."""
    import coremltools

    with zipfile.ZipFile(io.BytesIO(bundle.read("model.mlpackage.zip"))) as archive:
        archive.extractall(folder)
    return coremltools.utils.load_spec(str(folder / "model.mlpackage"))


class TestFacts:
    def test_target_and_backend_decide_what_runs_here(self):
        ways = {(name, backend) for name, engine in ENGINES.items() for backend in (None, *engine.backends)}
        assert {way for way in ways if elsewhere(*way)} == ELSEWHERE
        assert "coreml" not in RUNNABLE
        check_runs_here("executorch", "xnnpack", "bundle")

    @pytest.mark.parametrize(("target", "backend"), sorted(ELSEWHERE, key=str))
    def test_the_card_of_such_a_bundle_says_that_it_is_unverified(self, here, target, backend):
        written = json.loads((here.path / "bundle.json").read_text(encoding="utf-8"))
        card = model_card(msgspec.convert({**written, "target": target, "backend": backend, "proof": None}, Manifest))
        assert "**Unverified on device**: it runs on " in card
        assert "Unproved" not in card

    def test_the_schema_has_the_target(self):
        assert "coreml" in json.dumps(json_schema())


class TestRequests:
    @pytest.mark.parametrize(
        ("target", "backend", "precision", "error", "message"),
        [
            ("executorch", "vulcan", "fp32", "usage", "backend 'vulcan' is unknown; did you mean 'vulkan'?"),
            ("onnx", "xnnpack", "fp32", "usage", "backend 'xnnpack': onnx has no backends, only executorch has; leave"),
            (
                "executorch",
                "vulkan",
                "int8",
                "export-refused",
                "ExecuTorch with vulkan is lowered at fp32, fp16, n",
            ),
            (
                "executorch",
                "coreml",
                "int8",
                "export-refused",
                "ExecuTorch with coreml is lowered at fp32, fp16, n",
            ),
            ("coreml", None, "int8", "export-refused", "Core ML is lowered at fp32, fp16, not at 'int8'"),
        ],
    )
    def test_what_makes_no_sense_is_refused_before_any_work(self, target, backend, precision, error, message):
        with pytest.raises(sdk.LibkdError) as refused:
            find_lowering(target, precision, backend)
        assert refused.value.code == error
        assert str(refused.value).startswith(message)

    @pytest.mark.parametrize(
        ("target", "backend", "part", "extra"),
        [
            ("coreml", None, "runtimes.coreml.lowering", "[export,coreml]"),
            ("executorch", "coreml", "runtimes.executorch.backends.coreml", "[export,executorch,coreml]"),
        ],
    )
    def test_without_coremltools_the_message_has_the_pip_command(self, monkeypatch, target, backend, part, extra):
        pytest.importorskip("executorch")
        monkeypatch.setitem(sys.modules, "coremltools", None)
        monkeypatch.delitem(sys.modules, part, raising=False)
        with pytest.raises(sdk.EngineMissing, match="coremltools is not installed") as missing:
            find_lowering(target, "fp32", backend)
        assert str(missing.value).endswith(f"pip install 'libkd-sdk{extra}'")


class TestCoreML:
    def test_the_package_takes_an_image_and_answers_with_a_label(self, core_ml, tmp_path):
        spec = unpacked(core_ml, tmp_path)
        (image,), (label, probabilities) = spec.description.input, spec.description.output
        assert (image.name, image.type.imageType.height, image.type.imageType.width) == ("image", SIZE, SIZE)
        assert image.type.imageType.colorSpace == image.type.imageType.ColorSpace.Value("RGB")
        assert (label.name, probabilities.name) == ("classLabel", "classLabel_probs")
        assert spec.description.predictedFeatureName == "classLabel"
        assert spec.description.predictedProbabilitiesName == "classLabel_probs"
        carried = json.loads(spec.description.metadata.userDefined["libkd_bundle"])
        assert carried["labels"] == list(LABELS)
        assert (carried["target"], carried["precision"]) == ("coreml", "fp16")

    def test_the_archive_has_the_package_and_nothing_else(self, core_ml):
        content = core_ml.read("model.mlpackage.zip")
        assert content.startswith(b"PK\x03\x04")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.namelist() == [
                "model.mlpackage/Manifest.json",
                "model.mlpackage/Data/com.apple.CoreML/model.mlmodel",
                "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
            ]

    def test_a_file_that_is_no_archive_is_refused(self, core_ml, tmp_path):
        from runtimes.base import ModelFiles
        from runtimes.engines import check_magic

        with pytest.raises(sdk.BundleError, match="is not a file of Core ML"):
            check_magic("coreml", ModelFiles("here", {"model.mlpackage.zip": b"garbage"}))

    def test_nothing_claims_a_proof_and_the_golden_answers_are_those_of_pytorch(self, core_ml, preprocessing):
        from sdk.exporting.deployed import Deployed, Reference

        assert core_ml.manifest.proof is None
        assert not core_ml.proved
        golden = core_ml.golden()
        assert golden is not None
        reference = Reference(Deployed(small_net(), preprocessing))
        assert golden.max_abs_difference(reference) <= TOLERANCE["fp32"]
        assert golden.probabilities.std(0).max() > 1e-3

    def test_labels_that_occur_twice_are_refused(self, export):
        needs_coremltools()
        with pytest.raises(sdk.ExportError, match="no label may occur twice"):
            export("coreml", labels=["same"] * len(LABELS))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"signature": (SIZE, SIZE + 1, 0)}, "no RGB image of"),
            ({"labels": [*LABELS[1:], LABELS[0]]}, "does not end in a classification into these labels"),
            ({"precision": "fp32"}, "does not compute at fp32"),
        ],
    )
    def test_a_program_that_is_not_what_was_asked_for_is_noticed(self, core_ml, tmp_path, change, message):
        from runtimes.base import Signature
        from runtimes.coreml.lowering import _check

        asked = {"signature": (SIZE, SIZE, 0), "labels": list(LABELS), "precision": "fp16"}
        signature, labels, precision = {**asked, **change}.values()
        spec = unpacked(core_ml, tmp_path)
        _check(spec, Signature(SIZE, SIZE, len(LABELS)), list(LABELS), "fp16")
        with pytest.raises(sdk.ExportError, match=message):
            _check(spec, Signature(*signature), labels, precision)


class TestRefusals:
    WHY = "Core ML runs on iOS 16 and macOS 13 or later, and not here; use it there with Core ML, from the unpacked"

    def test_a_classifier_says_where_it_runs(self, core_ml):
        for self_test in (False, True):
            with pytest.raises(sdk.EngineMissing, match=self.WHY) as refused:
                sdk.Classifier(core_ml.path, self_test=self_test)
        assert str(refused.value).endswith("or export for onnx, openvino, executorch to use it here")

    def test_verify_says_how_to_verify_it_on_the_device(self, core_ml):
        with pytest.raises(sdk.EngineMissing) as refused:
            sdk.verify(core_ml)
        for part in ("unverified on device", "3 files are whole", "`pixels` of golden.safetensors", "more than 0.05"):
            assert part in str(refused.value)

    def test_verify_finds_a_damaged_file_first(self, core_ml, tmp_path):
        import shutil

        copy = Path(shutil.copytree(core_ml.path, tmp_path / "copy"))
        with (copy / "model.mlpackage.zip").open("r+b") as file:
            file.seek(500)
            file.write(b"\xff\x00\xff")
        with pytest.raises(sdk.BundleError, match=r"model\.mlpackage\.zip was changed"):
            sdk.verify(copy)

    def test_a_benchmark_refuses_before_it_measures(self, core_ml):
        with pytest.raises(sdk.EngineMissing, match=self.WHY):
            sdk.benchmark.measure([core_ml])

    def test_every_command_refuses_in_one_line(self, core_ml, shell, tmp_path):
        from PIL import Image

        image = tmp_path / "data" / LABELS[0].replace("/", "") / "0.png"
        image.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(image)
        commands: list[tuple[object, ...]] = [
            ("predict", core_ml.path, image),
            ("eval", core_ml.path, "--data", image.parent.parent),
            ("benchmark", core_ml.path),
            ("verify", core_ml.path),
        ]
        for command in commands:
            line = shell.refused(*command)
            assert line.startswith("libkd-sdk: ")
            assert line.endswith("[engine-missing]")
            assert "iOS 16 and macOS 13 or later" in line
        assert shell.refused("plan", "--latency-ms", 5, "--target", "coreml").endswith("[engine-missing]")

    def test_info_shows_where_it_runs(self, core_ml, shell):
        shown = " ".join(shell.succeeded("info", core_ml.path).split())
        assert "unverified on device" in shown
        assert "it was not run when it was made" in shown

    def test_a_run_passes_over_it(self, core_ml, here, shell, tmp_path):
        import shutil

        from libkd_sdk.run_bundles import ABOUT, bundle_of, bundles_of

        (tmp_path / ABOUT).write_text("{}")
        shutil.copytree(core_ml.path, tmp_path / "bundles" / "a-phone")
        with pytest.raises(sdk.EngineMissing, match=self.WHY):
            bundles_of(tmp_path)
        shutil.copytree(here.path, tmp_path / "bundles" / "onnx")
        assert bundle_of(tmp_path) == tmp_path / "bundles" / "onnx"
        assert bundles_of(tmp_path) == [tmp_path / "bundles" / "onnx"]


class TestProof:
    """The program that was given to a backend has to answer like PyTorch."""

    class Wrong:
        """A lowering whose program answers something else, or whose file carries another manifest."""

        def __init__(self, answer: float, carried: str | None) -> None:
            self._answer, self._carried = answer, carried

        def lower(self, module: Any, *, manifest: str, folder: Path, **others: Any) -> Outcome:
            with lowering_refusals("Core ML", "fp32"):
                (folder / "model.mlpackage.zip").write_bytes(b"PK\x03\x04")
            self.manifest = manifest if self._carried is None else self._carried
            return Outcome(stand_in=self)

        def run(self, pixels: Any, /) -> Any:
            others = (1 - self._answer) / (len(LABELS) - 1)
            return np.tile(np.array([self._answer] + [others] * (len(LABELS) - 1), np.float32), (len(pixels), 1))

        def close(self) -> None:
            pass

    @pytest.mark.parametrize(
        ("answer", "carried", "error", "message"),
        [
            (0.9, None, sdk.ProofError, "probabilities differ from PyTorch's by"),
            (0.9, "{}", sdk.ExportError, "coreml loses the manifest"),
        ],
    )
    def test_an_export_that_is_wrong_writes_nothing(
        self, monkeypatch, preprocessing, tmp_path, answer, carried, error, message
    ):
        from sdk.exporting import exporter

        monkeypatch.setattr(exporter, "find_lowering", lambda *_: self.Wrong(answer, carried))
        with pytest.raises(error, match=message):
            sdk.export(
                small_net(), target="coreml", out=tmp_path / "bundle", labels=LABELS, preprocessing=preprocessing
            )
        assert not (tmp_path / "bundle").exists()
