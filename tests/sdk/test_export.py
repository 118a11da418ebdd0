"""Any torch classifier becomes a bundle that answers like it, or a named error and nothing else."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sdk
from patterns import LABELS, SIZE, patterns
from sdk import Bundle, Classifier, ExportError, ImageError, Preprocessing, ProofError, UsageError, verify
from sdk.bundle.golden import GOLDEN
from sdk.errors import did_you_mean
from sdk.exporting.card import CARD

PREPROCESSING = Preprocessing.square(8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
COLOURS = ("red", "green", "blue")


class Tiny(nn.Module):
    """Three classes from 8 x 8 pixels: the smallest thing that lowers."""

    def __init__(self, classes: int = 3, temperature: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * 64, classes)
        if temperature is not None:
            self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)) / getattr(self, "temperature", 1.0)


def export(module: nn.Module, out: Path, **options) -> Bundle:
    options = {"target": "onnx", "labels": COLOURS, "preprocessing": PREPROCESSING, **options}
    return sdk.export(module, out=out, **options)


def probabilities(module: nn.Module, pixels: np.ndarray) -> np.ndarray:
    """Compute the reference by hand: scale, normalise, classify, softmax."""
    mean, std = np.array(PREPROCESSING.mean), np.array(PREPROCESSING.std)
    inputs = torch.from_numpy(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        return copy.deepcopy(module).eval()(inputs).softmax(-1).numpy()


@pytest.mark.slow
class TestProof:
    @pytest.mark.parametrize("target", ["onnx", "openvino", "executorch"])
    def test_it_is_measured_on_the_validation_images(self, bundles, validation, target):
        proof = bundles[target].manifest.proof
        assert proof.images == 96
        assert proof.max_abs_difference < 1e-5
        assert proof.top1_agreement == 1.0
        assert proof.top1 == proof.reference_top1 == 84 / 96  # as many as are labelled right

    def test_images_may_come_one_by_one(self, tmp_path):
        pixels = patterns(20, 0, size=8)
        Image.fromarray(pixels[0]).save(tmp_path / "a.png")
        pairs = [(tmp_path / "a.png", 0), *((image, 1) for image in pixels[1:])]
        proof = export(Tiny(), tmp_path / "b", validation=iter(pairs)).manifest.proof
        expected = probabilities(Tiny(), pixels).argmax(1) == [0, *[1] * 19]
        assert (proof.images, proof.top1) == (20, expected.mean())

    def test_images_without_labels(self, tmp_path):
        pixels = patterns(5, 0, size=8)
        unlabelled = export(Tiny(), tmp_path / "a", validation=(pixels, None)).manifest.proof
        assert (unlabelled.images, unlabelled.top1, unlabelled.reference_top1) == (5, None, None)
        winner = int(probabilities(Tiny(), pixels[:1]).argmax())
        pairs = [(pixels[0], winner), *((image, None) for image in pixels[1:])]
        assert export(Tiny(), tmp_path / "b", validation=pairs).manifest.proof.top1 == 1.0

    def test_without_images_it_is_not_proved(self, tmp_path):
        bundle = export(Tiny(), tmp_path / "a")
        assert bundle.manifest.proof is None
        assert not bundle.proved
        assert verify(bundle).golden == 12

    @pytest.mark.parametrize("with_images", [False, True])
    def test_a_lowered_model_that_answers_otherwise_leaves_nothing(self, tmp_path, with_images):
        class TwoFaced(Tiny):
            def forward(self, x):
                return super().forward(x * 1.01 if torch.compiler.is_exporting() else x)

        validation = (patterns(5, 0, size=8), None) if with_images else None
        with pytest.raises(ProofError, match=r"onnx fp32: probabilities differ from PyTorch's by .* more than 0.0001"):
            export(TwoFaced(), tmp_path / "b", validation=validation)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("validation", "message"),
        [
            ([], "validation: no images"),
            (([], []), "validation"),
            ((np.zeros((2, 8, 8, 3), np.uint8), [0]), "2 images but 1 labels"),
            ((np.zeros((2, 8, 8, 3), np.uint8), [0, 3]), "label 3 is not a class; labels are between 0 and 2"),
            ((np.zeros((8, 8, 3), np.uint8), [0]), r"an array of images is \[n, height, width, 3\]"),
            (["a.png", "b.png"], "validation: pairs of"),
            ([(np.zeros((8, 8, 3), np.uint8), "red")], "validation: pairs of"),
        ],
    )
    def test_validation_that_cannot_be_meant(self, tmp_path, validation, message):
        with pytest.raises(UsageError, match=message):
            export(Tiny(), tmp_path / "b", validation=validation)

    def test_an_unreadable_validation_image(self, tmp_path):
        with pytest.raises(ImageError, match=r"gone\.png"):
            export(Tiny(), tmp_path / "b", validation=[(tmp_path / "gone.png", 0)])
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
class TestGoldenImages:
    def images(self, tmp_path, pixels, **options):
        return export(Tiny(), tmp_path / "b", validation=(pixels, None), **options).golden()

    def test_blends_show_nobody(self, tmp_path):
        pixels = patterns(64, 0, size=8)
        golden = self.images(tmp_path, pixels)
        assert golden.pixels.shape == (12, 8, 8, 3)
        nearest = np.abs(golden.pixels[:, None].astype(float) - pixels[None]).mean((2, 3, 4)).min()
        assert nearest > 20  # of 255, from the closest of all images
        np.testing.assert_allclose(golden.probabilities, probabilities(Tiny(), golden.pixels), atol=1e-5)

    def test_the_images_themselves(self, tmp_path):
        pixels = patterns(64, 0, size=8)
        golden = self.images(tmp_path, pixels, golden="pictures")
        assert len(golden.pixels) == 12
        for image in golden.pixels[:8]:
            assert (image == pixels).all((1, 2, 3)).any()

    def test_none(self, tmp_path):
        assert self.images(tmp_path, patterns(8, 0, size=8), golden="none") is None
        assert verify(tmp_path / "b").max_abs_difference is None
        with pytest.raises(UsageError, match="has no golden images for a self-test"):
            Classifier(tmp_path / "b", self_test=True)

    def test_too_few_images_are_not_blended(self, tmp_path):
        one = patterns(1, 0, size=8)
        assert not (self.images(tmp_path, one).pixels == one).all((1, 2, 3)).any()

    def test_they_are_the_same_at_every_export(self, tmp_path):
        for out in ("a", "b"):
            export(Tiny(), tmp_path / out)
        assert (tmp_path / "a" / GOLDEN).read_bytes() == (tmp_path / "b" / GOLDEN).read_bytes()

    @pytest.mark.parametrize(
        ("golden", "message"), [("pictures", "needs validation images"), ("blend", "did you mean 'blends'")]
    )
    def test_what_cannot_be_meant(self, tmp_path, golden, message):
        with pytest.raises(UsageError, match=message):
            export(Tiny(), tmp_path / "b", golden=golden)


class TestTheModule:
    def test_normalisation_and_softmax_are_inside(self, tmp_path):
        pixels = patterns(4, 2, size=8)
        with Classifier(export(Tiny(), tmp_path / "b").path) as classifier:
            found = np.stack([prediction.probabilities for prediction in classifier.predict_batch(pixels)])
        np.testing.assert_allclose(found, probabilities(Tiny(), pixels), atol=1e-5)

    @pytest.mark.slow
    def test_images_need_not_be_square(self, tmp_path):
        input = sdk.Input(height=4, width=16, resize=sdk.Resize(mode="squash", size=(4, 16)), crop="none")
        preprocessing = Preprocessing(input=input, mean=(0, 0, 0), std=(1, 1, 1))
        for target in ("onnx", "openvino"):
            bundle = export(Tiny(), tmp_path / target, target=target, preprocessing=preprocessing)
            assert bundle.golden().pixels.shape == (12, 4, 16, 3)

    def test_a_temperature_is_applied_once_and_recorded(self, tmp_path):
        pixels = patterns(4, 2, size=8)
        bundle = export(Tiny(temperature=2.5), tmp_path / "b")
        assert bundle.manifest.output.temperature == 2.5
        with Classifier(bundle.path) as classifier:
            found = classifier.predict(pixels[0]).probabilities
        np.testing.assert_allclose(found, probabilities(Tiny(temperature=2.5), pixels)[0], atol=1e-5)

    @pytest.mark.slow
    def test_it_is_not_changed(self, tmp_path):
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(144, 3))
        module.train()
        before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
        export(module, tmp_path / "b")
        assert all(part.training for part in module.modules())
        assert torch.equal(torch.get_rng_state(), random)
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)

    def test_half_precision_weights_are_lowered_in_fp32(self, tmp_path):
        assert export(Tiny().half(), tmp_path / "b").precision == "fp32"

    @pytest.mark.slow
    def test_what_is_recorded(self, tmp_path):
        found = export(Tiny(), tmp_path / "plain").manifest
        assert (found.name, found.model.arch, found.model.parameters) == ("plain", "Tiny", 3 * 193)
        assert (found.model.teachers, found.model.trained_on) == ((), None)
        model = {"arch": "other", "teachers": ["a"], "trained_on": "pets"}
        found = export(Tiny(), tmp_path / "named", name="Pets 2", model=model).manifest
        assert (found.name, found.model.arch, found.model.parameters) == ("Pets 2", "other", 3 * 193)
        assert (found.model.teachers, found.model.trained_on) == (("a",), "pets")

    @pytest.mark.parametrize(
        ("module", "message"),
        [
            (Tiny(4), "has 4 classes, but there are 3 labels"),
            (nn.Conv2d(1, 3, 8), r"fails on float32 \[2, 3, 8, 8\] \(.*channels.*RGB"),
            (nn.Conv2d(3, 3, 8), r"returns \[2, 3, 1, 1\], not one tensor of logits"),
            (nn.Sequential(Tiny(), nn.Softmax(1)), "returns probabilities already; let it return logits"),
            (nn.Sequential(Tiny(), nn.Threshold(1e9, float("nan"))), "answers with NaN or infinity"),
            (nn.Linear(9, 3), "fails on float32"),
            (nn.Sequential(nn.Flatten(), nn.LSTM(192, 3)), "returns tuple, not one tensor of logits"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_modules_that_are_no_such_classifier(self, tmp_path, module, message):
        with pytest.raises(ExportError, match=message):
            export(module, tmp_path / "b")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("target", ["onnx", "openvino", "executorch"])
    @pytest.mark.slow
    def test_modules_that_an_engine_cannot_take(self, tmp_path, target):
        class Undecided(Tiny):
            def forward(self, x):
                return super().forward(-x if x.mean().item() > 0 else x)

        with pytest.raises(ExportError, match=f"(?i){target} can't take this model at fp32: ."):
            export(Undecided(), tmp_path / "b", target=target)
        assert not list(tmp_path.iterdir())


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"target": "openvno"}, UsageError, r"target 'openvno' is unknown; did you mean 'openvino'\?"),
            ({"target": "tensorrt"}, UsageError, "known: onnx, openvino, executorch"),
            ({"precision": "int4"}, ExportError, "ONNX Runtime is lowered at fp32, fp16, int8, not at 'int4'"),
            ({"precision": "int8"}, UsageError, "calibration: int8 needs some images; name those of training"),
            ({"precision": "int8", "calibration": []}, UsageError, "calibration: no images"),
            ({"max_drop": float("nan")}, UsageError, "max_drop=nan: points of top-1, between 0 and 100"),
            ({"labels": "red"}, UsageError, "labels: a classifier has at least two"),
            ({"labels": ["red"]}, UsageError, "labels: a classifier has at least two"),
            ({"labels": ["red", "green", ""]}, UsageError, "label ''"),
            ({"labels": ["red", "green", "bl\nue"]}, UsageError, r"label 'bl\\nue'"),
            ({"labels": [0, 1, 2]}, UsageError, "label 0"),
            ({"calibration": ["a.png"]}, UsageError, "calibration: only int8 takes it"),
            ({"model": {"author": "me"}}, UsageError, "model: .*author"),
            ({"model": {"teachers": "conv"}}, UsageError, r"model: .*teachers"),
            ({"name": "two\nlines"}, UsageError, r"\$.name"),
        ],
    )
    def test_what_cannot_be_meant(self, tmp_path, options, kind, message):
        with pytest.raises(kind, match=message):
            export(Tiny(), tmp_path / "b", **options)
        assert not list(tmp_path.iterdir())

    def test_statistics_that_cannot_be_meant(self, tmp_path):
        for statistics in ({"std": (0, 1, 1)}, {"std": (float("nan"), 1, 1)}, {"mean": (float("inf"), 0, 0)}):
            with pytest.raises(UsageError, match="mean and std are finite, std is above 0"):
                export(Tiny(), tmp_path / "b", preprocessing=Preprocessing.square(8, **statistics))

    def test_the_closest_word_is_offered(self):
        assert did_you_mean("openvin", ["onnx", "openvino"]) == "did you mean 'openvino'?"
        assert did_you_mean("xyz", map(str, range(12))).endswith("9, ...")


@pytest.mark.slow
class TestPlaces:
    def test_an_old_bundle_is_replaced(self, tmp_path):
        first = export(Tiny(), tmp_path / "b", name="first")
        second = export(Tiny(), tmp_path / "b", name="second", target="openvino")
        assert (first.path, second.manifest.name) == (second.path, "second")
        assert {file.name for file in second.path.iterdir()} == {"bundle.json", CARD, GOLDEN, "model.xml", "model.bin"}
        assert [file.name for file in tmp_path.iterdir()] == ["b"]

    def test_every_user_of_a_device_may_read_it(self, tmp_path):
        bundle = export(Tiny(), tmp_path / "b")
        (tmp_path / "usual").write_text("")
        usual = (tmp_path / "usual").stat().st_mode
        assert {file.stat().st_mode for file in bundle.path.iterdir()} == {usual}

    def test_other_folders_are_not(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("mine")
        with pytest.raises(UsageError, match=r"holds thesis\.tex, which is not part of a bundle"):
            export(Tiny(), tmp_path)
        assert (tmp_path / "thesis.tex").read_text() == "mine"

    @pytest.mark.parametrize("stage", ["lowering", "proving"])
    def test_an_interrupted_export_leaves_what_was_there(self, tmp_path, stage):
        before = export(Tiny(), tmp_path / "b", name="before")

        def interrupt(now: str, done: int, total: int) -> None:
            if now == stage and done == total:
                raise KeyboardInterrupt

        for out in ("b", "new"):
            with pytest.raises(KeyboardInterrupt):
                export(Tiny(), tmp_path / out, validation=(patterns(4, 0, size=8), None), progress=interrupt)
        assert [file.name for file in tmp_path.iterdir()] == ["b"]
        assert Bundle.open(tmp_path / "b") == before

    def test_progress_is_told(self, tmp_path):
        told = []
        export(
            Tiny(), tmp_path / "b", validation=(patterns(70, 0, size=8), None), progress=lambda *now: told.append(now)
        )
        assert told == [
            ("lowering", 0, 1),
            ("lowering", 1, 1),
            ("proving", 32, 70),
            ("proving", 64, 70),
            ("proving", 70, 70),
        ]

    def test_the_manifest_inside_names_the_classes_alone(self, bundles, tmp_path):
        """A lone model file, read without this package."""
        import onnxruntime

        lone = shutil.copy(bundles["onnx"].path / "model.onnx", tmp_path)
        carried = onnxruntime.InferenceSession(lone).get_modelmeta().custom_metadata_map["libkd_bundle"]
        assert json.loads(carried)["labels"] == list(LABELS)
        assert json.loads(carried)["input"]["height"] == SIZE
