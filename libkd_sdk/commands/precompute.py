"""`libkd-sdk precompute`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from sdk.errors import UsageError
from trainer.units import duration, size

from ..options import DataOption, DeviceOption, OutOption, RootOption, prepare, training_extra
from ..output import Bars, JsonOption, percent, remark, show_facts, show_json


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
        from trainer.data import to_device
        from trainer.errors import StoreError
        from trainer.logits import check as check_store
        from trainer.logits import fill_missing
        from trainer.metrics import add_row
        from trainer.pipeline import load_teachers, open_store, reckon
        from trainer.run import pick_device
        from trainer.train import own_arm

    torch_device = pick_device(device)
    with Bars() as bars:
        run, dataset = prepare(out, data, root, None, None, bars)
        teachers, arm = load_teachers(run, torch_device), own_arm(run)
        if not arm.stored_views:
            raise UsageError("the recipe's teachers answer online, nothing is stored; set views.mode = 'replay'")
        store = open_store(run, dataset, arm, teachers)
        missing, pictures = len(store.missing()), to_device(arm.split(dataset), torch_device, bars)
        if check:
            result = msgspec.to_builtins(check_store(store, teachers, pictures))
        else:
            remark(
                f"{store.views} views x {store.header.samples:,} pictures x {len(teachers)} teachers: "
                f"{reckon(store, arm, teachers, pictures)}; {missing} of {len(list(store.units()))} units missing"
            )
            done = fill_missing(store, teachers, pictures, bars)
            if done.units:
                add_row(run.folder, store.folder.name, **msgspec.structs.asdict(done))
            result = {"units_computed": done.units, "bytes": store.bytes, "seconds": done.seconds}
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
