"""Nothing damaged is used: a changed bit, a file in another one's place, and a malformed record are refused by name."""

import random
import shutil

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

import trainer
from jobs import job_of, with_flipped_bit
from trainer.arms import own_arm, plain_arm
from trainer.errors import Diverged, RecipeError, RunError, StoreError
from trainer.learner import Learner
from trainer.lessons import open_store
from trainer.logits import LogitStore
from trainer.models import create_teacher
from trainer.pipeline import load_teachers, run_pipeline, train_arm
from trainer.progress import Silent
from trainer.run import Run, Source, load_teacher, start_run
from trainer.tensors import TensorFile
from trainer.train import train_teacher

SOURCE = Source(("clothes",))


@pytest.fixture
def store(copy, tiny_data) -> LogitStore:
    teachers = load_teachers(job_of(copy, tiny_data))
    return open_store(copy, tiny_data, own_arm(copy.recipe), teachers)


@pytest.fixture
def small(tmp_path) -> TensorFile:
    file = TensorFile(tmp_path / "small.safetensors", "the weights of a test", "make it again")
    file.write({"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.float16)}, epoch="3")
    return file


def test_a_file_gives_back_what_was_written(small):
    tensors, facts = small.read()
    assert tensors["a"].tolist() == [0, 1, 2]
    assert tensors["b"].dtype == torch.float16
    assert facts == {"epoch": "3"}
    assert load_file(small.path).keys() == tensors.keys()
    before = small.path.read_bytes()
    small.write(tensors, **facts)
    assert small.path.read_bytes() == before


def test_every_single_bit_of_a_file_counts(small):
    whole = small.path.read_bytes()
    for bit in range(8 * len(whole)):
        small.path.write_bytes(with_flipped_bit(whole, bit))
        with pytest.raises(RunError, match=r"small\.safetensors: missing or damaged \(.*\); make it again"):
            small.read()


@pytest.mark.parametrize("change", [lambda it: it + b"\0", lambda it: it[:-1], lambda it: b"", lambda it: it[8:]])
def test_a_longer_or_shorter_file_is_refused(change, small):
    small.path.write_bytes(change(small.path.read_bytes()))
    with pytest.raises(RunError, match="missing or damaged"):
        small.read()


def test_a_file_that_is_no_file_is_refused(small):
    small.path.unlink()
    with pytest.raises(RunError, match="missing or damaged"):
        small.read()
    small.path.mkdir()
    with pytest.raises(RunError, match="not a file"):
        small.read()


def test_a_file_of_another_program_is_refused(small):
    save_file({"a": torch.arange(3.0)}, small.path, metadata={"format": "pt"})
    with pytest.raises(RunError, match="it has no digest: an earlier version or another program wrote it"):
        small.read()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_refused(value, small):
    small.write({"a": torch.arange(3.0), "b": torch.tensor([[1.0, value]])})
    with pytest.raises(RunError, match="b holds NaN or infinity"):
        small.read()


TENSORS = ["teachers/conv/model.safetensors", "student/model.safetensors", "logits/view-0001-shard-0000.safetensors"]


@pytest.mark.parametrize("name", TENSORS)
def test_a_flipped_bit_is_named_before_anything_is_trained(name, copy, tiny_data):
    """The student is not trained yet, so that the teachers and the stored answers are needed again."""
    whole = (copy.folder / name).read_bytes()
    shutil.rmtree(copy.folder / "arms")
    if not name.startswith("student"):
        shutil.rmtree(copy.folder / "student")
    for bit in random.Random(name).sample(range(8 * len(whole)), 12):
        (copy.folder / name).write_bytes(with_flipped_bit(whole, bit))
        with pytest.raises((RunError, StoreError), match=rf"{name}: missing or damaged .*; remove .* again"):
            run_pipeline(job_of(copy, tiny_data))


def moved(copy: Run, one: str, other: str) -> None:
    shutil.copy(copy.folder / one, copy.folder / other)


def test_a_unit_of_another_view_is_refused(copy, store, tiny_data):
    moved(copy, "logits/view-0000-shard-0000.safetensors", "logits/view-0001-shard-0000.safetensors")
    with pytest.raises(StoreError, match=r"view-0001.*\(it holds view 0, shard 0 of .*, not view 1, shard 0"):
        store.read(1)
    store.read(0)
    shutil.rmtree(copy.folder / "student")
    with pytest.raises(StoreError, match="view-0001"):
        run_pipeline(job_of(copy, tiny_data))


def test_a_unit_of_another_store_is_refused(copy, store, tmp_path):
    other = LogitStore(tmp_path / "other", replace(store.header, seed=8), 1)
    tensors, _ = store.unit(0, 0).read()
    other.unit(0, 0).write(tensors)
    shutil.copy(other.path(0, 0), store.path(0, 0))
    with pytest.raises(StoreError, match=r"view-0000.*\(it holds view 0, shard 0 of store \w+, not view 0"):
        store.read(0)


def test_weights_of_another_net_or_run_are_refused(copy, tiny_data, tmp_path):
    for name in ("model.safetensors", "config.json"):
        moved(copy, f"arms/plain/{name}", f"student/{name}")
    with pytest.raises(RunError, match=r"it holds the weights of arms/plain in run \w+, not the weights of student"):
        trainer.load_student(copy)
    other = start_run(tmp_path / "other", replace(copy.recipe, seed=8), tiny_data, SOURCE)
    shutil.copytree(copy.folder / "teachers/conv", other.folder / "teachers/conv")
    with pytest.raises(RunError, match=r"it holds the weights of teachers/conv in run \w+, not"):
        load_teacher(other, "conv")


def test_a_record_that_was_changed_does_not_belong_to_its_weights(copy):
    path = copy.folder / "student/config.json"
    path.write_text(path.read_text().replace('"Bag"', '"Bog"'))
    with pytest.raises(RunError, match=r"student/config\.json: missing or damaged \(not the one of model\.safetensors"):
        trainer.load_student(copy)
    path.unlink()
    with pytest.raises(RunError, match="no finished student there"):
        trainer.load_student(copy)


@pytest.fixture
def stopped(tiny_recipe, tiny_data, tmp_path, monkeypatch) -> Run:
    """A run whose first teacher is half trained, with a checkpoint."""
    monkeypatch.setattr("trainer.loop.LOST_AT_MOST", 0)
    run = start_run(tmp_path / "stopped", tiny_recipe, tiny_data, SOURCE)
    with pytest.raises(KeyboardInterrupt):
        train_teacher(job_of(run, tiny_data, StopAfter(9)), "conv")
    assert run.checkpoint("teachers/conv").path.exists()
    return run


class StopAfter(Silent):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, steps: int = 1, note: str = "") -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_damaged_checkpoint_is_named(stopped, tiny_data):
    file = stopped.checkpoint("teachers/conv")
    whole = file.path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 12):
        file.path.write_bytes(with_flipped_bit(whole, bit))
        with pytest.raises(RunError, match=r"checkpoint\.safetensors: missing or damaged .*; remove it and run again"):
            train_teacher(job_of(stopped, tiny_data), "conv")


