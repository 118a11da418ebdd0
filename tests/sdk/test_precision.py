"""Smaller numbers: smaller files, the same answers, and what is done when the answers would not be the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sdk
from patterns import LABELS, patterns
from runtimes.engines import RUNNABLE
from sdk import Classifier, ImageError, Preprocessing, ProofError, verify
from sdk.exporting.deployed import Deployed
from sdk.exporting.sensitivity import most_sensitive_first

pytestmark = pytest.mark.slow

PREPROCESSING = Preprocessing.square(8, mean=(0.5,) * 3, std=(0.2,) * 3)


class Outlier(nn.Module):
    """`wide` takes a value a thousand times larger than those that it answers by: 8 bits for its input are too few."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.wide, self.last = nn.Linear(192, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        with torch.no_grad():
            self.first.weight[0] = 0
            self.first.bias[0] = 3000
            self.wide.weight[:, 0] = 0
            self.last.weight *= 5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.wide(torch.relu(self.first(x.flatten(1))))))


@pytest.fixture(scope="module")
def judged() -> tuple[np.ndarray, list[int]]:
    """Images, and the class that `Outlier` sees in each."""
    pixels = patterns(96, 0, size=8)
    with torch.no_grad():
        return pixels, Outlier()((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.2).argmax(1).tolist()


@pytest.fixture(scope="module", params=RUNNABLE)
def engine(request):
    return request.param


@pytest.fixture(scope="module")
def smaller(engine, vit, preprocessing, validation, tmp_path_factory) -> dict[str, sdk.Bundle]:
    """The transformer for one engine, at the smaller precisions."""
    return {
        precision: sdk.export(
            vit,
            target=engine,
            precision=precision,
            out=tmp_path_factory.mktemp(engine) / precision,
            labels=LABELS,
            preprocessing=preprocessing,
            calibration=patterns(40, seed=5) if precision == "int8" else None,
            validation=validation,
            max_drop=5,
        )
        for precision in ("fp16", "int8")
    }


@pytest.mark.parametrize(("precision", "share", "agreement"), [("fp16", 0.65, 0.98), ("int8", 0.45, 0.9)])
def test_a_smaller_file_gives_the_same_answers(engine, bundles, smaller, validation, precision, share, agreement):
    bundle = smaller[precision]
    weights = {"onnx": "model.onnx", "openvino": "model.bin", "executorch": "model.pte"}[engine]
    sizes = [made.manifest.files[weights].bytes for made in (bundle, bundles[engine])]
    assert sizes[0] < share * sizes[1]
    pixels, _ = validation
    with Classifier(bundle.path) as classifier, Classifier(bundles[engine].path) as exact:
        found, expected = (
            np.stack([one.probabilities for one in each.predict_batch(pixels)]) for each in (classifier, exact)
        )
    assert (found.argmax(1) == expected.argmax(1)).mean() >= agreement
    assert np.abs(found - expected).max() > 1e-6  # it is another arithmetic
    assert bundle.manifest.proof.top1_agreement == pytest.approx(
        (found.argmax(1) == expected.argmax(1)).mean(), abs=0.02
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_proves_itself_where_it_stands(smaller, precision):
    assert verify(smaller[precision]).max_abs_difference < 0.01  # the very machine that made it


def test_a_batch_is_answered_like_its_images(smaller):
    session = smaller["int8"].session(threads=1)
    pixels = patterns(5, seed=9)
    one_by_one = np.concatenate([session.run(pixels[index : index + 1]) for index in range(5)])
    np.testing.assert_allclose(session.run(pixels), one_by_one, atol=0.05)
    session.close()


def test_what_is_recorded(engine, smaller):
    quantized = smaller["int8"].manifest.quantized
    assert (quantized.calibration_images, quantized.float_layers) == (40, ())
    assert smaller["fp16"].manifest.quantized is None
    assert "40 images" in (smaller["int8"].path / "model_card.md").read_text()


def test_a_transformer_is_one_delegate_at_every_precision(bundles, smaller, engine):
    if engine != "executorch":
        assert smaller["int8"].manifest.lowered is None
        return
    for bundle in (bundles[engine], smaller["int8"]):
        assert bundle.manifest.lowered.delegates == 1
        assert set(bundle.manifest.lowered.outside) <= {"dim_order_ops__to_dim_order_copy"}  # uint8 to float
    assert smaller["fp16"].manifest.lowered.delegates <= 3


class TestFallback:
    def export(self, engine, judged, out, **options):
        pixels, labels = judged
        return sdk.export(
            Outlier(),
            target=engine,
            precision="int8",
            out=out,
            labels=("a", "b", "c"),
            preprocessing=PREPROCESSING,
            calibration=pixels[:40],
            validation=(pixels, labels),
            **options,
        )

    def test_the_layer_that_suffers_stays_in_float(self, engine, judged, tmp_path):
        stages = []
        bundle = self.export(engine, judged, tmp_path / "b", progress=lambda stage, *_: stages.append(stage))
        assert "wide" in bundle.manifest.quantized.float_layers
        assert bundle.manifest.proof.drop <= 1
        assert "ranking layers" in stages
        assert verify(bundle).max_abs_difference < 0.01

    def test_where_no_layer_is_left_nothing_is_written(self, judged, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "sdk.exporting.sensitivity.most_sensitive_first", lambda *_: ["classifier.last", "classifier.first"]
        )
        with pytest.raises(
            ProofError, match=r"int8: loses \d+\.\d points of top-1 though 1 of its layers stayed in fl"
        ):
            self.export("onnx", judged, tmp_path / "b")
        assert not list(tmp_path.iterdir())

    def test_more_may_be_allowed(self, judged, tmp_path):
        bundle = self.export("onnx", judged, tmp_path / "b", max_drop=100)
        assert bundle.manifest.quantized.float_layers == ()
        assert bundle.manifest.proof.drop > 1


def test_layers_are_ranked_by_what_8_bits_do_to_them(judged):
    module = Deployed(Outlier(), PREPROCESSING)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    told = []
    ranked = most_sensitive_first(module, judged[0], lambda *now: told.append(now))
    assert ranked[0] == "classifier.wide"
    assert set(ranked) == {"classifier.first", "classifier.wide", "classifier.last"}
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_an_unreadable_calibration_image(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.png"):
        sdk.export(
            Outlier(),
            target="onnx",
            precision="int8",
            out=tmp_path / "b",
            labels=("a", "b", "c"),
            preprocessing=PREPROCESSING,
            calibration=[tmp_path / "gone.png"],
        )
    assert not list(tmp_path.iterdir())
