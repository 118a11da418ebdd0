"""Several processes train the same net as one, and refuse together what they can't do together."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from company import together
from jobs import request_of, student_of
from trainer import loop, parallel
from trainer.arms import Change, own_arm, plain_arm
from trainer.comparison import compare
from trainer.data import Form, load, pack, wanted
from trainer.evaluate import logits_of
from trainer.lanes import Lanes, prepared
from trainer.lessons import LabelLessons
from trainer.losses import distillation
from trainer.pipeline import run_pipeline
from trainer.progress import Silent
from trainer.recipe import DataRecipe, read_recipe
from trainer.run import load_student, open_run
from trainer.start import at_work
from trainer.train import train_student, train_teacher

COUNTS = (1, 2, 4)
CLOSE = {"rtol": 2e-4, "atol": 2e-5}

pytestmark = pytest.mark.slow


def losses_of_a_student(data: str, out: str, recipe: str, loss: str) -> list[float]:
    """Train a student with invented answers, and return the loss of every step."""
    losses = []
    chosen = student_of(Path(recipe), loss=loss)

    class Invented(LabelLessons):
        def epoch(self, number):
            def objective(logits, targets, answers):
                found = distillation(logits, targets, answers, own_arm(chosen).teaching())
                losses.append(sum(found.values()).item())
                return found

            def answers_to(batch):
                columns = torch.arange(2 * 3, dtype=torch.float32).reshape(2, 3)
                return (batch.rows.places[:, None, None] % 7 * columns).sin()

            return loop.EpochPlan(number, objective, answers_to)

    with at_work(request_of(Path(data), Path(out), chosen), Silent()) as job:
        train_student(job, own_arm(job.run.recipe), Invented())
    return losses


@pytest.mark.parametrize(("loss", "kind"), [("kl", "folder"), ("dist", "folder"), ("kl", "shards")])
def test_the_losses_do_not_depend_on_the_number_of_processes(loss, kind, clothes, tiny_recipe_file, tmp_path):
    """`dist` compares the images of a whole batch, and stochastic depth draws for each image."""
    found = {}
    if kind == "shards":
        images, clothes = wanted([clothes]), tmp_path / "shards"
        pack(images, clothes, DataRecipe(), Form(), per_shard=25, skip_bad=False, progress=Silent())
    for count in COUNTS:
        place = tmp_path / str(count)
        answers = together(
            count, losses_of_a_student, str(clothes), str(place / "run"), str(tiny_recipe_file), loss, folder=place
        )
        assert all(answer == answers[0] for answer in answers)
        found[count] = torch.tensor(answers[0])
    assert len(found[1]) == 6
    assert found[1].std() > 1e-3
    torch.testing.assert_close(found[2], found[1], **CLOSE)
    torch.testing.assert_close(found[4], found[1], **CLOSE)


class Stops(Silent):
    """A progress that ends the work within the second epoch."""

    def step(self, steps: int = 1, note: str = "") -> None:
        if "epoch 2/" in note:
            raise InterruptedError("stopped")


def weights_of_a_student(data: str, out: str, recipe: str, is_stopped: bool) -> list[float] | None:
    """Train a student from labels, or stop within its second epoch. Return some of its weights."""
    loop.LOST_AT_MOST = 0.0  # a checkpoint after every epoch
    chosen = student_of(Path(recipe))
    with at_work(request_of(Path(data), Path(out), chosen), Stops() if is_stopped else Silent()) as job:
        student = train_student(job, plain_arm(job.run.recipe), LabelLessons())
    return student.state_dict()["trunk.blocks.1.mlp.fc1.weight"].flatten()[:64].tolist()


def test_a_run_goes_on_with_another_number_of_processes(clothes, tiny_recipe_file, tmp_path):
    undisturbed = together(
        1,
        weights_of_a_student,
        str(clothes),
        str(tmp_path / "one"),
        str(tiny_recipe_file),
        False,
        folder=tmp_path / "a",
    )
    work = (weights_of_a_student, str(clothes), str(tmp_path / "run"), str(tiny_recipe_file))
    stopped = together(2, *work, True, folder=tmp_path / "b")
    assert stopped[0] == ["InterruptedError", "stopped"]
    assert stopped[1][0] == "ProcessLost"
    assert open_run(tmp_path / "run").checkpoint("arms/plain").path.exists()
    for_all = together(4, *work, False, folder=tmp_path / "c")
    assert for_all[0] == for_all[1] == for_all[2] == for_all[3]
    torch.testing.assert_close(torch.tensor(for_all[0]), torch.tensor(undisturbed[0]), rtol=5e-3, atol=2e-4)


def accuracy_of_a_teacher(data: str, out: str, recipe: str, seed: int) -> float:
    with at_work(request_of(Path(data), Path(out), read_recipe(recipe), seed), Silent()) as job:
        train_teacher(job, "conv")
        return job.run.teacher_record("conv").results["test"].top1


@pytest.mark.long
def test_a_net_with_batch_norms_is_as_good(clothes, tiny_recipe_file, tmp_path):
    """On a CPU, the norms' statistics are those of each process's own lanes."""
    found = {
        count: [
            together(
                count,
                accuracy_of_a_teacher,
                str(clothes),
                str(tmp_path / f"{count}-{seed}"),
                str(tiny_recipe_file),
                seed,
                folder=tmp_path / f"{count}",
            )
            for seed in range(3)
        ]
        for count in (1, 2)
    }
    assert all(one == other for one, other in found[2])
    alone, shared = ([answers[0] for answers in found[count]] for count in (1, 2))
    assert abs(statistics.mean(shared) - statistics.mean(alone)) <= max(0.1, 2 * statistics.stdev(alone))


def of_seed_by_rank(data: str, out: str, recipe: str) -> None:
    with at_work(request_of(Path(data), Path(out), read_recipe(recipe), seed=parallel.local_rank()), Silent()):
        raise AssertionError("the work began")


def with_images_by_rank(data: str, out: str, recipe: str) -> None:
    place = Path(data) / "train" if parallel.local_rank() else Path(data)
    with at_work(request_of(place, Path(out), read_recipe(recipe)), Silent()):
        raise AssertionError("the work began")


def without_images_by_rank(data: str, out: str, recipe: str) -> None:
    place = Path(data) / "nothing" if parallel.local_rank() else Path(data)
    with at_work(request_of(place, Path(out), read_recipe(recipe)), Silent()):
        raise AssertionError("the work began")


def with_lanes(data: str, out: str, recipe: str, batch: int) -> None:
    with at_work(request_of(Path(data), Path(out), student_of(Path(recipe), batch)), Silent()):
        raise AssertionError("the work began")


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (of_seed_by_rank, "RecipeError: the 2 processes of this run have different recipes"),
        (with_images_by_rank, "RecipeError: the 2 processes of this run have different images"),
        (without_images_by_rank, "DataError: "),
    ],
)
def test_processes_that_differ_are_refused_by_all(work, error, clothes, tiny_recipe_file, tmp_path):
    answers = together(2, work, str(clothes), str(tmp_path / "run"), str(tiny_recipe_file), folder=tmp_path / "a")
    assert answers[0] == answers[1]
    assert ": ".join(answers[0]).startswith(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("count", "batch", "error"),
    [
        (3, 32, "3 processes do not divide data.lanes = 8"),
        (2, 36, "batch = 36 has no 8 equal lanes of pairs; set training.batch = 32"),
        (2, 96, "images do not fill a batch of 96"),
    ],
)
def test_batches_that_can_not_be_shared_are_refused(count, batch, error, clothes, tiny_recipe_file, tmp_path):
    run = tmp_path / "run"
    answers = together(count, with_lanes, str(clothes), str(run), str(tiny_recipe_file), batch, folder=tmp_path / "a")
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == "RecipeError"
    assert error in answers[0][1]
    assert not run.exists()


def comparing_another_batch(data: str, out: str, recipe: str) -> None:
    change = Change(student={"training": {"batch": 20}})
    compare([data], out, recipe=student_of(Path(recipe)), seeds=[0], arms={"other": change}, device="cpu", threads=1)


def test_the_batch_of_an_arm_is_refused_before_anything_is_trained(clothes, tiny_recipe_file, tmp_path):
    out = tmp_path / "all"
    answers = together(2, comparing_another_batch, str(clothes), str(out), str(tiny_recipe_file), folder=tmp_path / "a")
    assert answers[0] == answers[1]
    assert answers[0][0] == "RecipeError"
    assert "batch = 20 has no 8 equal lanes of pairs; set training.batch = 16" in answers[0][1]
    assert not out.exists()


def whole_run(data: str, out: str, recipe: str) -> list[float]:
    with at_work(request_of(Path(data), Path(out), read_recipe(recipe)), Silent()) as job:
        student = run_pipeline(job)
        logits = logits_of(student, job.data.test, job.data.preprocessing)
    return logits.flatten().tolist()


def test_a_whole_run_of_two_processes(clothes, tiny_recipe_file, tmp_path):
    answers = together(2, whole_run, str(clothes), str(tmp_path / "run"), str(tiny_recipe_file), folder=tmp_path / "a")
    assert answers[0] == answers[1]
    student, _, preprocessing = load_student(tmp_path / "run")
    test = load([clothes], DataRecipe()).test
    torch.testing.assert_close(logits_of(student, test, preprocessing).flatten(), torch.tensor(answers[0]))
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 10 + 10 + 1 + 4


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18_small", "rednet26_small_k3"])
def test_norms_of_all_processes_compute_what_the_net_does(name, monkeypatch):
    """EfficientNet has norms that include its activations."""
    monkeypatch.setattr("trainer.lanes.world_size", lambda: 2)
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=3)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        net.train()(images)  # statistics of which no two are alike
        expected = net.eval()(images)
        shared = prepared(net, torch.device("cuda"), Lanes(2))
        kinds = {type(module) for module in shared.modules()}
        assert any(issubclass(kind, torch.nn.SyncBatchNorm) for kind in kinds)
        assert not any(issubclass(kind, torch.nn.BatchNorm2d) for kind in kinds)
        torch.testing.assert_close(shared.eval()(images), expected)
    assert shared.state_dict().keys() == net.state_dict().keys()


def test_torchrun_tells_everything_once(clothes, tiny_recipe_file, tmp_path):
    command = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", "2", "-m", "libkd_sdk"]
    options = ["--data", clothes, "--recipe", tiny_recipe_file, "--epochs", "1", "--threads", "1"]
    run = [*command, "distill", *options, "--device", "cpu"]
    done = subprocess.run([*run, "--out", tmp_path / "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("student") == 1
    assert done.stderr.count("device: cpu, 1 thread, 2 processes") == 1
    refused = subprocess.run(
        [*run, "--out", tmp_path / "run", "--seed", "5"], capture_output=True, text=True, check=False
    )
    assert refused.stderr.count("follows another recipe (it differs in seed)") == 1
