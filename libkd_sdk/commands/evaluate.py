"""The command `libkd-sdk eval`."""

from __future__ import annotations

import io
import posixpath
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from sdk.bundle.manifest import MANIFEST
from sdk.classifier import Classifier
from sdk.errors import UsageError
from sdk.images import Pixels

from ..options import DataOption, MeasuredThreadsOption, RootOption, training_extra
from ..output import Bars, JsonOption, QuietOption, percent, remark, show_facts, show_json, show_table
from ..pages.page import ALWAYS_THE_LARGEST
from ..wrong import LIST, Miss, Original, check_new, write_wrong

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from trainer.data import ImageFile, Split


def evaluate(
    what: Annotated[Path, typer.Argument(help="The folder of a run or of a bundle.")],
    data: DataOption = None,
    root: RootOption = None,
    wrong: Annotated[
        Path | None,
        typer.Option(
            "--wrong",
            help="Copy the images that are answered wrongly into this new folder, sorted by their class, with a list "
            "of what each net says about them.",
        ),
    ] = None,
    threads: MeasuredThreadsOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Evaluate the student of a run, or a bundle, on labelled images: accuracy, calibration and confusion.

    A run is evaluated on its own test images unless --data names others. Of the images in --data, those in test/ or
    val/ are used, or all if there is no such folder.

    With --wrong, a run also asks its teachers, and the student without teachers if it was trained, about the images
    that its student gets wrong.

    Example: libkd-sdk eval run/bundles/openvino --data images/ --wrong mistakes/
    """
    if wrong is not None:
        check_new(wrong)
    with training_extra():
        from trainer import parallel
        from trainer.caveats import caveats
        from trainer.data import originals
        from trainer.evaluate import confusion, score
        from trainer.run import remembered_source

    with Bars() as bars:
        if (what / MANIFEST).exists():
            labels, split, logits, missed, nets = _of_bundle(what, data, root, threads, bars)
        else:
            labels, split, logits, missed, nets = _of_run(what, data, root, threads, wrong is not None, bars)
    if not parallel.is_first():
        return
    result = score(logits, split.labels)
    counts = confusion(logits.argmax(-1), split.labels, len(labels)).tolist()
    misses = _misses(split, missed, logits[missed], labels)
    if wrong is not None:
        source = remembered_source(what)
        files = originals(data or (source.data if source else ()))
        said = {net: _read(given, labels) for net, given in nets.items()}
        write_wrong(wrong, misses, said, [_original(split, index, files) for index in missed])
        remark(f"{wrong}: images that were answered wrongly: {len(misses):,}; {LIST} says what each net answered")
    if json:
        listed = [miss._asdict() for miss in misses]
        show_json({**msgspec.to_builtins(result), "labels": labels, "confusion": counts, "misses": listed})
        return
    show_facts(
        str(what),
        [
            ("images", f"{result.images:,}"),
            ("top-1", percent(result.top1)),
            (ALWAYS_THE_LARGEST, percent(result.majority)),
            ("negative log likelihood", f"{result.nll:.4f}"),
            ("calibration error", percent(result.ece)),
        ],
    )
    rows = []
    for index, label in enumerate(labels):
        others = sorted(
            ((count, labels[other]) for other, count in enumerate(counts[index]) if other != index), reverse=True
        )
        taken_for = ", ".join(f"{name} {count}" for count, name in others[:3] if count)
        total = sum(counts[index])
        rows.append([label, str(total), percent(counts[index][index] / total) if total else "-", taken_for])
    show_table("", ["class", "images", "right", "most often taken for"], rows)
    for caveat in caveats({"this model": result}, labels, [sum(row) for row in counts]):
        remark(f"note: {caveat}")


class _Answered(NamedTuple):
    """The answers to labelled images.

    Attributes:
        labels: the names of the classes.
        logits: those of the net that is evaluated, float32 [N, classes].
        missed: the places of the images in the split that it answers wrongly, the most confident mistakes first.
        nets: the logits that each net gives to these images, by what people call it.
    """

    labels: tuple[str, ...]
    split: Split
    logits: Tensor
    missed: list[int]
    nets: dict[str, Tensor]


def _of_bundle(bundle: Path, data: list[str] | None, root: Path | None, threads: int | None, bars: Bars) -> _Answered:
    import torch

    from trainer.answers import mistakes
    from trainer.data import load_labelled

    if not data:
        raise UsageError("a bundle has no images of its own to be evaluated on; name some by --data")
    with Classifier(bundle, threads=threads) as classifier:
        split = load_labelled(data, classifier.labels, classifier.input, root=root, progress=bars)
        logits = torch.from_numpy(_probabilities(classifier, split, bars)).clamp_min(1e-30).log()
    missed = mistakes(logits, split.labels)
    return _Answered(classifier.labels, split, logits, missed, {"bundle": logits[missed]})


def _of_run(
    folder: Path, data: list[str] | None, root: Path | None, threads: int | None, ask_all: bool, bars: Bars
) -> _Answered:
    import torch

    from trainer.answers import logits_of_net, mistakes, title_of
    from trainer.data import load_labelled
    from trainer.evaluate import logits_of
    from trainer.run import STUDENT, load_student, open_run
    from trainer.start import test_images
    from trainer.threads import computing

    student, labels, preprocessing = load_student(folder)
    if data:
        split = load_labelled(data, labels, preprocessing.input, root=root, progress=bars)
    else:
        split = test_images(folder, bars)
    run, cpu = open_run(folder), torch.device("cpu")
    with computing(threads, cpu):
        logits = logits_of(student, split, preprocessing)
        missed = mistakes(logits, split.labels)
        asked = run.net_records() if ask_all and missed else ()
        wrong = split.take(torch.tensor(missed, dtype=torch.int64))
        nets = {
            title_of(stage): logits[missed] if stage == STUDENT else logits_of_net(run, stage, wrong, cpu)
            for stage in asked
        }
    return _Answered(labels, split, logits, missed, nets)


def _misses(split: Split, missed: list[int], logits: Tensor, labels: Sequence[str]) -> list[Miss]:
    truth = split.labels[missed].tolist()
    answers = _read(logits, labels)
    return [
        Miss(split.names[index], labels[true], *answer)
        for index, true, answer in zip(missed, truth, answers, strict=True)
    ]


def _read(logits: Tensor, labels: Sequence[str]) -> list[tuple[str, float]]:
    """Return the label and the score that each row of logits answers."""
    from trainer.answers import answers_in

    return [(labels[answer.label], answer.confidence) for answer in answers_in(logits)]


def _original(split: Split, index: int, files: Mapping[str, ImageFile]) -> Original:
    """Return the file of an image; of a dataset without files, its pixels as PNG."""
    from trainer.data import content_of

    name = split.names[index]
    if name in files:
        return Original(posixpath.basename(name), partial(content_of, files[name]))
    return Original(f"{posixpath.basename(name)}.png", partial(_png, split.pixels()[index].numpy()))


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _probabilities(classifier: Classifier, split: Split, bars: Bars) -> NDArray[np.float32]:
    """Return the probabilities that a bundle gives to a split, [images, classes]."""
    bars.begin("predicting", len(split))
    rows = []
    for prediction in classifier.stream(split.pixels().numpy()):
        rows.append(prediction.probabilities)
        bars.step()
    bars.end()
    return np.stack(rows)
