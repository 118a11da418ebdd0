"""The check-up of a run before work on it goes on, so that damage is told before anything is trained."""

from __future__ import annotations

from pathlib import Path

from sdk.files import disk_failures

from .folder import sweep
from .logits.store import HEADER, read_header
from .metrics import rows
from .records import ArmRecord, read_record
from .run import ARM, LOGITS, STUDENT, Run, arm_stage, is_run, open_run, teacher_stage


def clear_run(folder: Path) -> None:
    """Remove what killed processes left in the run in `folder`. Nobody else may be working on it.

    Raises:
        RunError: the run is damaged.
        FileError: a file can't be removed.
    """
    if not is_run(folder):
        return
    run = open_run(folder)
    stages = _stages(run)
    stores = filter(Path.is_dir, folder.glob(f"{LOGITS}*"))  # also one that was killed before it had a header
    sweep((*(folder / stage for stage in stages), *stores))
    for stage in filter(run.has, stages):
        path = run.checkpoint(stage).path  # the process was killed after the net was kept
        with disk_failures(path):
            path.unlink(missing_ok=True)


def check_run(folder: Path) -> None:
    """Read everything that a new session may need of the run in `folder`, if there is one.

    Raises:
        RunError, StoreError: something is damaged; the message names the file.
    """
    if not is_run(folder):
        return
    run = open_run(folder)
    rows(folder)
    for stage in _stages(run):
        _check(run, stage)
    for path in _stores(run):
        read_header(path)


def _check(run: Run, stage: str) -> None:
    arm = run.folder / stage / ARM
    if arm.exists():
        read_record(arm, ArmRecord, f"remove {arm.parent} and run again")
    if run.has(stage):
        run.kept_weights(stage)
        run.net_record(stage)
    elif run.checkpoint(stage).path.exists():
        run.checkpoint(stage).read()


def _stages(run: Run) -> list[str]:
    """Return the stages of all nets that the run may have, trained or not."""
    arms = sorted(path.name for path in (run.folder / arm_stage("")).glob("*") if path.is_dir())
    return [*map(teacher_stage, run.recipe.teachers), STUDENT, *map(arm_stage, arms)]


def _stores(run: Run) -> list[Path]:
    return sorted(run.folder.glob(f"{LOGITS}*/{HEADER}"))
