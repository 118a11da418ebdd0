"""One process works on a run at a time, nothing of a killed one stays, and a disk that takes nothing is one line."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import trainer
from jobs import job_of
from sdk.errors import FileError
from shell import libkd
from trainer.comparison import compare_arms
from trainer.errors import RunError
from trainer.folder import alone, together
from trainer.pipeline import run_pipeline
from trainer.progress import Silent
from trainer.recipe import write_recipe
from trainer.run import Run, Source, open_run, start_run
from trainer.start import RunRequest, at_shared_work, at_work

SOURCE = Source(("clothes",))
REFUSED = "another process is working on it; wait until it is done, or choose another --out"

WORK = """
import sys
from pathlib import Path
from trainer import folder
with getattr(folder, sys.argv[1])(Path(sys.argv[2])):
    print("at work", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(how: str, folder: Path):
    """Let another process work on a folder inside the block; it is killed at the end."""
    command = [sys.executable, "-c", WORK, how, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        yield
        process.kill()


def test_a_second_worker_is_refused_until_the_first_one_is_dead(copy, tiny_recipe, clothes):
    with another_process("alone", copy.folder):
        for work in (
            lambda: trainer.distill(None, copy.folder),
            lambda: at_shared_work(RunRequest(out=copy.folder), Silent()).__enter__(),
        ):
            with pytest.raises(RunError, match=rf"{copy.folder}: {REFUSED}"):
                work()
        assert trainer.load_student(copy)[1] == ("Bag", "Sneaker", "Trouser")  # reading needs no lock
    assert (copy.folder / ".lock").exists()  # the process was killed
    with at_work(RunRequest(out=copy.folder, source=Source((str(clothes),))), Silent()) as job:
        assert job.run == copy
    assert not (copy.folder / ".lock").exists()


def test_a_comparison_and_its_runs_have_one_worker_each(copy, tiny_data, clothes, tiny_recipe, tmp_path):
    folder = tmp_path / "comparison"
    shutil.copytree(copy.folder, folder / "seed-7")
    job = job_of(Run(folder, copy.recipe), tiny_data)
    with another_process("alone", folder / "seed-7"), pytest.raises(RunError, match=f"seed-7: {REFUSED}"):
        compare_arms(job, SOURCE, [7], {})
    with another_process("alone", folder), pytest.raises(RunError, match=f"comparison: {REFUSED}"):
        trainer.compare(clothes, folder, recipe=tiny_recipe, seeds=[7])


def test_a_second_thread_is_refused_too(copy):
    caught = []

    def second():
        try:
            trainer.distill(None, copy.folder)
        except RunError as fault:
            caught.append(str(fault))

    with alone(copy.folder):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert caught == [f"{copy.folder}: {REFUSED}"]


def test_several_processes_may_fill_a_store(copy):
    with another_process("together", copy.folder), another_process("together", copy.folder):
        with together(copy.folder):
            pass
        with pytest.raises(RunError, match=REFUSED):
            trainer.distill(None, copy.folder)
    with alone(copy.folder), pytest.raises(RunError, match=REFUSED), together(copy.folder):
        pass


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    """Workers that decode images may outlive a killed parent for some seconds."""
    context, release = multiprocessing.get_context("fork"), multiprocessing.get_context("fork").Event()
    with alone(tmp_path):
        worker = context.Process(target=release.wait)
        worker.start()
    try:
        with alone(tmp_path):
            pass
    finally:
        release.set()
        worker.join()


def test_a_lock_whose_file_was_removed_is_not_held_twice(tmp_path):
    """The first worker removes the file when it leaves; the second one may have opened it before."""
    with alone(tmp_path):
        (tmp_path / ".lock").unlink()
        with alone(tmp_path), pytest.raises(RunError), alone(tmp_path):
            pass


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    with alone(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    with alone(tmp_path / "mine"):
        pass
    assert list((tmp_path / "mine").iterdir()) == []


BEGUN = {
    "nothing": {},
    "the lock": {".lock": b""},
    "the first file, cut off": {".lock": b"", ".recipe.toml.9c12ab4e0f3a": b"seed ="},
    "the second file, cut off": {".data.json.4711": b"{", "recipe.toml": None},
    "the first file": {"recipe.toml": None},
}


@pytest.mark.parametrize("name", BEGUN)
def test_a_folder_with_nothing_but_what_was_begun_is_new(name, tiny_recipe, tiny_data, clothes, tmp_path):
    """Before, such a folder was refused for ever."""
    begun, folder = start_run(tmp_path / "other", tiny_recipe, tiny_data, SOURCE).recipe, tmp_path / "run"
    folder.mkdir()
    for file, content in BEGUN[name].items():
        (folder / file).write_bytes(write_recipe(begun).encode() if content is None else content)
    with at_work(RunRequest(out=folder, source=Source((str(clothes),)), recipe=tiny_recipe), Silent()) as job:
        assert job.run == open_run(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["data.json", "recipe.toml"]


@pytest.mark.parametrize("file", ["recipe.toml", ".data.json", "data.json.4711", ".git"])
def test_a_folder_with_something_of_a_user_is_left_alone(file, tiny_recipe_file, clothes, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    content = f"# my own\n{tiny_recipe_file.read_text()}"
    (folder / file).write_text(content)
    with pytest.raises(RunError, match="not empty, but not a run either"):
        trainer.distill(clothes, folder, recipe=tiny_recipe_file)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(file, content)]


def test_work_begins_with_removing_what_killed_processes_left(copy, clothes):
    left = [".report.html.0f3a9c12ab4e", "student/.config.json.12", "logits/.view-0000-shard-0000.safetensors.12"]
    left += ["logits-1a2b/.store.json.12"]  # killed before this store had a header
    left += [
        "arms/plain/.model.safetensors.12",
        "teachers/conv/checkpoint.safetensors",
        "student/checkpoint.safetensors",
    ]
    mine = ["notes.txt", ".hidden", "student/.notes.12", "bundles/.onnx.json.12"]
    (copy.folder / "bundles").mkdir()
    (copy.folder / "logits-1a2b").mkdir()
    for name in (*left, *mine):
        (copy.folder / name).write_text("x")
    with at_work(RunRequest(out=copy.folder, source=Source((str(clothes),))), Silent()):
        pass
    assert [name for name in left if (copy.folder / name).exists()] == []
    assert [name for name in mine if not (copy.folder / name).exists()] == []


def test_a_row_that_a_crash_cut_off_does_not_spoil_the_next_one(copy, tiny_data):
    """The next row may come from `precompute`, which trains nothing."""
    path = copy.folder / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"stage": "student", "ep')
    shutil.rmtree(copy.folder / "logits")
    shutil.rmtree(copy.folder / "student")
    run_pipeline(job_of(copy, tiny_data))
    trainer.metrics.rows(copy.folder)
    assert path.read_bytes().count(b"\n") == whole.count(b"\n") + 1


def test_curves_are_what_tensorboard_reads(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(finished.folder / "tensorboard/student"))
    curves.Reload()
    assert set(curves.Tags()["scalars"]) == {"loss", "validation_top1", "lr", "seconds", "samples_per_second"}
    assert [(point.step, point.value) for point in curves.Scalars("loss")] == [
        (row.epoch, pytest.approx(row.loss)) for row in trainer.metrics.epoch_rows(finished.folder, "student")
    ]


@pytest.mark.parametrize("out", ["/proc/run", "/dev/null/run"])
def test_a_place_that_can_not_be_written_is_one_line(out, clothes, tiny_recipe):
    with pytest.raises(FileError, match=rf"{out}.*: can't be written \(.*\); .*"):
        trainer.distill(clothes, out, recipe=tiny_recipe)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the system has no limit for the size of files")
def test_a_disk_that_takes_no_more_is_one_line_and_the_run_goes_on(finished, clothes, tiny_recipe_file, tmp_path):
    """No file may be larger than a limit that grows: writing fails in the middle of a file, as on a full disk."""
    out = tmp_path / "run"
    arguments = ["distill", "--data", clothes, "--recipe", tiny_recipe_file, "--out", out]
    command = [sys.executable, "-m", "libkd_sdk", *map(str, arguments)]
    for kilobytes in (1, 100):
        limited = ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash", *command]
        process = subprocess.run(limited, capture_output=True, text=True, check=False)
        assert process.returncode == 2
        line = process.stderr.splitlines()[-1]
        assert line.startswith(f"libkd-sdk: {out}")
        assert line.endswith(" can't be written (File too large); check the disk and the path [file-unwritable]")
        assert "Traceback" not in process.stderr
    assert libkd(*arguments).returncode == 0
    assert open_run(out).kept_weights("student").keys() == finished.kept_weights("student").keys()
    assert list(out.rglob(".*")) == []
