"""The command `libkd-sdk pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdk.errors import UsageError
from trainer.units import size as size_text

from ..options import RootOption, SkipBadOption, UnlabelledOption, training_extra
from ..output import Bars, JsonOption, QuietOption, show_facts, show_json


def pack(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help="A folder (train/CLASS/*, test/CLASS/*, or CLASS/*), a zip or tar file of one, or a named dataset. "
            "Give it several times for several archives.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The new folder of the shards.")],
    unlabelled: UnlabelledOption = None,
    root: RootOption = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            min=8,
            max=1024,
            help="Store images of this height and width, in pixels. Without it, the files are stored as they are.",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality", min=1, max=100, help="With --size: store JPEG files of this quality, and not PNG files."
        ),
    ] = None,
    per_shard: Annotated[
        int, typer.Option("--per-shard", min=2, max=1_000_000, help="The number of samples in a shard.")
    ] = 8192,
    skip_bad: SkipBadOption = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Pack images into shards: tar files in webdataset's layout, which training streams from a disk or a URL.

    Splits that are missing are held back, as for a folder. --data of the commands that train then takes the folder of
    the shards, or the URL of its shards.json.

    Example: libkd-sdk pack --data images/ --out shards/
    """
    if quality is not None and size is None:
        raise UsageError("--quality goes with --size; without --size, the files are stored as they are")
    with training_extra():
        from trainer.data import Form, wanted
        from trainer.data import pack as packed
        from trainer.recipe import DataRecipe

    with Bars() as bars:
        images = wanted(data, unlabelled=unlabelled or (), root=root, progress=bars)
        listing = packed(
            images, out, DataRecipe(), Form(size, quality), per_shard=per_shard, skip_bad=skip_bad, progress=bars
        )
    found = {
        split: {
            "shards": len(shards),
            "samples": sum(shard.samples for shard in shards),
            "bytes": sum(shard.bytes for shard in shards),
        }
        for split, shards in listing.splits.items()
    }
    if json:
        show_json({"shards": str(out), "classes": len(listing.labels), "splits": found})
        return
    show_facts(
        f"{out}: {len(listing.labels):,} classes",
        [
            (split, f"{it['samples']:,} samples, {_counted(it['shards'])}, {size_text(it['bytes'])}")
            for split, it in found.items()
        ],
    )


def _counted(shards: int) -> str:
    return f"{shards:,} shard{'s' * (shards != 1)}"
