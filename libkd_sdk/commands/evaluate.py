"""The command `libkd-sdk eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray

from sdk.bundle.manifest import MANIFEST
from sdk.classifier import Classifier
from sdk.errors import UsageError

from ..options import DataOption, MeasuredThreadsOption, RootOption, training_extra
from ..output import Bars, JsonOption, QuietOption, percent, remark, show_facts, show_json, show_table
from ..pages.page import ALWAYS_THE_LARGEST

if TYPE_CHECKING:
    from trainer.data import Split


def evaluate(
    what: Annotated[Path, typer.Argument(help="The folder of a run or of a bundle.")],
    data: DataOption = None,
    root: RootOption = None,
    threads: MeasuredThreadsOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Evaluate the student of a run, or a bundle, on labelled images: accuracy, calibration and confusion.

    A run is evaluated on its own test images unless --data names others. Of the images in --data, those in test/ or
    val/ are used, or all if there is no such folder.

    Example: libkd-sdk eval run/bundles/openvino --data images/
    """
    with training_extra():
        import torch

        from trainer.caveats import caveats
        from trainer.data import load_labelled
        from trainer.evaluate import confusion, logits_of, score
        from trainer.run import load_student
        from trainer.start import RunRequest, prepare
        from trainer.threads import computing

    with Bars() as bars:
        if (what / MANIFEST).exists():
            if not data:
                raise UsageError("a bundle has no images of its own to be evaluated on; name some by --data")
            with Classifier(what, threads=threads) as classifier:
                labels = classifier.labels
                split = load_labelled(data, labels, classifier.input, root=root, progress=bars)
                logits = torch.from_numpy(_probabilities(classifier, split, bars)).clamp_min(1e-30).log()
        else:
            student, labels, preprocessing = load_student(what)
            if data:
                split = load_labelled(data, labels, preprocessing.input, root=root, progress=bars)
            else:
                split = prepare(RunRequest(out=what), bars).data.test
            with computing(threads, torch.device("cpu")):
                logits = logits_of(student, split, preprocessing)
    result = score(logits, split.labels)
    counts = confusion(logits.argmax(-1), split.labels, len(labels)).tolist()
    if json:
        show_json({**msgspec.to_builtins(result), "labels": labels, "confusion": counts})
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


def _probabilities(classifier: Classifier, split: Split, bars: Bars) -> NDArray[np.float32]:
    """Return the probabilities that a bundle gives to a split, [images, classes]."""
    bars.begin("predicting", len(split))
    rows = []
    for prediction in classifier.stream(split.pixels().numpy()):
        rows.append(prediction.probabilities)
        bars.step()
    bars.end()
    return np.stack(rows)
