"""`libkd-sdk distill`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..options import (
    DataOption,
    Deadline,
    DeviceOption,
    OutOption,
    RecipeOption,
    RootOption,
    SeedOption,
    UnlabelledOption,
    WithinOption,
    prepare,
    run_summary,
    training_extra,
)
from ..output import Bars, JsonOption, percent, remark, show_json, show_table
from ..pages.page import write_page

if TYPE_CHECKING:
    from trainer.data import Dataset
    from trainer.recipe import Recipe


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
    deadline = Deadline(within)
    with training_extra():
        from trainer.findings import findings
        from trainer.pipeline import run_pipeline
        from trainer.run import pick_device

        from ..pages.run import run_report

    torch_device = pick_device(device)
    with Bars() as bars:

        def cut(chosen: Recipe, pictures: Dataset) -> Recipe:
            return deadline.cut(chosen, pictures, out, torch_device, bars)

        run, dataset = prepare(out, data, root, recipe, seed, bars, settle=cut, unlabelled=unlabelled)
        run_pipeline(run, dataset, torch_device, bars)
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
