"""Training learns, continues after a kill as if nothing had happened, and leaves other folders alone."""

import json
import math
import os
import shutil
import signal

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

import trainer
from jobs import Interrupt, Terminate, job_of
from trainer.arms import plain_arm
from trainer.data import load
from trainer.errors import Diverged, RecipeError, RunError, Stopped
from trainer.evaluate import logits_of, top1
from trainer.loop import batches
from trainer.metrics import epoch_rows
from trainer.pipeline import run_pipeline, train_arm
from trainer.progress import Silent
from trainer.recipe import DataRecipe
from trainer.run import Source, open_run, start_run
from trainer.views import ViewSpec

SOURCE = Source(("clothes",))


class FirstSteps(Silent):
    """Keep how many steps of a stage were done before this run of it."""

    def __init__(self, stage: str) -> None:
        self.wanted, self.here = stage, False
        self.first: int | None = None

    def begin(self, stage: str, steps: int) -> None:
        self.here = stage == self.wanted

    def step(self, steps: int = 1, note: str = "") -> None:
        if self.here and self.first is None:
            self.first = steps


def weights(run, stage):
    return load_file(run.folder / stage / "model.safetensors")


def test_a_run_leaves_the_files_that_are_documented(finished, tiny_data):
    folder = finished.folder
    for stage in ("teachers/conv", "teachers/involution", "student", "arms/plain"):
        kept = {"model.safetensors", "config.json"} | ({"arm.json"} if "teachers" not in stage else set())
        assert {path.name for path in (folder / stage).iterdir()} == kept
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["epoch"]) for row in rows if row["stage"] == "student"] == [
        ("student", epoch) for epoch in range(4)
    ]
    assert all(math.isfinite(row["loss"]) and 0 <= row["validation_top1"] <= 1 for row in rows if "epoch" in row)
    (filled,) = [row for row in rows if row["stage"] == "logits"]
    assert filled["answers"] == 2 * 2 * len(tiny_data.train)  # views, teachers
    assert len(list((folder / "tensorboard").rglob("events.*"))) == 4
    assert json.loads((folder / "data.json").read_text())["hash"] == tiny_data.hash()
    assert finished.student_record().teachers == ("conv", "involution")
    assert finished.student_record("arms/plain").teachers == ()


def test_it_learns_three_kinds_of_clothes(finished):
    for stage in ("teachers/conv", "student"):
        assert finished.net_record(stage).results["test"].top1 > 0.5  # chance is a third


@pytest.mark.parametrize("stage", ["teachers/conv", "student"])
@pytest.mark.parametrize(("steps", "lost_at_most"), [(1, 0), (9, 0), (14, 0), (14, 20)])
@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    stage, steps, lost_at_most, finished, tiny_recipe, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr("trainer.loop.LOST_AT_MOST", lost_at_most)
    folder = tmp_path / "run"
    run = start_run(folder, tiny_recipe, tiny_data, SOURCE)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(job_of(run, tiny_data, Interrupt(f"training {stage}", steps)))
    assert not run.has(stage)
    assert (folder / stage / "checkpoint.safetensors").exists() == (lost_at_most == 0 and steps > 4)  # an epoch has 4
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "a row that was cut o')
    torch.manual_seed(12345)  # the random state of a new process must not matter
    run_pipeline(job_of(start_run(folder, tiny_recipe, tiny_data, SOURCE), tiny_data))
    for kept in ("teachers/conv", "teachers/involution", "student"):
        once, again = weights(finished, kept), weights(run, kept)
        assert once.keys() == again.keys()
        assert all(torch.equal(once[name], again[name]) for name in once), kept
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in rows if row["stage"] == stage]
    assert epochs == sorted(set(epochs))


@pytest.mark.parametrize(("stage", "steps"), [("teachers/conv", 6), ("student", 3), ("student", 8)])
def test_a_run_that_is_told_to_end_keeps_its_last_step(stage, steps, finished, tiny_recipe, tiny_data, tmp_path):
    folder = tmp_path / "run"
    run = start_run(folder, tiny_recipe, tiny_data, SOURCE)
    with pytest.raises(Stopped, match="the same command continues") as told:
        run_pipeline(job_of(run, tiny_data, Terminate(f"training {stage}", steps)))
    assert told.value.exit_code == 75
    progress = FirstSteps(f"training {stage}")
    run_pipeline(job_of(start_run(folder, tiny_recipe, tiny_data, SOURCE), tiny_data, progress))
    assert progress.first == steps
    once, again = weights(finished, stage), weights(run, stage)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert [row.loss for row in epoch_rows(folder, stage)] == [row.loss for row in epoch_rows(finished.folder, stage)]


