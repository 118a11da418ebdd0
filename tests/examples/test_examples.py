"""The programs in examples/ work when they are run as their docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import sdk
import trainer
from clothes import CLASSES
from patterns import LABELS, patterns

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True)


def test_the_app_is_short():
    assert len((EXAMPLES / "sort_images.py").read_text().splitlines()) < 60


def test_images_are_sorted_by_class(bundles, tmp_path):
    inbox, target = tmp_path / "inbox", tmp_path / "sorted"
    inbox.mkdir()
    expected = {}
    with sdk.Classifier(bundles["onnx"].path) as classifier:
        for index, image in enumerate(patterns(12, 21)):
            Image.fromarray(image).save(inbox / f"{index}.png")
            found = classifier.predict(image)
            label = found.label if found.score >= 0.5 else "unsure"
            expected[f"{index}.png"] = label.replace("/", "-")
    (inbox / "notes.txt").write_text("no image")

    done = run("sort_images.py", bundles["onnx"].path, inbox, target, "--sure", "0.5")
    assert {file.name: file.parent.name for file in target.glob("*/*")} == expected
    assert len(set(expected.values()) & {label.replace("/", "-") for label in LABELS}) > 1
    assert [file.name for file in inbox.iterdir()] == ["notes.txt"]
    assert done.returncode == 1
    assert "notes.txt: not a readable image" in done.stderr


def test_no_sorted_file_is_overwritten(bundles, tmp_path):
    inbox, target = tmp_path / "inbox", tmp_path / "sorted"
    inbox.mkdir()
    for _ in range(2):
        Image.fromarray(patterns(1, 21)[0]).save(inbox / "a.png")
        done = run("sort_images.py", bundles["onnx"].path, inbox, target)
    assert done.returncode == 1
    assert "has a file of this name; rename it" in done.stderr
    assert (inbox / "a.png").exists()


@pytest.mark.parametrize(("bundle", "inbox"), [("nowhere", "."), (".", "nowhere")])
def test_a_missing_folder_is_named(tmp_path, bundle, inbox):
    done = run("sort_images.py", tmp_path / bundle, tmp_path / inbox, tmp_path / "sorted")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "nowhere: no" in done.stderr


@pytest.mark.parametrize("target", ["onnx", pytest.param("executorch", marks=pytest.mark.long)])
@pytest.mark.slow
def test_your_own_module_is_exported(tmp_path, target):
    done = run("export_your_own.py", target, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    bundle = sdk.Bundle.open(tmp_path / "bundle")
    assert (bundle.target, bundle.labels) == (target, ("left", "middle", "right"))
    assert bundle.manifest.proof.top1 > 0.9
    guess, truth = done.stdout.splitlines()[-1].split(", and truly ")
    assert guess.split(" ")[0] == truth


@pytest.mark.slow
def test_an_unknown_target_is_named(tmp_path):
    done = run("export_your_own.py", "onx", tmp_path / "bundle")
    assert done.returncode == 1
    assert done.stderr == "target 'onx' is unknown; did you mean 'onnx'?\n"


@pytest.mark.slow
def test_a_student_is_distilled_and_exported_and_predicts(clothes, tiny_recipe_file, tmp_path):
    assert len((EXAMPLES / "distil_from_python.py").read_text().splitlines()) < 40
    done = run("distil_from_python.py", clothes, tmp_path / "out", tiny_recipe_file)
    assert done.returncode == 0, done.stderr
    *told, top1, prediction = done.stdout.splitlines()
    assert any(line.startswith("logit store: ") for line in told)
    record = trainer.open_run(tmp_path / "out/run").student_record()
    assert top1 == f"top-1 on the test images: {record.results['test'].top1:.1%}"
    bundle = sdk.Bundle.open(tmp_path / "out/bundle")
    assert bundle.labels == CLASSES
    assert bundle.manifest.proof.images == record.results["test"].images
    assert bundle.manifest.proof.top1 == pytest.approx(record.results["test"].top1)
    with sdk.Classifier(bundle.path) as classifier:
        again = classifier.predict(clothes / "test/Bag/0.png")
    assert prediction == f"{clothes / 'test/Bag/0.png'}: {again.label} ({again.score:.0%})"
    second = run("distil_from_python.py", clothes, tmp_path / "out", tiny_recipe_file)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[-2:] == [top1, prediction]  # nothing was trained again
