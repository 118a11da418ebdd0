"""The reading of folders, archives and named datasets: from sources to splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdk.folders import kinds_of

from ..errors import DataError
from ..progress import Progress, Silent
from ..recipe import DataRecipe
from .dataset import Dataset
from .division import Readable, divide
from .files import (
    Input,
    Preprocessing,
    Resize,
    check_memory,
    check_share,
    decode,
    native_size,
    nearest_multiple,
    survey,
)
from .images import FileImages, Images, MemoryImages
from .layout import Labelled, LabelledFile, check_names, labelled, loose
from .named import FASHION_MNIST_MINI, NAMED, Named
from .sources import ImageFile
from .split import UNLABELLED, Split, sample_ids

LARGEST_DEFAULT_SIZE = 96

NAMED_AT_MOST = 10
"""The number of unreadable images that are named before the others are only counted."""


def load(
    sources: Sequence[str | Path],
    how: DataRecipe | None = None,
    *,
    unlabelled: Sequence[str | Path] = (),
    root: Path | None = None,
    size_step: int = 1,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Return the data in `sources`: one named dataset, or folders and archives (zip, tar).

    The named datasets are `fashion-mnist`, `cifar10`, `cifar100`, and `fashion-mnist-mini`, which may also be combined
    with folders and archives. Files lie as `train/CLASS/NAME` with `val/...`, `test/...` or both; or as `CLASS/NAME` in
    archives whose names tell the split (`photos-train-0.zip`); or as `CLASS/NAME` alone. Missing splits are taken from
    the training images: `how.holdout` of each class for validation, and the same number for the test. If there is only
    one of `val` and `test`, it is the test split.

    If all images to train on would take more than `how.memory_gb`, they are read once for their digests, and stay
    files.

    Args:
        how: the data table of a recipe.
        unlabelled: folders and archives with images to train on without labels, in any layout. With `how.labels` below
            1, a part of the training images loses its labels and is added to these.
        root: the folder of a named dataset.
        size_step: unless `how.size` is given, the size of files is a multiple of this, as a net's patches ask for.
        skip_bad: whether more than one image in a hundred may be unreadable. All of them are left out, and named.

    Raises:
        DataError: there are no such images, or they can't be used; the message says why.
    """
    how, progress = how or DataRecipe(), progress or Silent()
    extra = _told(loose(_places(unlabelled)), progress)
    if (name := _name(sources)) is not None:
        return _from_named(NAMED[name](root), extra, how, progress, skip_bad)
    found = _told(labelled(_places(sources)), progress)
    return _from_files(found, extra, how, progress, size_step=size_step, skip_bad=skip_bad)


def load_labelled(
    sources: Sequence[str | Path],
    labels: Sequence[str],
    input: Input,
    *,
    root: Path | None = None,
    progress: Progress | None = None,
) -> Split:
    """Return the labelled images in `sources`, in memory, with the labels and the input of a trained model.

    If there is a `test` split, only its images are returned; else those of `val`; else all.

    Args:
        sources: as for `load`.
        labels: the class names of the model.
        input: how images become the pixels that the model takes.
        root: the folder of a named dataset.

    Raises:
        DataError: there are no such images, too many can't be read, or a class is not among `labels`.
    """
    if (name := _name(sources)) is not None:
        named = NAMED[name](root)
        if tuple(labels) != named.labels or named.test.images.size != (input.height, input.width):
            raise DataError(f"{name}: has other classes, or another size, than this model; give other images")
        return named.test
    progress = progress or Silent()
    found = _told(labelled(_places(sources)), progress)
    chosen = _for_the_test(found) or found
    strangers = {item.label for item in chosen} - set(labels)
    if strangers:
        raise DataError(
            f"class {min(strangers)!r} is not one of the model's {len(labels)}; rename or remove its folder"
        )
    check_memory(len(chosen), input)
    return _read(chosen, labels, input, progress)[0]


def load_test(
    sources: Sequence[str | Path],
    how: DataRecipe,
    labels: Sequence[str],
    *,
    root: Path | None = None,
    progress: Progress | None = None,
) -> Split | None:
    """Return the test split that `load` returns, but read no other images; None if it is a part of the training images.

    Args:
        how: the data table of a run's recipe, which has the size.
        labels: the class names of the run.

    Raises:
        DataError: there are no such images.
    """
    assert how.size is not None
    if (name := _name(sources)) is not None:
        return NAMED[name](root).test
    progress = progress or Silent()
    chosen = _for_the_test(_told(labelled(_places(sources)), progress))
    input = _preprocessing(how.size, how).input
    check_memory(len(chosen), input)
    return _read(chosen, labels, input, progress, skip_bad=True)[0] if chosen else None


def _for_the_test(found: list[LabelledFile]) -> list[LabelledFile]:
    """Return the images of `test`, or else those of `val`."""
    parts = ([item for item in found if item.split == split] for split in ("test", "val"))
    return next(filter(None, parts), [])


