"""The records of a run are read with their types. A malformed file is one error that says what to do."""

import json

import msgspec
import pytest

import trainer
from jobs import job_of
from trainer.arms import own_arm, plain_arm
from trainer.comparison import Pair, read_result
from trainer.errors import RunError
from trainer.evaluate import Score
from trainer.metrics import add_row, epoch_rows, first_loss, rows, training_seconds
from trainer.pipeline import train_arm
from trainer.records import DataRecord, EpochRow, StoreRow, read_record, write_record
from trainer.run import Source, recipe_table, remembered_source, start_run, teacher_stage


def test_the_files_keep_their_keys(finished):
    def keys(name):
        return list(json.loads((finished.folder / name).read_text()))

    teacher = ["model", "args", "classes", "preprocessing", "parameters", "seconds", "results"]
    student = [
        "labels", "preprocessing", "student", "parameters", "temperature", "ece_before_temperature", "teachers",
        "seconds", "results",
    ]  # fmt: skip
    assert keys("teachers/conv/config.json") == teacher
    assert keys("student/config.json") == keys("arms/plain/config.json") == student
    assert keys("arms/plain/arm.json") == ["teachers", "unlabelled", "views", "student"]
    about = [
        "hash",
        "test_hash",
        "data",
        "root",
        "unlabelled",
        "skip_bad",
        "labels",
        "images",
        "skipped",
        "threads",
        "recipe",
    ]
    assert keys("data.json") == about
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text().splitlines()]
    assert {tuple(row) for row in lines} == {
        ("stage", "epoch", "loss", "validation_top1", "lr", "seconds", "samples_per_second"),
        ("stage", "units", "answers", "seconds"),
    }


def test_records_are_read_with_their_types(finished, tiny_data):
    student, teacher = finished.student_record(), finished.teacher_record("conv")
    assert student.student == finished.recipe.student
    assert student.preprocessing == teacher.preprocessing == tiny_data.preprocessing
    assert student.teachers == ("conv", "involution")
    assert isinstance(student.results["test"], Score)
    assert finished.net_records() == {
        "teachers/conv": teacher,
        "teachers/involution": finished.teacher_record("involution"),
        "student": student,
        "arms/plain": finished.student_record("arms/plain"),
    }
    assert finished.data_record().images == {"train": 66, "validation": 6, "test": 24}
    assert remembered_source(finished.folder) == Source(("clothes",))
    found = rows(finished.folder)
    assert {type(row) for row in found} == {EpochRow, StoreRow}
    assert [row.epoch for row in epoch_rows(finished.folder, "student")] == [0, 1, 2, 3]
    assert first_loss(finished.folder, "student") == epoch_rows(finished.folder, "student")[0].loss
    assert training_seconds(finished.folder, "student") == student.seconds


RECORDS = ["student/config.json", "teachers/conv/config.json", "data.json", "arms/plain/arm.json"]
MALFORMED = [b"", b"{}", b"[]", b"5", b"null", b'{"labels": 3}', b"\xff\xfe{}", b"[" * 100_000]


@pytest.mark.parametrize("content", MALFORMED, ids=lambda content: repr(content[:12]))
@pytest.mark.parametrize("name", RECORDS)
def test_a_malformed_file_is_one_error_with_the_fix(name, content, copy, tiny_recipe, tiny_data):
    (copy.folder / name).write_bytes(content)
    read = {
        "student/config.json": lambda: trainer.load_student(copy),
        "teachers/conv/config.json": lambda: copy.net_records(),
        "data.json": lambda: start_run(copy.folder, tiny_recipe, tiny_data, Source(("clothes",))),
        "arms/plain/arm.json": lambda: train_arm(job_of(copy, tiny_data), plain_arm(copy.recipe)),
    }[name]
    with pytest.raises(RunError) as caught:
        read()
    folder = (copy.folder / name).parent
    fix = "start a new run in another folder" if name == "data.json" else f"remove {folder} and run again"
    assert str(caught.value).startswith(f"{copy.folder / name}: missing or damaged (")
    assert str(caught.value).endswith(f"; {fix}")


def test_a_run_remembers_where_its_images_came_from(tiny_recipe, tiny_data, clothes, tmp_path):
    source = Source((str(clothes), "fashion-mnist"), tmp_path, ("more",))
    start_run(tmp_path / "run", tiny_recipe, tiny_data, source)
    assert remembered_source(tmp_path / "run") == source
    assert remembered_source(tmp_path / "none") is None


def test_a_damaged_data_record_is_named_when_a_run_is_asked_for_its_source(copy):
    (copy.folder / "data.json").write_text("[]")
    with pytest.raises(RunError, match=r"data\.json: missing or damaged"):
        remembered_source(copy.folder)


@pytest.mark.parametrize(
    "line", ["{}", "[]", "5", "{", '{"stage": "student", "epoch": "first"}', '{"stage": "logits"}']
)
def test_a_malformed_row_is_one_error_with_the_fix(line, copy):
    path = copy.folder / "metrics.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl: damaged \(.*\); remove the damaged lines"):
        training_seconds(copy.folder, "student")
    path.write_bytes(b"\xff\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl: damaged"):
        rows(copy.folder)


def test_an_incomplete_last_row_is_not_read(copy):
    before = rows(copy.folder)
    with (copy.folder / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "student", "ep')
    assert rows(copy.folder) == before


def test_rows_are_appended(tmp_path):
    row = StoreRow(stage="logits", units=1, answers=2, seconds=0.5)
    add_row(tmp_path, row)
    add_row(tmp_path, row)
    assert rows(tmp_path) == [row, row]
    assert training_seconds(tmp_path, "logits") == 1.0


def test_names_that_are_not_utf8_are_kept(tiny_recipe, tmp_path):
    """A file's name on Linux may hold bytes that are not UTF-8."""
    record = DataRecord(
        hash="x",
        data=("b\udcff",),
        root=None,
        labels=("näh/garn",),
        images={"train": 1},
        skipped=("\udc80: broken",),
        recipe=tiny_recipe,
    )
    write_record(tmp_path / "data.json", record)
    assert read_record(tmp_path / "data.json", DataRecord, "try again") == record


def test_an_arm_is_the_same_after_it_was_written(copy):
    arm = own_arm(copy.recipe)
    assert read_record(copy.folder / "student/arm.json", type(arm.record()), "") == arm.record()


def test_stages_name_their_table_in_the_recipe():
    assert recipe_table(teacher_stage("conv")) == "teachers.conv"
    assert recipe_table("student") == recipe_table("arms/plain") == "student"


def test_a_difference_is_called_with_in_json():
    pair = Pair(arm="a", other="b", difference=0.1, interval=None)
    assert msgspec.to_builtins(pair) == {"arm": "a", "with": "b", "difference": 0.1, "interval": None}


def test_a_malformed_result_is_named(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RunError, match=r"results\.json: missing or damaged .*; run the comparison again"):
        read_result(tmp_path / "results.json")
