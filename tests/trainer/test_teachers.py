"""Any timm net can be a teacher: with published weights, with its own preprocessing, and as a third bias."""

from pathlib import Path

import pytest
import timm
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

import sdk
from jobs import job_of
from published import LITE, photographs
from trainer import recipe
from trainer.data import Preprocessing, load
from trainer.errors import RecipeError
from trainer.models import create_teacher
from trainer.pipeline import run_pipeline
from trainer.recipe import Training, read_recipe
from trainer.run import Source, load_teacher, open_run, start_run
from trainer.train import train_teacher


def lite(weights: Path, **changes) -> recipe.TeacherRecipe:
    return recipe.TeacherRecipe(model=LITE, weights=str(weights), **changes)


def test_published_weights_recognise_photographs_of_imagenet(published):
    preprocessing = Preprocessing(input=sdk.Preprocessing.square(224).input, mean=(0.0,) * 3, std=(1.0,) * 3)
    teacher = create_teacher(lite(published, training=Training(epochs=0)), 1000, preprocessing)
    assert teacher.preprocessing.mean == teacher.preprocessing.std == (0.5, 0.5, 0.5)  # timm's, not the data's
    photos, classes = zip(*photographs(), strict=True)
    pixels = torch.stack([torch.from_numpy(sdk.images.pixels(photo, preprocessing.input)) for photo in photos])
    teacher.net.eval()
    with torch.no_grad():
        answers = teacher.answer(pixels.permute(0, 3, 1, 2) / 255).argmax(-1).tolist()
    right = sum(map(int.__eq__, answers, classes))
    assert len(photos) == 20
    assert right >= 15


def test_with_other_classes_only_the_classifier_is_left_out(published, tiny_data):
    torch.manual_seed(0)
    net = create_teacher(lite(published), 3, tiny_data.preprocessing).net.state_dict()
    there = timm.create_model(LITE, num_classes=3).state_dict()
    with_names = {name for name in there if not name.startswith("classifier.")}

    file = load_file(published)
    assert all(torch.equal(net[name], file[name]) for name in with_names)
    assert net["classifier.weight"].shape == (3, 1280)


def test_a_torch_state_dictionary_is_read_too(published, tiny_data, tmp_path):

    torch.save(load_file(published), tmp_path / "lite0.pth")
    one = create_teacher(lite(tmp_path / "lite0.pth"), 1000, tiny_data.preprocessing).net
    other = create_teacher(lite(published), 1000, tiny_data.preprocessing).net
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_weights_that_do_not_fit_are_refused_by_name(published, tiny_data, tmp_path):
    def refused(weights, **changes):
        with pytest.raises(RecipeError) as caught:
            create_teacher(lite(weights, **changes), 3, tiny_data.preprocessing)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "as many classes as there are labels" in refused(published, training=Training(epochs=0))
    with pytest.raises(RecipeError, match="not the weights of this model"):
        create_teacher(recipe.TeacherRecipe(model="resnet18", weights=str(published)), 3, tiny_data.preprocessing)
    assert "can't be read as weights" in refused(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(published.read_bytes()[:1000])
    assert "can't be read as weights" in refused(tmp_path / "cut.safetensors")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "whole.pth")  # a pickled module: never loaded
    assert "can't be read as weights" in refused(tmp_path / "whole.pth")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    assert "not a plain state dictionary" in refused(tmp_path / "other.pth")


@pytest.mark.slow
def test_a_teacher_keeps_its_own_input_size(published, tiny_recipe, tiny_data, tmp_path):
    fine_tuned = lite(published, size=64, training=Training(epochs=5, batch=16, lr=1e-3, warmup=1.0, ema=0.5))
    with_it = replace(tiny_recipe, teachers={"lite": fine_tuned})
    run = start_run(tmp_path / "run", with_it, tiny_data, Source(("clothes",)))
    trained = train_teacher(job_of(run, tiny_data), "lite")
    assert trained.preprocessing.input.height == 64
    # ImageNet's features know three kinds of clothes apart; chance would rarely be right for 15 of the 24 images.
    assert run.teacher_record("lite").results["test"].top1 > 0.6
    published.rename(published.with_suffix(".moved"))  # from now on the run has only its own files
    try:
        loaded = load_teacher(open_run(tmp_path / "run"), "lite")
    finally:
        published.with_suffix(".moved").rename(published)
    pixels = tiny_data.test.pixels().permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        assert torch.equal(loaded.answer(pixels), trained.answer(pixels))
    assert loaded.hash() == trained.hash()


def test_a_trained_teacher_can_be_used_in_another_run(tiny_recipe, tiny_data, tmp_path):
    first = start_run(tmp_path / "first", tiny_recipe, tiny_data, Source(("clothes",)))
    trained = train_teacher(job_of(first, tiny_data), "conv")
    taken = replace(
        tiny_recipe.teachers["conv"],
        weights=str(tmp_path / "first/teachers/conv/model.safetensors"),
        mean=tiny_recipe.data.mean,
        std=tiny_recipe.data.std,
        training=Training(epochs=0),
    )
    second = start_run(
        tmp_path / "second", replace(tiny_recipe, seed=8, teachers={"conv": taken}), tiny_data, Source(("clothes",))
    )
    as_it_is = train_teacher(job_of(second, tiny_data), "conv")
    assert as_it_is.hash() == trained.hash()
    assert second.teacher_record("conv").results == first.teacher_record("conv").results
    student = run_pipeline(job_of(second, tiny_data))
    assert len(student.heads) == 2


@pytest.mark.slow
def test_a_third_bias_is_one_more_table_and_one_more_token(tiny_recipe_file, clothes, tmp_path):
    text = (
        tiny_recipe_file.read_text()
        + """
[teachers.mixer]
model = "mixer_small"
args = { img_size = 28, patch_size = 7, num_blocks = 2, embed_dim = 32 }
training = { epochs = 2, batch = 16, lr = 3e-3, warmup = 0.0, ema = 0.9 }
"""
    )
    (tmp_path / "three.toml").write_text(text)
    three, data = read_recipe(tmp_path / "three.toml"), load([clothes])
    run = start_run(tmp_path / "run", three, data, Source((str(clothes),)))
    student = run_pipeline(job_of(run, data))
    assert len(student.heads) == 4
    assert run.student_record().teachers == ("conv", "involution", "mixer")