class TerminateAtTheEnd(FirstSteps):
    """Send SIGTERM when the last epoch of a stage was judged, and no step follows."""

    def step(self, steps: int = 1, note: str = "") -> None:
        if self.here and not steps and "epoch 4/4" in note:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_after_the_last_step_is_not_lost(tiny_recipe, tiny_data, tmp_path):
    come = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: come.append(number))
    try:
        run = start_run(tmp_path / "run", tiny_recipe, tiny_data, SOURCE)
        train_arm(job_of(run, tiny_data, TerminateAtTheEnd("training arms/plain")), plain_arm(run.recipe))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert come == [signal.SIGTERM]


def test_the_checkpoint_of_an_earlier_version_is_continued(tiny_recipe, tiny_data, tmp_path):
    run = start_run(tmp_path / "run", tiny_recipe, tiny_data, SOURCE)
    with pytest.raises(Stopped):
        train_arm(job_of(run, tiny_data, Terminate("training arms/plain", 3)), plain_arm(run.recipe))
    checkpoint = run.checkpoint("arms/plain")
    tensors, _ = checkpoint.read()
    checkpoint.write(tensors, epoch="2")
    progress = FirstSteps("training arms/plain")
    train_arm(job_of(run, tiny_data, progress), plain_arm(run.recipe))
    assert progress.first == 8  # two epochs of four steps


@pytest.mark.slow
def test_images_that_stay_files_teach_the_same(finished, tiny_recipe, clothes, tmp_path):
    """Images that workers decode in every epoch give the same views, answers and weights as images in memory."""
    files = load([clothes], DataRecipe(memory_gb=0))
    assert files.train.images.nbytes == 0
    run = start_run(tmp_path / "run", tiny_recipe, files, SOURCE)
    run_pipeline(job_of(run, files))
    for stage in ("teachers/conv", "student"):
        once, again = weights(finished, stage), weights(run, stage)
        assert all(torch.equal(once[name], again[name]) for name in once), stage


def test_the_loaded_student_has_the_accuracy_of_its_record(finished, tiny_data):
    student, labels, preprocessing = trainer.load_student(finished.folder)
    assert labels == tiny_data.labels
    assert preprocessing == tiny_data.preprocessing
    assert not student.training
    assert student.temperature.item() != 1
    logits = logits_of(student, tiny_data.test, preprocessing)
    assert top1(logits, tiny_data.test.labels) == finished.student_record().results["test"].top1


def test_the_student_without_teachers_has_the_same_shape_and_other_weights(finished):
    taught, plain = weights(finished, "student"), weights(finished, "arms/plain")
    assert {name: tensor.shape for name, tensor in taught.items()} == {
        name: tensor.shape for name, tensor in plain.items()
    }
    assert not torch.equal(taught["heads.1.weight"], plain["heads.1.weight"])


def test_every_epoch_shows_every_pair_once_and_keeps_pairs_together(tiny_data):
    split = tiny_data.train
    spec = ViewSpec(mixup=1.0)
    by_epoch = []
    for epoch in (0, 1):
        seen = list(batches(split, seed=3, view=5, epoch=epoch, size=16, spec=spec))
        assert [len(batch.rows) for batch in seen] == [16] * (len(split) // 16)
        by_epoch.append(torch.cat([batch.rows.places for batch in seen]))
        assert len(set(torch.cat([batch.rows.indices for batch in seen]).tolist())) == len(split) // 16 * 16
        assert torch.equal(by_epoch[-1][0::2] + 1, by_epoch[-1][1::2])
    assert not torch.equal(*by_epoch)  # another epoch has the same pairs in another order

    fewer = list(batches(split.take(torch.arange(5)), seed=3, view=5, epoch=0, size=16, spec=spec))
    assert [len(batch.rows) for batch in fewer] == [4]


def test_other_data_or_another_recipe_are_refused(finished, tiny_recipe, tiny_data, clothes):
    before = (finished.folder / "recipe.toml").read_bytes()
    causes = r"belongs to other data \(clothes\), or follows another recipe \(it differs in data.size\)"
    with pytest.raises(RunError, match=causes):
        start_run(finished.folder, tiny_recipe, load([clothes], DataRecipe(size=24)), SOURCE)
    other = replace(tiny_recipe, seed=8, student=replace(tiny_recipe.student, depth=3))
    with pytest.raises(RunError, match=r"another recipe \(it differs in seed, student.depth\)"):
        start_run(finished.folder, other, tiny_data, SOURCE)
    assert (finished.folder / "recipe.toml").read_bytes() == before
    assert start_run(finished.folder, tiny_recipe, tiny_data, SOURCE).has("student")


def test_a_recipe_whose_nets_cannot_be_created_leaves_no_run(tiny_recipe, tiny_data, tmp_path):
    conv = tiny_recipe.teachers["conv"]
    for wrong in (
        replace(tiny_recipe, teachers={"conv": replace(conv, model="resnet_of_dreams")}),
        replace(tiny_recipe, student=replace(tiny_recipe.student, stem="patch", patch=5)),
    ):
        with pytest.raises(RecipeError):
            start_run(tmp_path / "run", wrong, tiny_data, SOURCE)
        assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tiny_recipe, tiny_data, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="not empty, but not a run either"):
        start_run(tmp_path, tiny_recipe, tiny_data, SOURCE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_needs_a_path_that_tensorboard_can_open(tiny_recipe, tiny_data, tmp_path):
    with pytest.raises(RunError, match="not UTF-8; choose another --out"):
        start_run(tmp_path / os.fsdecode(b"r\xe9n"), tiny_recipe, tiny_data, SOURCE)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RunError, match="no run there"):
        open_run(tmp_path)


