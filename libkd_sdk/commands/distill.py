"""The command `libkd-sdk distill`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sdk.files import write_whole
from trainer.units import deadline_of

from ..options import (
    BatchOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    LrOption,
    MeasuredThreadsOption,
    OutOption,
    RecipeOption,
    RootOption,
    SeedOption,
    SetOption,
    SizeOption,
    SkipBadOption,
    UnlabelledOption,
    WithinOption,
    training_extra,
)
from ..output import Bars, JsonOption, QuietOption, percent, remark, show_json, show_table
from ..pages.page import ALWAYS_THE_LARGEST


def distill(
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    out: OutOption = Path("run"),
    recipe: RecipeOption = None,
    root: RootOption = None,
    skip_bad: SkipBadOption = False,
    seed: SeedOption = None,
    within: WithinOption = None,
    epochs: EpochsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    size: SizeOption = None,
    set: SetOption = None,
    device: DeviceOption = "auto",
    threads: MeasuredThreadsOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Train teachers, store their logits, and distil a student from them.

    What is finished is kept: when the command is run again, it continues where it stopped. The run keeps the recipe
    that it started with; the same --epochs, --set and so on may be given again or left out.

    Example: libkd-sdk distill --data images/ --out run/
    """
    end = deadline_of(within)
    with training_extra():
        from trainer import parallel
        from trainer.budget import own_student
        from trainer.caveats import caveats
        from trainer.estimate import tell_estimate
        from trainer.evaluate import majority
        from trainer.findings import findings
        from trainer.pipeline import run_pipeline
        from trainer.run import REPORT
        from trainer.settings import Settings
        from trainer.start import RunRequest, at_work, source_of

        from ..pages.run import run_report

    source = source_of(data, unlabelled or (), root, skip_bad)
    settings = Settings(epochs=epochs, batch=batch, lr=lr, size=size, keys=set or ())
    request = RunRequest(
        out=out,
        source=source,
        recipe=recipe,
        seed=seed,
        within=end,
        device=device,
        threads=threads,
        settings=settings,
    )
    with Bars() as bars, at_work(request, bars) as job:
        tell_estimate([job], own_student)
        run_pipeline(job)
        found, report = findings(job), job.run.folder / REPORT
        parallel.from_first(lambda: write_whole(report, run_report(found)))
    records, folder = job.run.net_records(), job.run.folder
    if json:
        stages = msgspec.to_builtins(records)
        show_json({"run": str(folder), "report": str(report), "skipped": len(job.data.skipped), "stages": stages})
        return
    rows = [
        [
            stage,
            f"{record.parameters / 1e6:.2f} M",
            percent(record.results["validation"].top1),
            percent(record.results["test"].top1),
            f"{record.seconds:.0f} s",
        ]
        for stage, record in records.items()
    ]
    test, validation = job.data.test.labels, job.data.validation.labels
    rows.append([ALWAYS_THE_LARGEST, "", percent(majority(validation)), percent(majority(test)), ""])
    show_table(str(folder), ["", "parameters", "validation", "test", "trained in"], rows)
    scores = {stage: record.results["test"] for stage, record in records.items()}
    for caveat in caveats(scores, job.data.labels, test.bincount(minlength=len(job.data.labels)).tolist()):
        remark(f"note: {caveat}")
    remark(f"look at {report}")
    remark(f"next: libkd-sdk export {folder} --target onnx")
