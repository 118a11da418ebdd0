"""The command `libkd-sdk precompute`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from sdk.errors import UsageError
from trainer.units import ALL, duration, part_of, size

from ..options import DataOption, DeviceOption, MeasuredThreadsOption, OutOption, PartOption, RootOption, training_extra
from ..output import Bars, JsonOption, QuietOption, percent, show_facts, show_json

if TYPE_CHECKING:
    from trainer.logits import LogitStore


def precompute(
    data: DataOption = None,
    out: OutOption = Path("run"),
    root: RootOption = None,
    device: DeviceOption = "auto",
    threads: MeasuredThreadsOption = None,
    part: PartOption = None,
    join: Annotated[
        list[Path] | None,
        typer.Option(
            "--join",
            metavar="RUN|STORE",
            help="Compute nothing, but take the units that are missing here from the store of a copy of this run, by "
            "hard links. Give it several times for several stores.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Recompute a random sample of a filled store, and report the errors.")
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Fill the logit store of a run, a part of it, or from other stores; or check it.

    The teachers of the run have to be trained. Any number of processes may fill one store, at the same time or one
    after another, with --part or without: each computes units that are missing.

    Example: libkd-sdk precompute --out run/
    """
    given = [name for name, value in (("--part", part), ("--join", join), ("--check", check)) if value]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} are different jobs; give one of them")
    own_part = ALL if part is None else part_of(part)
    with training_extra():
        from trainer.arms import own_arm
        from trainer.errors import StoreError
        from trainer.joining import store_in
        from trainer.pipeline import check_store, fill_store, join_stores
        from trainer.start import RunRequest, at_shared_work, prepare, source_of

    others = [store_in(folder) for folder in join or ()]
    request = RunRequest(out=out, source=source_of(data, (), root), device=device, threads=threads)
    result: dict[str, Any]
    with Bars() as bars:
        if check:
            job = prepare(request, bars)
            store, checked = check_store(job, own_arm(job.run.recipe))
            result = msgspec.to_builtins(checked)
        else:
            with at_shared_work(request, bars) as job:
                if others:
                    store, joined = join_stores(job, own_arm(job.run.recipe), others)
                    result = {"units_joined": joined}
                else:
                    store, filled = fill_store(job, own_arm(job.run.recipe), own_part)
                    result = {"units_computed": filled.units, "seconds": filled.seconds}
            result |= {"units_missing": len(store.missing()), "bytes": store.bytes}
    if json:
        show_json({"store": str(store.folder), **result})
    else:
        show_facts(str(store.folder), _facts(store, result))
    if check and not result["within"]:
        raise StoreError(f"{store.folder}: not what the teachers answer; remove the folder and precompute again")


def _facts(store: LogitStore, result: dict[str, Any]) -> list[tuple[str, str]]:
    if "within" in result:
        return [
            ("answers recomputed", str(result["samples"])),
            ("max. abs. error", f"{result['max_abs_error']:.2g} (at most {result['tolerance']:.2g})"),
            ("mean abs. error", f"{result['mean_abs_error']:.2g}"),
            ("top-1 agreement", percent(result["top1_agreement"])),
        ]
    facts = [
        (name.replace("_", " "), str(result[name])) for name in ("units_joined", "units_computed") if name in result
    ]
    facts += [
        ("units missing", f"{result['units_missing']} of {len(list(store.units()))}"),
        ("size when full", size(result["bytes"])),
    ]
    return facts + ([("took", duration(result["seconds"]))] if "seconds" in result else [])
