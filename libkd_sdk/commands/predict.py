"""The command `libkd-sdk predict`."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from sdk.bundle import Bundle
from sdk.bundle.manifest import MANIFEST
from sdk.classifier import Classifier
from sdk.errors import ImageError, UsageError
from sdk.files import sha256
from sdk.folders import described, images_in
from sdk.images import ImageSource
from sdk.prediction import Prediction
from trainer.units import duration, part_of

from ..image_files import STANDARD_INPUT, StandardInput, Unreadable
from ..options import BundleArgument, PartOption, ThreadsOption
from ..output import Bars, JsonOption, QuietOption, remark, show_error, show_facts, show_json, show_line, show_table
from ..run_bundles import bundle_of
from ..shards.plan import Request, plan_of, shards_of
from ..shards.sources import sources_of
from ..shards.work import predict_shards
from ..video import at, frames_from, frames_of, is_camera, is_video, load_opencv, seconds_between

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def predict(
    bundle: BundleArgument,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images, videos, a camera such as camera:0, or - for an image on standard input. "
            "With --out, folders of images and tars."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write JSON lines into this folder, a file for each tar and for every 1,000 images of a folder. Run "
            "the same command again to do what is missing; there is no --resume.",
        ),
    ] = None,
    part: PartOption = None,
    top_k: Annotated[int, typer.Option("--top-k", help="List at most so many labels for each image.")] = 3,
    threshold: Annotated[float, typer.Option("--threshold", help="Do not list labels with a lower score.")] = 0.0,
    every: Annotated[
        str, typer.Option("--every", help="The time between the frames of a video or a camera: 1s, 0.5s or 500ms.")
    ] = "1s",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Predict what images show.

    With --json, each line is a JSON object for one image. If an image can't be read, the object has an "error" and its
    "code" instead of a label, and the exit code is 2 after all images.

    Videos and cameras need the extra "video". A camera is read until Ctrl-C.

    With --out, the lines go into files, each of which gets its name when it is whole, and a summary is printed. The
    exit code is also 2 if an earlier run of this part found images that can't be read, or if a tar is damaged.

    Example: libkd-sdk predict run/bundles/onnx photo.jpg holiday/
    """
    if out is not None:
        return _predict_into(out, bundle, images, part, top_k, threshold, threads, json)
    if part is not None:
        raise UsageError("--part goes with --out, the folder that the parts share")
    interval = seconds_between(every)
    names = list(_expand(images))
    is_live = any(map(is_camera, names))
    if is_live or any(map(is_video, names)):
        load_opencv()
    rows, failed, taken = [], 0, deque[Source]()
    ends = [KeyboardInterrupt] if is_live else []
    model = Classifier(bundle_of(bundle), threads=threads, top_k=top_k, score_threshold=threshold)
    with model as classifier, suppress(*ends):
        for outcome in _outcomes(classifier, _taking(names, interval, taken), is_live):
            source = taken.popleft()
            if isinstance(outcome, ImageError):
                failed += 1
                if json:
                    show_json({**source.as_json(), "error": str(outcome), "code": outcome.code})
                else:
                    show_error(outcome)
            elif json:
                show_json({**outcome.to_dict(), **source.as_json()})
            elif is_live:
                show_line("  ".join(filter(None, _row(source, outcome))))
            else:
                rows.append(_row(source, outcome))
    if rows:
        show_table("", ["image", "label", "score", "then"], rows)
    return 2 if failed else 0


