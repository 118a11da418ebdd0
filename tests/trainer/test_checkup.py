"""The files of a run are read before it goes on, so that damage is told before anything is trained."""

import json
import shutil

import pytest
from msgspec.structs import replace

import trainer
from jobs import job_of
from trainer.arms import Change
from trainer.comparison import compare_arms
from trainer.errors import RunError, StoreError
from trainer.progress import Silent
from trainer.recipe import read_recipe, write_recipe
from trainer.run import Run, Source, open_run, start_run
from trainer.start import RunRequest, at_work

SOURCE = Source(("clothes",))


NEEDED_LATER = {
    "metrics.jsonl": [b"\xff\n", b"{}\n", b'{"stage": "student", "epoch": "x"}\n', b"null\n", b"[" * 9999 + b"\n"],
    "teachers/conv/config.json": [b"{}", b"[]", b"\xff", b""],
    "teachers/conv/model.safetensors": [b"", b"\0" * 100],
    "arms/plain/config.json": [b"{}"],
    "arms/plain/arm.json": [b"[]", b'{"teachers": 3}'],
    "student/arm.json": [b"{}"],
    "logits/store.json": [b"{}", b"[]", b"\xff", b"[" * 9999],
    "data.json": [b"[]", b"{}", b"\xff"],
    "recipe.toml": [b"\xff", b"seed = 'x'", b"["],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [(name, content) for name, contents in NEEDED_LATER.items() for content in contents],
    ids=lambda value: repr(value)[:24],
)
def test_a_damaged_record_is_named_before_images_are_read(name, content, copy):
    """The student is missing, so the run would train for a while before it needs the last of these files."""
    for path in ("student/config.json", "student/model.safetensors"):
        (copy.folder / path).unlink()
    if name == "metrics.jsonl":
        content = (copy.folder / name).read_bytes() + content
    (copy.folder / name).write_bytes(content)
    told = Told()
    with (
        pytest.raises((RunError, StoreError), match=rf"{name}.*; (remove|start)"),
        at_work(RunRequest(out=copy.folder), told),
    ):
        pytest.fail("the work began")
    assert told.stages == []


class Told(Silent):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def begin(self, stage: str, steps: int) -> None:
        self.stages.append(stage)


def test_a_huge_record_is_not_read(copy, monkeypatch):
    monkeypatch.setattr("trainer.records.MAX_BYTES", 2000)
    (copy.folder / "student/config.json").write_bytes(b" " * 2001)
    with pytest.raises(RunError, match=r"student/config\.json: missing or damaged \(larger than 2 kB\)"):
        copy.student_record()


def test_scores_that_are_missing_are_found_at_once(copy):
    """They were looked up after the whole training."""
    path = copy.folder / "teachers/conv/config.json"
    record = json.loads(path.read_text())
    del record["results"]["test"]
    path.write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"config\.json: missing or damaged .*test"):
        copy.teacher_record("conv")


@pytest.fixture
def comparison(copy, tiny_data, tmp_path):
    """A comparison whose second run is finished and whose first is not begun, and its job."""
    folder = tmp_path / "comparison"
    shutil.copytree(copy.folder, folder / "seed-7")
    return folder, job_of(Run(folder, copy.recipe), tiny_data, Told())


def test_a_comparison_finds_damage_before_it_trains(comparison):
    folder, job = comparison
    (folder / "seed-7/metrics.jsonl").write_text("null\n")
    with pytest.raises(RunError, match=r"seed-7/metrics\.jsonl"):
        compare_arms(job, SOURCE, [3, 7], {})
    assert job.progress.stages == []


def test_a_comparison_finds_an_arm_of_other_settings_before_it_trains(comparison, finished):
    folder, job = comparison
    (folder / "seed-7/arms/x").mkdir()
    shutil.copy(finished.folder / "arms/plain/arm.json", folder / "seed-7/arms/x")
    with pytest.raises(RunError, match="arms/x: an arm of this name was trained with other settings"):
        compare_arms(job, SOURCE, [3, 7], {"x": Change(views={"count": 1})})
    assert job.progress.stages == []


def test_an_edited_recipe_is_refused_by_name(copy, tiny_data):
    path = copy.folder / "recipe.toml"
    whole = path.read_text()
    assert "depth = 2" in whole
    path.write_text(whole.replace("depth = 2", "depth = 3").replace("seed = 7", "seed = 8"))
    message = (
        r"recipe\.toml: edited since the run began \(seed = 8, was 7, student\.depth = 3, was 2\); remove the file"
    )
    for use in (
        lambda: open_run(copy.folder),
        lambda: trainer.load_student(copy.folder),
        lambda: start_run(copy.folder, copy.recipe, tiny_data, SOURCE),
        lambda: trainer.distill(None, copy.folder),
    ):
        with pytest.raises(RunError, match=message):
            use()
    path.unlink()
    assert start_run(copy.folder, copy.recipe, tiny_data, SOURCE).has("student")
    assert path.read_text() == whole


def test_the_order_of_the_teachers_belongs_to_the_recipe(copy, tiny_data):
    """It is the order of the bias tokens."""
    turned = replace(copy.recipe, teachers=dict(reversed(copy.recipe.teachers.items())))
    with pytest.raises(RunError, match=r"another recipe \(it differs in teachers\)"):
        start_run(copy.folder, turned, tiny_data, SOURCE)
    (copy.folder / "recipe.toml").write_text(write_recipe(turned))
    with pytest.raises(RunError, match=r"edited since the run began \(teachers = \['involution', 'conv'\], was"):
        open_run(copy.folder)


def test_a_recipe_is_remembered_with_all_its_values(finished, tiny_recipe_file):
    assert open_run(finished.folder) == finished
    assert read_recipe(finished.folder / "recipe.toml") == finished.recipe
    assert finished.recipe.hash() == open_run(finished.folder).recipe.hash()
    assert finished.recipe.hash() != replace(finished.recipe, seed=8).hash()
