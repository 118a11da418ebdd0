"""`libkd-sdk precompute`"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .output import Bars, JsonOption, percent, remark, show_facts, show_json
from .training import DataOption, DeviceOption, OutOption, RootOption, prepare, training_extra


def precompute(
    data: DataOption = None,
    out: OutOption = Path("run"),
    root: RootOption = None,
    device: DeviceOption = "auto",
    check: Annotated[
        bool, typer.Option("--check", help="Recompute a random sample of a filled store and report the error.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Fill a run's logit store with its teachers' answers, or check it. Its teachers have to be trained.

    Example: libkd-sdk precompute --out run/
    """
    with training_extra():
        from trainer.logits import check as check_store
        from trainer.logits import fill
        from trainer.run import load_teacher, pick_device
        from trainer.stages import open_store

    torch_device = pick_device(device)
    with Bars() as bars:
        run, dataset = prepare(out, data, root, None, None, bars)
        teachers = {name: load_teacher(run, name).to(torch_device) for name in run.recipe.teachers}
        store = open_store(run, dataset, teachers)
        header, missing = store.header, len(store.missing())
        pictures = dataset.train.to(torch_device)
        if check:
            result = check_store(store, teachers, pictures, dataset.preprocessing)
        else:
            remark(
                f"{header.views} views x {header.samples:,} pictures x {len(teachers)} teachers x {header.classes} "
                f"classes in float16: {header.bytes / 1e6:.1f} MB; "
                f"{missing} of {len(list(store.units()))} units missing"
            )
            started = time.perf_counter()
            fill(store, teachers, pictures, dataset.preprocessing, bars)
            result = {"units_computed": missing, "bytes": header.bytes, "seconds": time.perf_counter() - started}
    if json:
        show_json({"store": str(store.folder), **result})
    elif check:
        show_facts(
            str(store.folder),
            [
                ("answers recomputed", str(result["samples"])),
                ("max. abs. error", f"{result['max_abs_error']:.2g}"),
                ("mean abs. error", f"{result['mean_abs_error']:.2g}"),
                ("top-1 agreement", percent(result["top1_agreement"])),
            ],
        )
    else:
        show_facts(
            str(store.folder),
            [("units computed", str(missing)), ("took", f"{result['seconds']:.1f} s")],
        )
