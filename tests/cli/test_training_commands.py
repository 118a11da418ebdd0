"""The commands that train: teach, precompute, distill, compare and plan."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from functools import partial
from itertools import takewhile

import pytest
from safetensors import safe_open

from shell import LIBKD, libkd, succeeded
from trainer.tensors import TensorFile

pytestmark = pytest.mark.slow


def test_a_finished_run_is_not_trained_again(distilled, shell):
    before = (distilled / "metrics.jsonl").read_bytes()
    assert "student" in shell.succeeded("distill", "--out", distilled)  # it remembers its data and its recipe
    assert (distilled / "metrics.jsonl").read_bytes() == before


def test_the_store_is_checked_and_refilled(distilled, tmp_path, shell):
    run = shutil.copytree(distilled, tmp_path / "run")
    checked = json.loads(shell.succeeded("precompute", "--out", run, "--check", "--json"))
    assert checked["top1_agreement"] > 0.98
    unit = next((run / "logits").glob("view-*.safetensors"))
    content = unit.read_bytes()
    unit.unlink()
    assert json.loads(shell.succeeded("precompute", "--out", run, "--json"))["units_computed"] == 1
    assert unit.read_bytes() == content
    assert "max. abs. error" in shell.succeeded("precompute", "--out", run, "--check")
    first, second = sorted((run / "logits").glob("view-*.safetensors"))
    with_other_answers(first)
    done = shell.run("precompute", "--out", run, "--check", "--json")
    assert done.code == 2
    assert json.loads(done.out)["within"] is False
    assert "logits: not what the teachers answer; remove the folder and precompute again [store-" in done.err
    shutil.copy(first, second)
    done = shell.run("precompute", "--out", run, "--check")
    assert done.code == 2
    assert "(it holds view 0, shard 0 of" in done.err


@pytest.mark.long  # `test_precompute.py` has a shorter one
def test_two_processes_fill_one_store(distilled, tmp_path, shell):
    run = shutil.copytree(distilled, tmp_path / "run")
    units = {path.name: path.read_bytes() for path in (run / "logits").glob("view-*.safetensors")}
    shutil.rmtree(run / "logits")
    command = [LIBKD, "precompute", "--out", str(run), "--json"]
    both = [
        subprocess.Popen([*command, "--part", part], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for part in ("1/2", "2/2")
    ]
    computed = []
    for process in both:
        out, err = process.communicate()
        assert process.returncode == 0, err
        computed.append(json.loads(out)["units_computed"])
    assert sum(computed) == len(units) == 2
    assert {path.name: path.read_bytes() for path in (run / "logits").glob("view-*.safetensors")} == units
    assert shell.run("precompute", "--out", tmp_path / "none").err.count("no run there") == 1
    assert not (tmp_path / "none").exists()


def with_other_answers(path):
    """Write a unit as if the teachers had answered something else."""
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["libkd"])["content"]
    unit = TensorFile(path, content, "")
    tensors, facts = unit.read()
    unit.write({name: tensor.roll(1, 0) for name, tensor in tensors.items()}, **facts)


@pytest.mark.parametrize(
    ("within", "line"),
    [("1ms", "--within: '1ms' is not a time; write it as 90s, 30m or 1h30m"), ("0.5s", "too little time: ")],
)
def test_a_time_that_makes_no_sense_leaves_nothing(clothes, tiny_recipe_file, tmp_path, within, line, shell):
    arguments = ["distill", "--data", clothes, "--recipe", tiny_recipe_file, "--out", tmp_path / "run"]
    done = shell.run(*arguments, "--within", within)
    assert done.code == 2
    assert line in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_run_is_cut_to_the_time_it_is_given_and_goes_on_as_it_was_cut(clothes, tiny_recipe_file, tmp_path, shell):
    arguments = ["distill", "--data", clothes, "--recipe", tiny_recipe_file, "--out", tmp_path / "run"]
    first = libkd(*arguments, "--within", "1h")
    assert b"all of the recipe fits" in first.stderr
    assert json.loads(shell.succeeded(*arguments, "--within", "1h", "--json"))["stages"]["student"]
    again = shell.run(*arguments, "--within", "1h")
    assert again.code == 0
    assert "continues with the epochs and views that it started with" in again.err


@pytest.mark.long
def test_a_comparison_with_unlabelled_images_and_an_arm_of_ones_own(clothes, tiny_recipe_file, tmp_path, shell):
    arms, out = tmp_path / "arms.toml", tmp_path / "comparison"
    arms.write_text('["hard labels".student]\nloss = "hard"\n')
    more = tmp_path / "more"
    shutil.copytree(clothes / "train/Bag", more)
    arguments = ["compare", "--data", clothes, "--unlabelled", more, "--recipe", tiny_recipe_file, "--out", out]
    done = shell.run(*arguments, "--arms", arms, "--seeds", "1", "--labels", 0.5, "--json")
    assert done.code == 0, done.err
    results = json.loads(done.out)
    assert json.loads((out / "results.json").read_text()) == results
    known = ["data", "recipe", "images", "device", "torch", "seeds", "teachers", "arms", "pairs", "majority", "caveats"]
    assert list(results) == known
    assert results["data"] == [clothes.name]
    assert results["recipe"] == "tiny"
    assert results["images"] == {"train": 33, "unlabelled": 33 + 24, "validation": 6, "test": 24}
    assert list(results["arms"]) == [
        "without teachers",
        "conv alone",
        "involution alone",
        "all teachers",
        "all teachers, labelled images only",
        "hard labels",
    ]
    assert results["pairs"][0].keys() == {"arm", "with", "difference", "interval"}
    assert "pays from student" in done.err
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert page.count('class="dot"') == len(results["arms"])
    assert results["arms"]["hard labels"]["stage"] == "arms/hard-labels"
    assert page.count("</b><span>") == len(results["arms"]) + len(results["teachers"])  # the key of the plot
    assert "Top-1 by latency" in page
    table = succeeded(libkd(*arguments, "--arms", arms, "--seeds", "1", "--labels", 0.5))
    assert "student, hard labels" in table
    assert "33 training images and 57 without labels" in table


def test_a_plan_is_estimated_without_data_and_writes_nothing(tiny_recipe_file, tmp_path, shell, monkeypatch):
    arguments = ["plan", "--images", 50_000, "--classes", 3, "--size", 28, "--recipe", tiny_recipe_file]
    monkeypatch.chdir(tmp_path)
    found = json.loads(shell.succeeded(*arguments, "--json"))
    assert found["store"]["bytes"] == 2 * 50_000 * 2 * 3 * 2  # views, images, teachers, classes, float16
    assert found["store"]["pays_from_student"] == 1
    assert 0 < found["store"]["fill_seconds"] < found["store"]["online_seconds"] < found["seconds"]
    assert found["images"] == {"train": 50_000, "unlabelled": 0, "validation": 5000, "test": 5000}
    assert found["device"] == "cpu"
    assert found["epoch_seconds"].keys() == {"teachers", "store", "student"}
    alone = found["nodes"]["at_least"]
    assert [alone[key] for key in ("teachers", "student", "seconds")] == [
        found[key] for key in ("teachers", "student", "seconds")
    ]
    assert alone["store"] == pytest.approx(found["store"]["fill_seconds"])
    monkeypatch.setattr("libkd_sdk.commands.plan.MEASURED_S", 0.0)
    done = shell.run(*arguments)
    assert "logit store" in done.out
    assert "at least" not in done.out
    for what in ("teacher conv", "teacher involution", "student", "the teachers' answers"):
        assert f"timing {what}" in done.err
    assert list(tmp_path.iterdir()) == []
    photos = ["plan", "--recipe", "photos", "--images", 500, "--classes", 3, "--size", 100]
    assert "100 pixels do not divide into patches of 16" in shell.refused(*photos), "before anything is timed"


def test_a_plan_for_more_images_and_machines_than_there_are(clothes, tiny_recipe_file, shell, monkeypatch):
    monkeypatch.setattr("libkd_sdk.commands.plan.MEASURED_S", 0.0)
    many = ["plan", "--samples", "1e9", "--nodes", 16, "--recipe", tiny_recipe_file, "--threads", 1]
    found = json.loads(shell.succeeded(*many, "--classes", 3, "--size", 28, "--set", "views.bits=8", "--json"))
    assert found["store"]["bytes"] == 2 * 10**9 * 2 * (3 + 4)  # views, images, teachers, classes, scale and offset
    nodes = found["nodes"]
    assert (nodes["count"], nodes["processes"], nodes["training_processes"]) == (16, 16, 8)
    assert nodes["limit"].startswith("16 processes do not divide data.lanes = 8")
    assert nodes["pays_from_student"] == found["store"]["pays_from_student"]
    assert nodes["at_least"]["store"] == pytest.approx(found["store"]["fill_seconds"] / 16)
    assert nodes["at_least"]["student"] == found["student"] / 8
    wide = ["--set", "data.lanes=16", "--set", "student.training.batch=32", "--set", "teachers.*.training.batch=32"]
    out = shell.succeeded(*many, *wide, "--data", clothes)
    assert "1,000,000,000 images of 28x28, 3 classes" in out
    assert "on one cpu" in out
    assert "on 16, at least" in out
    assert "90,909,091 images for validation, 363,636,364 for the test" in out  # of 66 images, 6 and 24
    assert "16 on 16 machines: all share each batch" in out


def test_a_plan_takes_what_the_data_says(clothes, tiny_recipe_file, tmp_path, shell, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("libkd_sdk.commands.plan.MEASURED_S", 0.0)
    arguments = ["plan", "--data", clothes, "--recipe", tiny_recipe_file]
    assert "66 images of 28x28, 3 classes" in shell.succeeded(*arguments)
    found = json.loads(shell.succeeded(*arguments, "--threads", 1, "--json"))
    assert found["teachers_at_once"] == 1
    assert found["store"]["bytes"] == 2 * 66 * 2 * 3 * 2  # views, images, teachers, classes, float16
    assert list(tmp_path.iterdir()) == []
    assert "66 images of 20x20" in shell.succeeded(*arguments, "--size", 20, "--epochs", 1)
    assert "--classes describes images that --data does not name" in shell.refused(*arguments, "--classes", 3)
    assert "describe them by --images, --classes and --size" in shell.refused("plan", "--images", 50)


def test_the_first_lines_say_what_was_found_and_how_long_it_will_take(clothes, tiny_recipe_file, tmp_path, shell):
    data = shutil.copytree(clothes, tmp_path / "data")
    for name in ("a.heic", "notes.txt"):
        (data / "train/Bag" / name).write_bytes(b"no image that we know")
    done = shell.run("distill", "--data", data, "--recipe", tiny_recipe_file, "--out", tmp_path / "run", "--threads", 1)
    assert done.code == 0
    lines = done.err.splitlines()
    first = takewhile(lambda line: not line.startswith("training "), lines)
    told = [line for line in first if not line.startswith(("timing ", "reading "))]
    assert told[:5] == [
        "device: cpu, 1 thread",
        f"left out: {data}: 2 files are no images (.heic 1, .txt 1): train/Bag/a.heic, train/Bag/notes.txt",
        "size: 28x28 pixels; the median of the images' shorter sides is 28",
        "data: 3 classes, 66 images to train on (Bag 22, Sneaker 22, Trouser 22), 6 for validation, 24 for the test, "
        "28x28 pixels",
        "recipe: teachers conv (resnet18_small, 10 epochs), involution (rednet26_small_k3, 10 epochs); "
        "the student learns for 4 epochs",
    ]
    (estimate,) = told[5:]
    number = r"[\d.]+ (s|min)"
    assert re.fullmatch(
        f"estimate: teacher conv {number}, teacher involution {number}, logit store {number}, student {number}; "
        f"about {number} in all",
        estimate,
    )
    assert "training student: epoch 4/4, " in done.err
    again = shell.run("distill", "--out", tmp_path / "run")
    assert "estimate" not in again.err


def test_one_teacher_alone(clothes, tiny_recipe_file, tmp_path, shell):
    arguments = ["teach", "conv", "--data", clothes, "--out", tmp_path / "run", "--recipe", tiny_recipe_file]
    assert "parameters" in shell.succeeded(*arguments)
    assert sorted(path.name for path in (tmp_path / "run/teachers").iterdir()) == ["conv"]
    other = tmp_path / "other"
    line = shell.refused("teach", "transformer", "--data", clothes, "--out", other, "--recipe", tiny_recipe_file)
    assert not other.exists()
    assert "has no teacher 'transformer'; it has conv, involution" in line


def test_ctrl_c_is_one_line_and_the_run_goes_on(clothes, tiny_recipe_file, tmp_path, shell):
    arguments = ["distill", "--data", clothes, "--out", tmp_path / "run", "--recipe", tiny_recipe_file]
    # A shell starts its background jobs with Ctrl-C ignored, and a child would inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command = [LIBKD, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        for line in process.stderr:
            if line.startswith("training teachers/involution"):
                process.send_signal(signal.SIGINT)
                break
        *_, last = process.stderr.read().splitlines()
        assert last == "libkd-sdk: interrupted; run the same command again to continue"
    assert process.returncode == 130
    assert (tmp_path / "run/teachers/conv/config.json").exists()
    assert not (tmp_path / "run/student/config.json").exists()
    assert "student" in shell.succeeded("distill", "--out", tmp_path / "run")
