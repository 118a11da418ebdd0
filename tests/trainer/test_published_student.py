"""A student that starts from published weights: any plain vision transformer of timm, at any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

import sdk
import trainer
from jobs import CPU, job_of
from trainer.arms import own_arm
from trainer.budget import cut
from trainer.comparison import compare_arms
from trainer.counts import Counts
from trainer.data import Dataset, load
from trainer.errors import RecipeError
from trainer.estimate import estimate, imagined
from trainer.evaluate import logits_of, top1
from trainer.models import Student, create_student, student_preprocessing
from trainer.pace import Paces
from trainer.pipeline import run_pipeline
from trainer.progress import Silent
from trainer.recipe import DataRecipe, Recipe, StudentRecipe, Training
from trainer.run import Job, Run, Source, open_run, start_run
from trainer.start import choose

TINY = "test_vit"  # timm's own: six blocks of 64, images of 160 pixels
DISTILLED = "deit_tiny_distilled_patch16_224"
KINDS = {
    "plain": TINY,
    "a register, no class token, mean of the patches": "test_vit2",
    "attention pooling": "test_vit3",
    "another norm": "test_vit4",
    "distilled": DISTILLED,
    "four registers": "vit_small_patch14_reg4_dinov2",
}
FINE_TUNING = Training(epochs=4, batch=16, lr=3e-3, lr_scale=0.1, frozen=1, warmup=1.0, ema=0.9)
SOURCE = Source(("clothes",))


def published(name: str, path: Path, size: int = 160) -> nn.Module:
    """Write random weights for a net of timm, as if they were published, and return the net."""
    torch.manual_seed(5)
    net = timm.create_model(name, img_size=size).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_file(net.state_dict(), path)
    return net


def student_of(name: str, path: Path, size: int, teachers: int = 2) -> Student:
    torch.manual_seed(0)
    recipe = StudentRecipe(model=name, weights=str(path))
    return create_student(recipe, teachers, 5, sdk.Preprocessing.square(size))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "test_vit.safetensors"
    published(TINY, path)
    return path


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe, weights: Path) -> Recipe:
    return replace(tiny_recipe, student=StudentRecipe(model=TINY, weights=str(weights), training=FINE_TUNING))


@pytest.fixture(scope="module")
def data(clothes: Path) -> Dataset:
    return load([clothes], DataRecipe(size=32))


@pytest.fixture(scope="module")
def trained(recipe: Recipe, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> trainer.Run:
    run = start_run(tmp_path_factory.mktemp("trained") / "run", recipe, data, SOURCE)
    run_pipeline(job_of(run, data))
    return run


@pytest.mark.parametrize("name", KINDS.values(), ids=list(KINDS))
def test_without_bias_tokens_it_computes_what_timm_computes(name, tmp_path):
    size = 56 if "patch14" in name else 64
    net = published(name, tmp_path / "weights.safetensors", size)
    trunk = student_of(name, tmp_path / "weights.safetensors", size, teachers=0).eval().trunk
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(x), pre_logits=True)
        torch.testing.assert_close(trunk.forward_features(x)[:, 0], expected)


@pytest.mark.parametrize("name", [TINY, DISTILLED, "vit_small_patch14_reg4_dinov2"])
def test_positions_are_interpolated_and_all_else_is_unchanged(name, tmp_path):
    patch = 14 if "patch14" in name else 16
    net = published(name, tmp_path / "weights.safetensors", 14 * patch)
    student = student_of(name, tmp_path / "weights.safetensors", 4 * patch)
    file = load_file(tmp_path / "weights.safetensors")
    prefix = 0 if net.no_embed_class else net.num_prefix_tokens
    for key, tensor in student.trunk.net.state_dict().items():
        expected = file[key]
        if key == "pos_embed":
            expected = resample_abs_pos_embed(expected, new_size=[4, 4], num_prefix_tokens=prefix)
        assert torch.equal(tensor, expected), key
    assert not any(key.startswith("head") for key in student.trunk.net.state_dict())
    assert student.eval()(torch.randn(1, 3, 4 * patch, 4 * patch)).shape == (1, 5)


def test_each_head_reads_its_own_token_and_the_class_head_the_published_feature(weights):
    student = student_of(TINY, weights, 64).train()
    x = torch.randn(2, 3, 64, 64)
    tokens = student.trunk.forward_features(x)
    assert tokens.shape == (2, 3, 64)
    torch.testing.assert_close(student(x)[:, 2], student.heads[2](tokens[:, 2]))
    with torch.no_grad():
        for block in student.trunk.net.blocks:  # nothing passes between tokens
            block.attn.proj.weight.zero_()
        before = student(x)
        student.trunk.bias_tokens[:, 1] += torch.randn(64)
        moved = (student(x) - before).abs().amax((0, 2))
    assert moved[2] > 1e-4
    assert moved[:2].tolist() == [0, 0]


def test_bias_tokens_begin_where_the_class_token_is(weights):
    student, file = student_of(TINY, weights, 64), load_file(weights)
    distance = student.trunk.bias_tokens - (file["cls_token"] + file["pos_embed"][:, :1])
    assert distance.abs().max() < 0.1
    assert not torch.equal(*student.trunk.bias_tokens[0])


def test_it_is_normalised_as_its_weights_were(tiny_data):
    def seen(**changes):
        return student_preprocessing(StudentRecipe(**changes), tiny_data.preprocessing).mean

    assert seen() == seen(model="vit_tiny_patch16_224") == tiny_data.preprocessing.mean
    assert seen(model="vit_tiny_patch16_224", weights="x") == (0.5, 0.5, 0.5)
    assert seen(model="vit_tiny_patch16_224", weights="x", mean=(0.1, 0.2, 0.3)) == (0.1, 0.2, 0.3)


def test_a_net_that_is_no_vision_transformer_is_refused():
    with pytest.raises(RecipeError, match=r"'resnet18' is not a vision transformer .* such as vit_tiny_patch16_224"):
        create_student(StudentRecipe(model="resnet18"), 2, 5, sdk.Preprocessing.square(64))
    with pytest.raises(RecipeError, match=r"timm has no model 'vit_tiny_patch16'; did you mean"):
        create_student(StudentRecipe(model="vit_tiny_patch16"), 2, 5, sdk.Preprocessing.square(64))


def test_a_size_that_its_patch_does_not_divide_is_told_with_the_nearest(weights):
    with pytest.raises(RecipeError, match=r"do not divide into patches of 16; set data.size \(--size\) to 96 or"):
        student_of(TINY, weights, 100)


def test_the_default_size_is_a_multiple_of_its_patch(recipe, clothes):
    told = Told()
    chosen, data = choose(Source((str(clothes),)), recipe, told)
    assert data.preprocessing.input.height == 32  # the images have 28
    (line,) = [line for line in told.lines if line.startswith("size: ")]
    assert line.startswith("size: 32x32 pixels; ")
    assert line.endswith("; 32 is the nearest multiple of the student's patch, 16")
    assert chosen.data.size is None


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.lines.append(text)


class Interrupt(Silent):
    """Stop the training of the student after some steps."""

    def __init__(self, steps: int) -> None:
        self.left, self.here = steps, False

    def begin(self, stage: str, steps: int) -> None:
        self.here = stage == "training student"

    def step(self, steps: int = 1, note: str = "") -> None:
        self.left -= steps * self.here
        if self.left <= 0:
            raise KeyboardInterrupt


def test_a_run_fine_tunes_it_and_needs_the_file_only_in_the_beginning(trained, data, recipe, weights):
    run = open_run(trained.folder)
    weights.rename(weights.with_suffix(".moved"))
    try:
        student, labels, preprocessing = trainer.load_student(run)
    finally:
        weights.with_suffix(".moved").rename(weights)
    record = run.student_record()
    assert top1(logits_of(student, data.test, preprocessing), data.test.labels) == record.results["test"].top1
    assert preprocessing.mean == (0.5, 0.5, 0.5)
    assert record.student.model == TINY
    assert labels == data.labels


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(trained, recipe, data, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.loop.LOST_AT_MOST", 0)
    expected = load_file(trained.folder / "student" / "model.safetensors")
    for steps in (5, 9):  # after the frozen epoch, and after one more
        run = start_run(tmp_path / f"{steps}", recipe, data, SOURCE)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(job_of(run, data, Interrupt(steps)))
        assert (run.folder / "student" / "checkpoint.safetensors").exists()
        torch.manual_seed(1)
        run_pipeline(job_of(start_run(run.folder, recipe, data, SOURCE), data))
        found = load_file(run.folder / "student" / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_plan_needs_no_weights(recipe):
    absent = replace(recipe, student=replace(recipe.student, weights="nowhere.safetensors"))
    imaginary = imagined(absent, Counts.holding_out(64, 0.1), classes=3, size=32)
    paces = Paces(Job(Run(Path(), absent), imaginary, CPU, Silent()), 0.1)
    assert estimate(absent, [own_arm(absent)], paces).seconds > 0


@pytest.mark.long
def test_a_run_of_it_is_cut_to_the_time(recipe, data, tmp_path):
    job = job_of(Run(tmp_path / "run", recipe), data)
    found = cut(job, 3600)
    assert found == recipe
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_it_is_compared_with_itself_without_teachers(recipe, data, tmp_path):
    few = replace(recipe, teachers={"conv": replace(recipe.teachers["conv"], training=Training(epochs=1, batch=16))})
    result = compare_arms(job_of(Run(tmp_path / "all", few), data), SOURCE, [0], {})
    assert set(result.arms) == {"without teachers", "all teachers"}
    assert result.majority == pytest.approx(1 / 3)
    assert any("fewer than 10 test images" in line for line in result.caveats)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "library"),
    [
        ("onnx", "onnx_ir"),
        *(
            pytest.param(*other, marks=pytest.mark.long)
            for other in (("openvino", "nncf"), ("executorch", "executorch"))
        ),
    ],
)
def test_it_is_exported(target, library, weights, data, tmp_path):
    pytest.importorskip(library)  # `make floor` installs the trainer alone
    student = student_of(TINY, weights, 32).eval()
    pixels = data.test.pixels().numpy()
    bundle = sdk.export(
        student,
        target=target,
        precision="fp32",
        out=tmp_path / target,
        labels=list("abcde"),
        preprocessing=sdk.Preprocessing.square(32),
        validation=(pixels, [0] * len(pixels)),
    )
    assert bundle.manifest.proof is not None
    assert bundle.manifest.proof.top1_agreement == 1