def test_a_checkpoint_of_another_net_is_refused(stopped, tiny_data):
    moved_to = stopped.checkpoint("teachers/involution").path
    moved_to.parent.mkdir()
    shutil.copy(stopped.checkpoint("teachers/conv").path, moved_to)
    with pytest.raises(
        RunError, match=r"it holds the unfinished teachers/conv in run \w+, not the unfinished teachers/"
    ):
        train_teacher(job_of(stopped, tiny_data), "involution")


def test_a_checkpoint_with_nan_is_named_and_not_the_learning_rate(stopped, tiny_data):
    file = stopped.checkpoint("teachers/conv")
    tensors, facts = file.read()
    tensors["model.fc.weight"][0, 0] = float("nan")
    file.write(tensors, **facts)
    with pytest.raises(RunError, match=r"model\.fc\.weight holds NaN or infinity"):
        train_teacher(job_of(stopped, tiny_data), "conv")


def test_a_checkpoint_with_other_names_is_refused(stopped, tiny_data):
    file = stopped.checkpoint("teachers/conv")
    tensors, facts = file.read()
    file.write({name.replace("fc", "head"): tensor for name, tensor in tensors.items()}, **facts)
    with pytest.raises(RunError, match=r"checkpoint\.safetensors: missing or damaged"):
        train_teacher(job_of(stopped, tiny_data), "conv")


def test_weights_that_are_no_numbers_are_not_kept(tiny_recipe, tiny_data, tmp_path, monkeypatch):
    """The last step of the training makes them, so that its loss is still a number."""
    run = start_run(tmp_path, tiny_recipe, tiny_data, SOURCE)
    step, last = Learner.step, tiny_recipe.student.training.epochs * 4 - 1

    def broken_at_last(self, number, inputs, loss_of):
        loss = step(self, number, inputs, loss_of)
        if number == last:
            with torch.no_grad():
                next(self.model.parameters()).fill_(torch.nan)
                next(self.average.parameters()).fill_(torch.nan)
        return loss

    monkeypatch.setattr(Learner, "step", broken_at_last)
    with pytest.raises(Diverged, match=r"arms/plain: .* holds NaN or infinity in epoch 4; .*lower its training\.lr"):
        train_arm(job_of(run, tiny_data), plain_arm(run.recipe))
    assert not run.has("arms/plain")
    assert not run.checkpoint("arms/plain").path.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_unit_with_a_value_that_is_no_number_is_named(value, copy, store, tiny_data):
    tensors, facts = store.unit(1, 0).read()
    tensors["conv.logits"][5, 1] = value
    store.unit(1, 0).write(tensors, **facts)
    shutil.rmtree(copy.folder / "student")
    with pytest.raises(StoreError, match=r"view-0001-shard-0000\.safetensors: .*conv\.logits holds NaN or infinity"):
        run_pipeline(job_of(copy, tiny_data))


def test_given_weights_are_whole_and_finite(copy, tiny_data, tmp_path):
    """Weights from elsewhere need no digest. If they come from a run, their digest is compared."""
    conv = copy.recipe.teachers["conv"]
    ours = copy.weights("teachers/conv").path
    given = replace(conv, weights=str(ours), training=replace(conv.training, epochs=0))
    create_teacher(given, 3, tiny_data.preprocessing)
    tensors = load_file(ours)

    foreign = tmp_path / "foreign.safetensors"
    save_file(tensors, foreign)
    create_teacher(replace(given, weights=str(foreign)), 3, tiny_data.preprocessing)
    tensors["fc.weight"][0, 0] = torch.nan
    save_file(tensors, foreign)
    with pytest.raises(RecipeError, match=r"foreign\.safetensors: fc\.weight holds NaN or infinity"):
        create_teacher(replace(given, weights=str(foreign)), 3, tiny_data.preprocessing)

    ours.write_bytes(with_flipped_bit(ours.read_bytes(), 8 * (ours.stat().st_size - 9)))
    with pytest.raises(RecipeError, match=r"model\.safetensors: can't be read as weights"):
        create_teacher(given, 3, tiny_data.preprocessing)