def test_a_student_that_is_not_finished_is_not_loaded(tiny_recipe, tiny_data, tmp_path):
    start_run(tmp_path, tiny_recipe, tiny_data, SOURCE)
    with pytest.raises(RunError, match=r"no finished student there; run `libkd-sdk distill --out .*` again"):
        trainer.load_student(tmp_path)


def test_damaged_weights_are_named(finished, tmp_path):
    copy = shutil.copytree(finished.folder, tmp_path / "copy")
    path = copy / "student" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RunError, match=r"student/model\.safetensors: missing or damaged"):
        trainer.load_student(copy)
    save_file({"something": torch.zeros(1)}, path)
    with pytest.raises(RunError, match=r"student/model\.safetensors: missing or damaged"):
        trainer.load_student(copy)


def test_a_diverging_run_stops_with_its_last_checkpoint(tiny_recipe, tiny_data, tmp_path):
    conv = tiny_recipe.teachers["conv"]
    wild = replace(conv, training=replace(conv.training, lr=1e30, warmup=0.0))
    run = start_run(tmp_path, replace(tiny_recipe, teachers={"conv": wild}), tiny_data, SOURCE)
    with pytest.raises(Diverged, match=r"teachers/conv: the loss is .* lower its training\.lr"):
        run_pipeline(job_of(run, tiny_data))
    assert not run.has("teachers/conv")


@pytest.mark.slow
def test_bf16_arithmetic_trains_too(tiny_recipe, tiny_data, tmp_path):
    conv = tiny_recipe.teachers["involution"]
    bf16 = replace(conv, training=replace(conv.training, precision="bf16"))
    student = replace(tiny_recipe.student, training=replace(tiny_recipe.student.training, precision="bf16"))
    run = start_run(tmp_path, replace(tiny_recipe, teachers={"involution": bf16}, student=student), tiny_data, SOURCE)
    model = run_pipeline(job_of(run, tiny_data))
    assert model.temperature.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert run.student_record().results["test"].top1 > 0.45


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.long
@pytest.mark.slow
def test_compiled_nets_train_as_others_do(tiny_recipe, tiny_data, tmp_path):
    """torch.compile changes only the rounding. The kept weights have the names of the plain net."""

    def trained(compile: bool) -> dict[str, torch.Tensor]:
        training = replace(tiny_recipe.student.training, epochs=1, compile=compile)
        # compiled stochastic depth draws other numbers
        recipe = replace(tiny_recipe, student=replace(tiny_recipe.student, training=training, drop_path=0.0))
        run = start_run(tmp_path / str(compile), recipe, tiny_data, SOURCE)
        train_arm(job_of(run, tiny_data), plain_arm(run.recipe))
        return weights(run, "arms/plain")

    plain, compiled = trained(False), trained(True)
    assert plain.keys() == compiled.keys()
    for name in plain:  # on average: AdamW makes a whole step of a gradient that is only rounding
        assert (compiled[name] - plain[name]).abs().double().mean() < 5e-4, name


def test_no_image_is_in_two_splits(tiny_data):
    names = [set(split.names) for split in (tiny_data.train, tiny_data.validation, tiny_data.test)]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