def _predict_into(
    out: Path,
    bundle: Path,
    names: list[str],
    part: str | None,
    top_k: int,
    threshold: float,
    threads: int | None,
    json: bool,
) -> int:
    """Predict a part of all images in folders and tars into the folder `out`."""
    own = part_of(part or "1/1")
    for name in names:
        _refuse_url(name)
        if name == "-" or is_camera(name) or is_video(name):
            raise UsageError(f"{name}: with --out, only folders of images and tars are predicted; leave out --out")
    sources, path = sources_of(names), bundle_of(bundle)
    digest = sha256(Bundle.open(path).contents[MANIFEST])
    request = Request(bundle=digest, top_k=top_k, threshold=threshold, sources=tuple(source.name for source in sources))
    with Classifier(path, threads=threads, top_k=top_k, score_threshold=threshold) as classifier, Bars() as bars:
        shards = shards_of(out, plan_of(out, request, sources, bars), sources)
        if own.number > len(shards):
            remark(f"part {own.number}/{own.count} is empty: there are {len(shards):,} shards in all")
        result = predict_shards(classifier, out, own.of(shards), bars)
    if json:
        show_json({"out": os.fspath(out), "part": f"{own.number}/{own.count}", **msgspec.to_builtins(result)})
    else:
        show_facts(
            str(out),
            [
                ("part", f"{own.number}/{own.count}, {result.shards:,} of {len(shards):,} shards"),
                ("shards", f"{result.done:,} done now, {result.skipped:,} before, {result.damaged:,} damaged"),
                ("images", f"{result.images:,} now"),
                ("can't be read", f"{result.errors:,} now, {result.earlier_errors:,} before"),
                ("took", duration(result.seconds)),
            ],
        )
    return 0 if result.is_clean else 2


class Source(NamedTuple):
    """An image to predict.

    Attributes:
        name: what the user calls it: a path, a camera, or `-`.
        image: the image itself.
        time_s: for a frame, the seconds from the beginning.
    """

    name: str
    image: ImageSource
    time_s: float | None = None

    @property
    def title(self) -> str:
        """Its name for people."""
        if self.time_s is not None:
            return at(self.name, self.time_s)
        return STANDARD_INPUT if self.name == "-" else self.name

    def as_json(self) -> dict[str, str | float]:
        """Return its name, and for a frame the seconds, for programs."""
        return {"source": self.name} | ({} if self.time_s is None else {"time_s": round(self.time_s, 3)})


def _outcomes(
    classifier: Classifier, images: Iterator[ImageSource], is_live: bool
) -> Iterable[Prediction | ImageError]:
    """Return the answers in the order of the images. Those to a camera do not wait for its next frame."""
    if is_live:
        return (outcome for image in images for outcome in classifier.predict_batch([image], errors="return"))
    return classifier.stream(images, errors="return")


def _row(source: Source, outcome: Prediction) -> list[str]:
    if not outcome.top:
        return [source.title, "below", "", ""]
    (label, score), *others = outcome.top
    return [source.title, label, f"{score:.1%}", ", ".join(f"{label} {score:.1%}" for label, score in others)]


def _taking(names: list[str], interval: float, taken: deque[Source]) -> Iterator[ImageSource]:
    """Give each image, and keep in `taken` what it is."""
    for name in names:
        for source in _sources(name, interval):
            taken.append(source)
            yield source.image


def _sources(name: str, interval: float) -> Iterator[Source]:
    """Give the image of that name, or the frames. If a video can't be read, its error takes the place of a frame."""
    if name == "-":
        yield Source(name, StandardInput())
    elif is_camera(name) or is_video(name):
        try:
            for time_s, image in (frames_from if is_camera(name) else frames_of)(name, interval):
                yield Source(name, image, time_s)
        except ImageError as fault:
            yield Source(name, Unreadable(fault))
    else:
        yield Source(name, name)


def _refuse_url(name: str) -> None:
    if _URL.match(name):
        raise UsageError(f"{name}: nothing is fetched from the network; download it first, and name the file")


def _expand(names: list[str]) -> Iterator[str]:
    """Give each name, and in the place of a folder the images in it. A file that is named is tried, whatever it is."""
    for name in names:
        _refuse_url(name)
        if name == "-" and sys.stdin is None:
            raise UsageError("standard input is closed; give the path of an image")
        if not os.path.isdir(name):  # noqa: PTH112  # Path.is_dir raises an error for a name that is too long
            yield name
            continue
        try:
            found = images_in(Path(name))
        except OSError as fault:
            raise UsageError(f"{fault.filename}: {fault.strerror}; repair or remove this folder") from fault
        others = described(found.others)
        if not found.images:
            raise UsageError(f"{name}: no images in this folder{f' ({others})' if others else ''}")
        if others:
            remark(f"left out: {name}: {others}")
        yield from map(os.fspath, sorted(Path(name) / image for image in found.images))
