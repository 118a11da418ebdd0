"""The findings agree with the run's folder and nets, whose figures are computed in another way here."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace as changed

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

import trainer
from jobs import job_of
from libkd_sdk.pages.run import run_report
from trainer.errors import RunError
from trainer.findings import BINS, SAMPLES, findings
from trainer.pipeline import run_pipeline
from trainer.recipe import ViewsRecipe
from trainer.run import Source, start_run
from trainer.train import train_teacher

SOURCE = Source(("clothes",))


@pytest.fixture(scope="module")
def run(finished):
    return finished


@pytest.fixture(scope="module")
def found(run, tiny_data):
    return findings(job_of(run, tiny_data))


@pytest.fixture(scope="module")
def probabilities(run, tiny_data):
    """The student's probabilities, computed from the pixels, one image at a time."""
    student, _, preprocessing = trainer.load_student(run.folder)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    with torch.no_grad():
        inputs = [(pixels.permute(2, 0, 1) / 255 - mean) / std for pixels in tiny_data.test.pixels()]
        return torch.cat([student(pixels[None]).softmax(-1) for pixels in inputs])


def test_every_stage_has_its_figures(run, found):
    names = [("conv", "teacher"), ("involution", "teacher"), ("student", "student"), ("plain", "plain")]
    assert [(stage.name, stage.kind) for stage in found.stages] == names
    for stage in found.stages:
        config = json.loads((run.folder / stage.stage / "config.json").read_text())
        assert (stage.parameters, stage.seconds) == (config["parameters"], config["seconds"])
        assert msgspec.to_builtins(stage.results) == config["results"]
        files = list((run.folder / stage.stage).iterdir())
        assert stage.bytes == sum(len(path.read_bytes()) for path in files) > 4 * stage.parameters
    assert found.stages[0].model == "resnet18_small"
    assert found.store_bytes == sum(len(path.read_bytes()) for path in (run.folder / "logits").iterdir())
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert found.store_seconds == sum(row["seconds"] for row in rows if row["stage"] == "logits") > 0


def test_curves_are_those_of_the_metrics(run, found):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for stage in found.stages:
        for figure, values in stage.curve.items():
            assert values == [row[figure] for row in rows if row["stage"] == stage.stage]
    assert [len(stage.curve["loss"]) for stage in found.stages] == [10, 10, 4, 4]


def test_confusion_and_class_accuracy_count_the_test_images(found, tiny_data, probabilities):
    truth, answers = tiny_data.test.labels.tolist(), probabilities.argmax(-1).tolist()
    pairs = Counter(zip(truth, answers, strict=True))
    assert {place: count for place, count in np.ndenumerate(found.confusion) if count} == pairs
    assert found.confusion.sum(1).tolist() == [truth.count(number) for number in range(len(found.labels))]
    assert found.class_accuracy["student"] == pytest.approx(found.confusion.diagonal() / found.confusion.sum(1))
    for stage in found.stages[:3]:
        weighted = (found.class_accuracy[stage.stage] * found.confusion.sum(1)).sum() / len(truth)
        assert weighted == pytest.approx(stage.results["test"].top1)


