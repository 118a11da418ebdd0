"""A teacher of a run is exported like its student, and a benchmark shows both."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import sdk
from trainer.data import load, to_input
from trainer.recipe import DataRecipe
from trainer.run import load_teacher, open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(distilled, tmp_path_factory):
    """A copy of the shared run, which may get more bundles."""
    return shutil.copytree(distilled, tmp_path_factory.mktemp("run") / "run")


@pytest.mark.parametrize("teacher", ["conv", "involution"])
def test_a_teacher_s_bundle_answers_like_the_teacher(run, clothes, teacher, shell):
    made = json.loads(shell.succeeded("export", run, "--teacher", teacher, "--target", "onnx", "--json"))
    assert made["bundle"] == str(run / "bundles" / f"{teacher}-onnx")
    bundle, record = sdk.Bundle.open(made["bundle"]), open_run(run).teacher_record(teacher)
    manifest = bundle.manifest
    assert manifest.model.arch == record.model
    assert manifest.model.parameters == record.parameters
    assert manifest.model.teachers == ()
    assert manifest.model.trained_on == clothes.name
    assert manifest.output.temperature == 1.0
    assert bundle.labels == open_run(run).data_record().labels
    assert manifest.proof.images == 24
    assert manifest.proof.reference_top1 == pytest.approx(record.results["test"].top1)
    (line,) = shell.succeeded("predict", bundle.path, clothes / "test/Bag/0.png", "--json").splitlines()
    assert json.loads(line)["label"] in bundle.labels
    judged = json.loads(shell.succeeded("eval", bundle.path, "--data", clothes, "--json"))
    assert judged["top1"] == pytest.approx(manifest.proof.top1)


def test_8_bits_of_a_teacher_are_calibrated_on_the_images_of_the_run(run, clothes, shell):
    options = ("--teacher", "conv", "--target", "onnx", "--precision", "int8", "--max-drop", 50)
    made = json.loads(shell.succeeded("export", run, *options, "--json"))
    assert made["bundle"] == str(run / "bundles" / "conv-onnx-int8")
    assert f"training images, {clothes.name}" in shell.succeeded("info", made["bundle"])


def test_a_benchmark_shows_student_and_teacher_in_one_plot(run, clothes, tmp_path, shell):
    page = tmp_path / "speed.html"
    teacher = json.loads(shell.succeeded("export", run, "--teacher", "conv", "--target", "onnx", "--json"))["bundle"]
    options = ("--rounds", 1, "--calls", 3, "--threads", 1, "--report", page, "--json")
    found = json.loads(shell.succeeded("benchmark", run / "bundles/onnx", teacher, *options))
    assert {row["judged_on"] for row in found} == {f"24 images of 3 classes, for a net trained on {clothes.name}"}
    html = page.read_text(encoding="utf-8")
    assert html.count("</b><span>") == 2
    assert open_run(run).teacher_record("conv").model in html


def test_a_teacher_that_does_not_exist_is_refused_with_those_that_do(run, shell):
    line = shell.refused("export", run, "--teacher", "../student", "--target", "onnx")
    assert "no teacher '../student'; it has conv, involution" in line
    line = shell.refused("export", "timm:resnet18", "--teacher", "conv", "--target", "onnx")
    assert "--teacher: only a run has teachers" in line


def test_a_teacher_of_another_size_scales_the_images_as_in_training(distilled, clothes):
    teacher, data = load_teacher(open_run(distilled), "conv"), load([clothes], DataRecipe())
    size = data.preprocessing.input.height
    pixels = data.test.pixels().permute(0, 3, 1, 2) / 255
    for own in (size // 2, size + 12):
        square = sdk.Preprocessing.square(own, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
        other = teacher._replace(preprocessing=square)
        net, preprocessing = other.for_images(size)
        assert preprocessing.input == data.preprocessing.input
        assert (preprocessing.mean, preprocessing.std) == (square.mean, square.std)
        with torch.no_grad():
            found, expected = net(to_input(pixels, preprocessing)), other.answer(pixels)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert teacher.for_images(size)[0] is teacher.net