def load_sample(
    sources: Sequence[str | Path],
    count: int,
    input: Input,
    *,
    root: Path | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Return the pixels of at most `count` images, evenly spread over those in `sources`, uint8 [n, height, width, 3].

    The images need no labels and may lie in any layout. From a named dataset, its training images are taken.

    Raises:
        DataError: there are no such images, or too many of them can't be read.
    """
    if (name := _name(sources)) is not None:
        named = NAMED[name](root).train
        if named.images.size != (input.height, input.width):
            raise DataError(f"{name}: has images of another size than this model takes; give other images")
        return sample(named, count)
    progress = progress or Silent()
    found = _told(loose(_places(sources)), progress)
    chosen, _ = _read([found[index] for index in _spread(len(found), count)], (), input, progress)
    return chosen.pixels()


def originals(sources: Sequence[str | Path]) -> dict[str, ImageFile]:
    """Return the files of the labelled images in `sources` by their names in a split; a named dataset has none.

    Raises:
        DataError: see `load`.
    """
    return {} if _name(sources) else {item.file.name: item.file for item in labelled(_places(sources)).images}


def sample(split: Split, count: int) -> Tensor:
    """Return the pixels of at most `count` evenly spread images of a split, uint8 [n, height, width, 3]."""
    (pixels,) = split.images.feed([torch.tensor(_spread(len(split), count))], torch.device("cpu"))
    return pixels


def _spread(length: int, count: int) -> list[int]:
    indices: list[int] = torch.linspace(0, length - 1, min(length, count)).round().int().tolist()
    return indices


def _name(sources: Sequence[str | Path]) -> str | None:
    """Return the name of the named dataset in `sources`; None if it holds folders and archives."""
    return str(sources[0]) if len(sources) == 1 and sources[0] in NAMED else None


def _places(sources: Sequence[str | Path]) -> list[Path]:
    return [FASHION_MNIST_MINI if source == "fashion-mnist-mini" else Path(source) for source in sources]


def _told(found: Labelled, progress: Progress) -> list[LabelledFile]:
    """Return the images, after `progress` was told which files were left out."""
    for line in found.left_out:
        progress.tell(f"left out: {line}")
    return found.images


def _read(
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
    for reason in skipped[:NAMED_AT_MOST]:
        progress.tell(f"skipped: {reason}")
    if len(skipped) > 1:
        kinds = kinds_of([names[index] for index in sorted(bad)])
        more = f", {len(skipped) - NAMED_AT_MOST:,} of them not named here" if len(skipped) > NAMED_AT_MOST else ""
        progress.tell(f"skipped: {len(skipped):,} of {len(found):,} images can't be read ({kinds}){more}")
    return split, skipped


def _from_named(
    named: Named, extra: list[LabelledFile], how: DataRecipe, progress: Progress, skip_bad: bool
) -> Dataset:
    size = named.train.images.size[0]
    if how.size not in (None, size):
        raise DataError(f"this dataset has images of {size}x{size}; leave data.size out")
    preprocessing = _preprocessing(size, how)
    whole, skipped = named.train + named.test, list[str]()
    if extra:
        if not _fit(len(named.train) + len(extra), preprocessing.input, how):
            raise DataError(
                "a named dataset is kept in memory, and there are too many unlabelled images for that; "
                "raise data.memory_gb"
            )
        more, skipped = _read(extra, (), preprocessing.input, progress, skip_bad=skip_bad)
        whole += more
    places = [name.partition("/")[0] for name in whole.names]
    return divide(Readable(whole, places, named.labels, preprocessing, skipped), how, progress)


def _preprocessing(size: int, how: DataRecipe) -> Preprocessing:
    return Preprocessing(
        input=Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size))), mean=how.mean, std=how.std
    )


def _fit(count: int, input: Input, how: DataRecipe) -> bool:
    """Tell whether the pixels of `count` images to train on may be kept in memory."""
    return count * input.height * input.width * 3 <= how.memory_gb * 2**30


def _from_files(
    found: list[LabelledFile],
    extra: list[LabelledFile],
    how: DataRecipe,
    progress: Progress,
    *,
    size_step: int,
    skip_bad: bool,
) -> Dataset:
    given = {item.split for item in found}
    if not ("train" in given and "" not in given) and given != {""}:
        raise DataError("images for training are missing, or are not in a folder train/; put them there")
    training = [item for item in found if item.split in ("", "train")]
    labels = tuple(sorted({item.label for item in training}))
    if len(labels) < 2:
        raise DataError(f"only one class ({labels[0]}); a classifier needs two or more class folders")
    strangers = {item.label for item in found} - set(labels)
    if strangers:
        raise DataError(f"class {min(strangers)!r} has no training images; add some to train/ or remove it")

    size = how.size or _default_size(found, size_step, progress)
    preprocessing = _preprocessing(size, how)
    check_memory(len(found) - len(training), preprocessing.input)
    in_memory = _fit(len(training) + len(extra), preprocessing.input, how)
    everything = [*found, *extra]
    whole, skipped = _read(everything, labels, preprocessing.input, progress, in_memory=in_memory, skip_bad=skip_bad)
    place = {item.file.name: item.split for item in (*found, *extra)}
    places = [place[name] for name in whole.names]
    return divide(Readable(whole, places, labels, preprocessing, skipped), how, progress)


def _default_size(found: list[LabelledFile], step: int, progress: Progress) -> int:
    """Return the width and height of the nets' input, a multiple of `step`; `progress` is told why."""
    median = native_size([item.file for item in found])
    usual = min(median, LARGEST_DEFAULT_SIZE)
    size = nearest_multiple(usual, step)
    limit = f", but no size above {usual} is chosen by itself; --size sets another" if median > usual else ""
    patches = f"; {size} is the nearest multiple of the student's patch, {step}" if size != usual else ""
    progress.tell(f"size: {size}x{size} pixels; the median of the images' shorter sides is {median}{limit}{patches}")
    return size