def test_reliability_is_that_of_the_student_before_and_after_its_temperature(run, found, tiny_data, probabilities):
    truth = tiny_data.test.labels
    record = run.student_record()
    assert found.after.ece == pytest.approx(record.results["test"].ece, abs=1e-6)
    assert found.before.ece == pytest.approx(record.ece_before_temperature, abs=1e-6)
    warm = (probabilities.log() * record.temperature).softmax(-1)
    for bins, shares in ((found.before, warm), (found.after, probabilities)):
        assert bins.count.sum() == len(truth)
        confidence, answer = (tensor.numpy() for tensor in shares.max(-1))
        for number in range(BINS):
            inside = np.minimum(confidence * BINS // 1, BINS - 1) == number
            assert bins.count[number] == inside.sum()
            if inside.any():
                assert bins.confidence[number] == pytest.approx(confidence[inside].mean(), rel=1e-5)
                assert bins.accuracy[number] == pytest.approx((answer == truth.numpy())[inside].mean())
            else:
                assert np.isnan([bins.confidence[number], bins.accuracy[number]]).all()
        gaps = bins.count * np.abs(bins.confidence - bins.accuracy)
        assert bins.ece == pytest.approx(np.nansum(gaps) / len(truth), abs=1e-6)


def test_samples_are_test_images_with_the_answers_of_every_net(found, tiny_data, probabilities):
    places = {name: index for index, name in enumerate(tiny_data.test.names)}
    assert len({sample.name for sample in found.samples}) == len(found.samples) == min(SAMPLES, len(places))
    for sample in found.samples:
        index = places[sample.name]
        assert np.array_equal(sample.pixels, tiny_data.test.pixels()[index].numpy())
        assert sample.label == tiny_data.test.labels[index]
        assert sample.answers.keys() == {"teachers/conv", "teachers/involution", "student", "arms/plain"}
        label, confidence = sample.answers["student"]
        assert probabilities[index, label] == probabilities[index].max() == pytest.approx(confidence, rel=1e-5)
    wrong = [sample.answers["student"].label != sample.label for sample in found.samples]
    missed = int(found.confusion.sum() - found.confusion.diagonal().sum())
    assert wrong == sorted(wrong, reverse=True)
    assert sum(wrong) == min(missed, max(SAMPLES // 2, SAMPLES - (len(places) - missed)))
    sure, answers = probabilities.max(-1)
    mistakes = [row for row, label in enumerate(tiny_data.test.labels) if answers[row] != label]
    mistakes.sort(key=lambda row: -sure[row].item())
    assert [places[sample.name] for sample in found.samples[: sum(wrong)]] == mistakes[: sum(wrong)]


def test_data_recipe_and_versions_are_named(run, found, tiny_data):
    assert found.images == {name: len(getattr(tiny_data, name)) for name in ("train", "validation", "test")}
    assert (found.data, found.skipped, found.labels) == (("clothes",), (), tiny_data.labels)
    assert found.recipe == (run.folder / "recipe.toml").read_text()
    assert torch.__version__.startswith(found.versions["torch"].split("+")[0])


@pytest.mark.slow
def test_a_run_that_stored_nothing_and_has_no_plain_student(run, tiny_data, tmp_path):
    recipe = replace(run.recipe, views=ViewsRecipe(mode="online", spec=run.recipe.views.spec))
    job = job_of(start_run(tmp_path / "run", recipe, tiny_data, SOURCE), tiny_data)
    for name in recipe.teachers:
        train_teacher(job, name)
    with pytest.raises(RunError, match="no finished student there"):
        findings(job)
    run_pipeline(job)
    found = findings(job)
    assert found.store_bytes is found.store_seconds is None
    assert [stage.name for stage in found.stages] == ["conv", "involution", "student"]
    assert "Nothing is stored" in run_report(found)


def test_a_missing_teacher_is_named(run, tiny_data, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "copy")
    shutil.rmtree(copy / "teachers" / "conv")
    with pytest.raises(RunError, match="teacher 'conv' is not trained"):
        findings(job_of(changed(run, folder=copy), tiny_data))


def test_the_report_says_what_was_found(found):
    html = run_report(found)
    student = found.stages[2].results["test"].top1
    gain = 100 * (student - found.stages[3].results["test"].top1)
    assert f"<strong>{student:.1%}</strong>" in html
    assert f"<strong>{gain:+.1f} points</strong>" in html
    assert html.count('src="data:image/png;base64,') == len(found.samples)
    assert re.findall(r"<h2>(.*?)</h2>", html)[0] == "Accuracy of every stage"
    assert "Every class has fewer than 10 test images: too few to tell" in html
    assert "3 of 3 classes have fewer than 10 test images (Bag 8, Sneaker 8, Trouser 8)" in html
    assert "always the largest class: 33.3%" in html
