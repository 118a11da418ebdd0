"""Modules that are hard to lower: exported right, or refused in a line that says what to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from timm.layers.halo_attn import HaloAttn
from torch import nn

import sdk
from patterns import patterns
from runtimes.engines import RUNNABLE
from sdk import EngineError, ExportError, ProofError, UsageError

SIZE, LABELS = 32, tuple("abcde")
PREPROCESSING = sdk.Preprocessing.square(SIZE)


def export(module, out: Path, target: str = "onnx", **options) -> sdk.Bundle:
    options = {"labels": LABELS, "preprocessing": PREPROCESSING, **options}
    return sdk.export(module, target=target, out=out, **options)


def small(convolution: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layers = (convolution or nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(*layers).eval()


class Massive(nn.Module):
    """One channel is a hundred thousand times as large as the others, as in some large transformers."""

    def __init__(self, seed: int, times: float = 1e5) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.patches, self.mix = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)
        with torch.no_grad():
            self.mix.weight[3] *= times

    def forward(self, images):
        return self.head(self.norm(self.mix(self.patches(images).flatten(2).mean(2))))


class Looping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 5)

    def forward(self, images):
        return torch.stack([self.head(image.mean((1, 2))) for image in images])


class Deciding(Looping):
    def forward(self, images):
        logits = self.head(images.mean((2, 3)))
        return logits if logits.sum() > 0 else -logits


class TestOverflow:
    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_a_net_that_overflows_in_16_bits_is_not_exported_in_them(self, tmp_path, seed):
        with pytest.raises((EngineError, ProofError), match=r"executorch fp16: .*(NaN|nan)"):
            export(Massive(seed).eval(), tmp_path / "b", "executorch", precision="fp16")
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_a_large_channel_that_only_squares_to_infinity_is_exported_right(self, tmp_path):
        images, net = patterns(32, seed=0), Massive(0, times=2000).eval()
        bundle = export(net, tmp_path / "b", "executorch", precision="fp16", validation=(images, None))
        assert bundle.manifest.proof.max_abs_difference < 0.01

    @pytest.mark.slow
    def test_answers_that_are_finite_and_wrong_are_refused(self, tmp_path):
        class RootMeanSquare(nn.Module):
            """Its squares are infinite in 16 bits, and what is divided by their root is 0."""

            def forward(self, x):
                return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)

        net = Massive(0, times=2000).eval()
        net.norm = RootMeanSquare()
        with torch.no_grad():
            net.head.weight *= 10
        options = {"target": "executorch", "precision": "fp16"}
        with pytest.raises(ProofError, match=r"executorch fp16: \d+% of the probabilities .* Take fp32, or give val"):
            export(net, tmp_path / "b", **options)
        with pytest.raises(ProofError, match=r"executorch fp16: loses \d+\.\d points"):
            export(net, tmp_path / "b", validation=(patterns(32, seed=0), None), **options)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("target", ["onnx", "openvino"])
    def test_engines_that_compute_in_more_bits_take_it(self, tmp_path, target):
        with sdk.Classifier(export(Massive(0).eval(), tmp_path / "b", target, precision="fp16").path) as classifier:
            for prediction in classifier.predict_batch(list(patterns(8, seed=0))):
                assert np.isfinite(prediction.probabilities).all()

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_a_net_that_answers_with_nan_to_one_image_is_refused(self, tmp_path, precision):
        class Fragile(Looping):
            def forward(self, images):
                light = images.mean((2, 3))
                return self.head(light) + torch.where(light.amax(1, keepdim=True) < 0.3, torch.nan, 0.0)

        preprocessing = sdk.Preprocessing.square(SIZE, mean=(0, 0, 0), std=(1, 1, 1))
        dark = (np.stack([*patterns(9, seed=0) // 2 + 127, np.full((SIZE, SIZE, 3), 20, np.uint8)]), None)
        with pytest.raises((EngineError, ProofError), match=r"NaN|nan"):
            export(Fragile(), tmp_path / "b", precision=precision, preprocessing=preprocessing, validation=dark)
        assert not list(tmp_path.iterdir())


class TestWhatIsNoPlainModule:
    @pytest.mark.parametrize("target", RUNNABLE)
    @pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
    @pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
    @pytest.mark.slow
    def test_weights_that_are_computed_before_each_call_are_computed_once(self, tmp_path, target, norm):
        module = small(norm(nn.Conv2d(3, 8, 4, 4)))
        images = patterns(4, seed=0)
        with torch.no_grad():
            module(torch.zeros(2, 3, SIZE, SIZE))
        bundle = export(module, tmp_path / "b", target, validation=(images, None))
        assert bundle.manifest.proof.max_abs_difference < 1e-5
        assert any("_orig" in name or "_g" in name for name in module.state_dict()), "the module is unchanged"

    @pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.zeros(1, 3, 32, 32))])
    @pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
    def test_torchscript(self, tmp_path, make):
        for module in (make(small()), nn.Sequential(make(small()))):
            with pytest.raises(ExportError, match=r"TorchScript; give the module from before torch\.jit"):
                export(module, tmp_path / "b")

    @pytest.mark.parametrize("thing", [lambda images: images.mean((2, 3)), "net", None, nn.Linear])
    def test_something_else(self, tmp_path, thing):
        with pytest.raises(UsageError, match=r"^module: \w+ is not a torch\.nn\.Module; wrap it in one"):
            export(thing, tmp_path / "b")

    def test_a_tensor_that_belongs_to_a_graph_is_no_obstacle(self, tmp_path):
        module = small()
        module.cache = module(torch.zeros(1, 3, SIZE, SIZE))
        assert module.cache.requires_grad
        assert export(module, tmp_path / "b").labels == LABELS

    def test_what_cannot_be_copied(self, tmp_path):
        module = small()
        module.file = (tmp_path / "log").open("w")
        with (
            module.file,
            pytest.raises(ExportError, match=r"the module can't be copied .*; it has to be"),
        ):
            export(module, tmp_path / "b")

    @pytest.mark.parametrize(
        ("temperature", "message"),
        [
            (torch.tensor([1.0, 2.0]), r"of shape \[2\]"),
            (lambda logits: logits, "function"),
            (None, "None"),
            (0.0, r"0\.0"),
            (float("nan"), "nan"),
        ],
    )
    def test_a_temperature_that_is_no_number(self, tmp_path, temperature, message):
        module = small()
        module.temperature = temperature
        with pytest.raises(UsageError, match=rf"the module's `temperature` is .*{message}.*rename it"):
            export(module, tmp_path / "b")

    def test_a_method_of_that_name(self, tmp_path):
        class Measuring(Looping):
            def temperature(self) -> float:
                return 20.0

        with pytest.raises(UsageError, match="the module's `temperature` is <bound method"):
            export(Measuring(), tmp_path / "b")


class TestTheBatch:
    @pytest.mark.parametrize("target", ["onnx", "openvino", pytest.param("executorch", marks=pytest.mark.slow)])
    def test_a_loop_over_the_batch_takes_one_image_at_a_time(self, tmp_path, target):
        images = patterns(5, seed=1)
        bundle = export(Looping(), tmp_path / "b", target, validation=(images, None))
        assert bundle.manifest.proof.max_abs_difference < 1e-5
        with sdk.Classifier(bundle.path) as classifier:
            assert len(classifier.predict_batch(list(images))) == 5

    @pytest.mark.parametrize("target", RUNNABLE)
    def test_a_decision_by_the_pixels_says_what_to_change(self, tmp_path, target):
        with pytest.raises(
            ExportError, match=r"depends on the values of a tensor \(an `if` or a loop\); use torch\.where"
        ):
            export(Deciding(), tmp_path / "b", target)


@pytest.mark.slow
def test_attention_with_halos_is_lowered_for_executorch(tmp_path):
    # Its layers compute constants from weights, which carried a graph of gradients into the lowering.
    torch.manual_seed(0)
    attention = HaloAttn(16, num_heads=2, block_size=4, halo_size=1)
    net = nn.Sequential(nn.Conv2d(3, 16, 2, 2), attention, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    bundle = export(net.eval(), tmp_path / "b", "executorch", validation=(patterns(4, seed=0), None))
    assert bundle.manifest.proof.max_abs_difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("target", RUNNABLE)
def test_a_constant_that_the_net_computes_keeps_its_shape(tmp_path, target):
    class Biased(nn.Module):
        """Attention of one head whose bias comes from a net of its own, as in MaxViT: its strides are odd."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patches, self.head = nn.Conv2d(3, 16, 16, 16), nn.Linear(16, 5)
            self.bias = nn.Linear(2, 1)
            self.register_buffer("places", torch.randn(4, 4, 2))

        def forward(self, images):
            tokens = self.patches(images).flatten(2).transpose(1, 2).unsqueeze(1)
            bias = self.bias(self.places).permute(2, 0, 1).unsqueeze(0)
            weights = (tokens @ tokens.transpose(-1, -2) + bias).softmax(-1)
            return self.head((weights @ tokens).mean((1, 2)))

    images = patterns(4, seed=0)
    bundle = export(Biased().eval(), tmp_path / "b", target, validation=(images, None))
    assert bundle.manifest.proof.max_abs_difference < 1e-5


@pytest.mark.slow
def test_ranges_that_answer_nearer_are_kept_for_nets_of_convolutions(tmp_path):
    # With NNCF's default ranges, 3.1 % of the answers change, and the probabilities are half as far again on average.
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Conv2d(wide, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        for wide, out in ((3, 16), (16, 32), (32, 64))
    ]
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    images, labels = torch.from_numpy(patterns(128, seed=0)).permute(0, 3, 1, 2) / 255, torch.randint(0, 5, (128,))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    bundle = export(
        net.eval(),
        tmp_path / "b",
        "openvino",
        precision="int8",
        preprocessing=sdk.Preprocessing.square(SIZE, mean=(0, 0, 0), std=(1, 1, 1)),
        calibration=patterns(64, seed=0),
        validation=(patterns(256, seed=1), None),
        max_drop=100,
    )
    assert bundle.manifest.proof.top1_agreement > 0.95
    chosen = (bundle.path / "model.xml").read_text().split("activations_range_estimator_params")[1]
    assert "'statistics_type': 'min'" in chosen[:100]
