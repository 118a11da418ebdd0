"""`libkd-sdk distill`"""

from __future__ import annotations

from pathlib import Path

from ..options import (
    DataOption,
    DeviceOption,
    OutOption,
    RecipeOption,
    RootOption,
    SeedOption,
    UnlabelledOption,
    WithinOption,
    deadline,
    run_summary,
    training_extra,
)
from ..output import Bars, JsonOption, percent, remark, show_json, show_table
from ..pages.page import write_page


def distill(
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    out: OutOption = Path("run"),
    recipe: RecipeOption = None,
    root: RootOption = None,
    seed: SeedOption = None,
    within: WithinOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Teach a student: train the teachers, store their answers, distil. Run again, it goes on where it stopped.

    Example: libkd-sdk distill --data pictures/ --out run/
    """
    end = deadline(within)
    with training_extra():
        from trainer.findings import findings
        from trainer.pipeline import run_pipeline
        from trainer.run import REPORT
        from trainer.start import Request, prepare, source_of

        from ..pages.run import run_report

    source = source_of(data, unlabelled or (), root)
    request = Request(out=out, source=source, recipe=recipe, seed=seed, within=end, device=device)
    with Bars() as bars:
        job = prepare(request, bars)
        run_pipeline(job)
        run, report = job.run, job.run.folder / REPORT
        write_page(report, run_report(findings(job)))
    summary = run_summary(run)
    if json:
        show_json({"run": str(run.folder), "report": str(report), "skipped": len(job.data.skipped), "stages": summary})
        return
    rows = [
        [
            stage,
            f"{config['parameters'] / 1e6:.2f} M",
            percent(config["results"]["validation"]["top1"]),
            percent(config["results"]["test"]["top1"]),
            f"{config['seconds']:.0f} s",
        ]
        for stage, config in summary.items()
    ]
    show_table(str(run.folder), ["", "parameters", "validation", "test", "trained in"], rows)
    remark(f"look at {report}")
    remark(f"next: libkd-sdk export {run.folder} --target onnx")
