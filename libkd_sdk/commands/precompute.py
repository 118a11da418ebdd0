"""The command `libkd-sdk precompute`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from trainer.units import duration, size

from ..options import DataOption, DeviceOption, MeasuredThreadsOption, OutOption, RootOption, training_extra
from ..output import Bars, JsonOption, QuietOption, percent, show_facts, show_json


def precompute(
    data: DataOption = None,
    out: OutOption = Path("run"),
    root: RootOption = None,
    device: DeviceOption = "auto",
    threads: MeasuredThreadsOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Recompute a random sample of a filled store, and report the errors.")
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Fill the logit store of a run, or check it.

    The teachers of the run have to be trained. Several processes may fill one store at the same time: each computes
    units that are missing.

    Example: libkd-sdk precompute --out run/
    """
    with training_extra():
        from trainer.arms import own_arm
        from trainer.errors import StoreError
        from trainer.pipeline import check_store, fill_store
        from trainer.start import RunRequest, at_shared_work, prepare, source_of

    request = RunRequest(out=out, source=source_of(data, (), root), device=device, threads=threads)
    with Bars() as bars:
        if check:
            job = prepare(request, bars)
            store, checked = check_store(job, own_arm(job.run.recipe))
            result = msgspec.to_builtins(checked)
        else:
            with at_shared_work(request, bars) as job:
                store, filled = fill_store(job, own_arm(job.run.recipe))
            result = {"units_computed": filled.units, "bytes": store.bytes, "seconds": filled.seconds}
    if json:
        show_json({"store": str(store.folder), **result})
    elif check:
        show_facts(
            str(store.folder),
            [
                ("answers recomputed", str(result["samples"])),
                ("max. abs. error", f"{result['max_abs_error']:.2g} (at most {result['tolerance']:.2g})"),
                ("mean abs. error", f"{result['mean_abs_error']:.2g}"),
                ("top-1 agreement", percent(result["top1_agreement"])),
            ],
        )
    else:
        show_facts(
            str(store.folder),
            [
                ("units computed", str(result["units_computed"])),
                ("size", size(result["bytes"])),
                ("took", duration(result["seconds"])),
            ],
        )
    if check and not result["within"]:
        raise StoreError(f"{store.folder}: not what the teachers answer; remove the folder and precompute again")
