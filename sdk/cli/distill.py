"""`libkd-sdk distill`"""

from __future__ import annotations

from pathlib import Path

from ..report import write_page
from .output import Bars, JsonOption, percent, remark, show_json, show_table
from .training import (
    DataOption,
    DeviceOption,
    OutOption,
    RecipeOption,
    RootOption,
    SeedOption,
    UnlabelledOption,
    prepare,
    run_summary,
    training_extra,
)


def distill(
    data: DataOption = None,
    unlabelled: UnlabelledOption = None,
    out: OutOption = Path("run"),
    recipe: RecipeOption = None,
    root: RootOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Teach a student: train the teachers, store their answers, distil. Run again, it goes on where it stopped.

    Example: libkd-sdk distill --data pictures/ --out run/
    """
    with training_extra():
        from trainer.findings import findings
        from trainer.run import pick_device
        from trainer.stages import run_all

        from .run_report import run_report

    torch_device = pick_device(device)
    with Bars() as bars:
        run, dataset = prepare(out, data, root, recipe, seed, bars, unlabelled=unlabelled)
        run_all(run, dataset, torch_device, bars)
        report = run.folder / "report.html"
        write_page(report, run_report(findings(run, dataset, torch_device)))
    summary = run_summary(run)
    if json:
        show_json({"run": str(run.folder), "report": str(report), "skipped": len(dataset.skipped), "stages": summary})
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
