"""The reading of image files: what was found, at which size, and what can't be read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdk.folders import kinds_of

from ..errors import DataError
from ..progress import Progress
from ..recipe import DataRecipe
from .files import (
    Input,
    Preprocessing,
    Resize,
    check_share,
    decode,
    native_size,
    nearest_multiple,
    survey,
)
from .images import FileImages, Images, MemoryImages
from .layout import Labelled, LabelledFile, check_names
from .sources import ImageFile
from .split import UNLABELLED, Split, sample_ids

LARGEST_DEFAULT_SIZE = 96

NAMED_AT_MOST = 10
"""The number of unreadable images that are named before the others are only counted."""


def told(found: Labelled, progress: Progress) -> list[LabelledFile]:
    """Return the images, after `progress` was told which files were left out."""
    for line in found.left_out:
        progress.tell(f"left out: {line}")
    return found.images


def labels_of(found: Sequence[LabelledFile]) -> tuple[str, ...]:
    """Return the class names of labelled images, sorted.

    Raises:
        DataError: it is not clear which images are to train on, there is only one class, or one has none of them.
    """
    given = {item.split for item in found}
    if not ("train" in given and "" not in given) and given != {""}:
        raise DataError("images for training are missing, or are not in a folder train/; put them there")
    labels = tuple(sorted({item.label for item in found if item.split in ("", "train")}))
    if len(labels) < 2:
        raise DataError(f"only one class ({labels[0]}); a classifier needs two or more class folders")
    if strangers := {item.label for item in found} - set(labels):
        raise DataError(f"class {min(strangers)!r} has no training images; add some to train/ or remove it")
    return labels


def read(
    found: list[LabelledFile],
    labels: Sequence[str],
    input: Input,
    progress: Progress,
    *,
    in_memory: bool = True,
    skip_bad: bool = False,
) -> tuple[Split, list[str]]:
    """Return a split of the images that can be read, and why the others can't, which `progress` is told as well.

    Raises:
        DataError: too many can't be read, unless `skip_bad`.
    """
    check_names(found)
    files = [item.file for item in found]
    images: Images
    if in_memory:
        rows, bad = decode(files, input, progress)
        images = MemoryImages(torch.from_numpy(rows))
    else:
        digests, bad = survey(files, input, progress)
        images = FileImages(files, input, digests)
    if not skip_bad:
        check_share(bad, files)
    names = [file.name for file in files]
    number = {label: index for index, label in enumerate(labels)}
    classes = torch.tensor([number.get(item.label, UNLABELLED) for item in found], dtype=torch.int64)
    split = Split(images, classes, sample_ids(names), names)
    if bad:
        split = split.take(torch.tensor([index for index in range(len(found)) if index not in bad]))
    skipped = [bad[index] for index in sorted(bad)]
    tell_skipped(skipped, [names[index] for index in sorted(bad)], len(found), progress)
    return split, skipped


def tell_skipped(reasons: Sequence[str], names: Sequence[str], of: int, progress: Progress) -> None:
    """Tell `progress` which of the images can't be read, with the reasons."""
    for reason in reasons[:NAMED_AT_MOST]:
        progress.tell(f"skipped: {reason}")
    if len(reasons) > 1:
        more = f", {len(reasons) - NAMED_AT_MOST:,} of them not named here" if len(reasons) > NAMED_AT_MOST else ""
        progress.tell(f"skipped: {len(reasons):,} of {of:,} images can't be read ({kinds_of(names)}){more}")


def preprocessing_of(size: int, how: DataRecipe) -> Preprocessing:
    return Preprocessing(
        input=Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size))), mean=how.mean, std=how.std
    )


def default_size(files: list[ImageFile], step: int, progress: Progress) -> int:
    """Return the width and height of the nets' input, a multiple of `step`; `progress` is told why."""
    median = native_size(files)
    usual = min(median, LARGEST_DEFAULT_SIZE)
    size = nearest_multiple(usual, step)
    limit = f", but no size above {usual} is chosen by itself; --size sets another" if median > usual else ""
    patches = f"; {size} is the nearest multiple of the student's patch, {step}" if size != usual else ""
    progress.tell(f"size: {size}x{size} pixels; the median of the images' shorter sides is {median}{limit}{patches}")
    return size
