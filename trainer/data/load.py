"""Labelled images: folders, archives and named sets, to uint8 pixels, labels and stable ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .. import recipe
from ..errors import DataError
from ..progress import Progress, Silent
from .dataset import Dataset
from .files import Input, Preprocessing, Resize, check_memory, decode, native_size, survey
from .images import FileImages, Images, MemoryImages
from .layout import LabelledFile, check_names, labelled, loose
from .named import FASHION_MNIST_MINI, NAMED, Named
from .split import UNLABELLED, Split, sample_ids

LARGEST_DEFAULT_SIZE = 96


def load(
    sources: Sequence[str | Path],
    how: recipe.DataRecipe | None = None,
    *,
    unlabelled: Sequence[str | Path] = (),
    root: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The data that `sources` name: `fashion-mnist`, `cifar10`, `cifar100`, `fashion-mnist-mini`, or folders and
    archives (zip, tar).

    Files lie as `train/CLASS/NAME` with `val/...`, `test/...` or both, or as `CLASS/NAME` in archives whose names say
    which split they are (`photos-train-0.zip`), or as `CLASS/NAME` alone. What is missing is held back from the
    training pictures: `how.holdout` of each class for validation, and as much again for the test. A single `val` is
    the test.

    Pictures to learn from without labels come from the folders and archives of `unlabelled`, however they lie there,
    and from the training pictures when `how.labels` is below 1. If all that is learnt from would take more than
    `how.memory_gb`, it is read once for its digests and stays files.

    Raises:
        DataError: there are no such pictures, or they can't be used; the message says why.
    """
    how, progress = how or recipe.DataRecipe(), progress or Silent()
    extra = loose(_places(unlabelled))
    if (name := _name(sources)) is not None:
        return _from_named(NAMED[name](root), extra, how, progress)
    return _from_pictures(labelled(_places(sources)), extra, how, progress)


def load_labelled(
    sources: Sequence[str | Path],
    labels: Sequence[str],
    input: Input,
    *,
    root: Path | None = None,
    progress: Progress | None = None,
) -> Split:
    """The labelled pictures that `sources` name, as a trained model takes them, in memory: those of test/ or val/ if
    there is one, else all.

    Raises:
        DataError: there are no such pictures, one is of a class that is not among `labels`, or some can't be read.
    """
    if (name := _name(sources)) is not None:
        named = NAMED[name](root)
        if tuple(labels) != named.labels or named.test.images.size != (input.height, input.width):
            raise DataError(f"{name}: has other classes, or another size, than this model")
        return named.test
    found = labelled(_places(sources))
    wanted = next((split for split in ("test", "val") if any(item.split == split for item in found)), None)
    chosen = [item for item in found if wanted in (None, item.split)]
    strangers = {item.label for item in chosen} - set(labels)
    if strangers:
        raise DataError(f"class {min(strangers)!r} is none of the model's {len(labels)}; rename or remove its folder")
    check_memory(len(chosen), input)
    return _read(chosen, labels, input, progress or Silent())[0]


def load_sample(
    sources: Sequence[str | Path],
    count: int,
    input: Input,
    *,
    root: Path | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """uint8 [n, height, width, 3]: at most `count` pictures, evenly spread over those that `sources` name, whatever
    they show and however they lie there; of a named set, those for training.

    Raises:
        DataError: there are no such pictures, or too many of them can't be read.
    """
    if (name := _name(sources)) is not None:
        named = NAMED[name](root).train
        if named.images.size != (input.height, input.width):
            raise DataError(f"{name}: has pictures of another size than this model takes")
        return sample(named, count)
    found = loose(_places(sources))
    chosen, _ = _read([found[index] for index in _spread(len(found), count)], (), input, progress or Silent())
    return chosen.pixels()


def sample(split: Split, count: int) -> Tensor:
    """uint8 [n, height, width, 3]: at most `count` pictures of a split, evenly spread."""
    (pixels,) = split.images.feed([torch.tensor(_spread(len(split), count))], torch.device("cpu"))
    return pixels


def _spread(length: int, count: int) -> list[int]:
    return torch.linspace(0, length - 1, min(length, count)).round().int().tolist()


def _name(sources: Sequence[str | Path]) -> str | None:
    """The name of the set that is asked for, if it is one."""
    return str(sources[0]) if len(sources) == 1 and sources[0] in NAMED else None


def _places(sources: Sequence[str | Path]) -> list[Path]:
    return [FASHION_MNIST_MINI if source == "fashion-mnist-mini" else Path(source) for source in sources]


def _read(
    found: list[LabelledFile], labels: Sequence[str], input: Input, progress: Progress, *, in_memory: bool = True
) -> tuple[Split, list[str]]:
    """The pictures that can be read, and what is wrong with the others."""
    check_names(found)
    pictures = [item.file for item in found]
    images: Images
    if in_memory:
        rows, bad = decode(pictures, input, progress)
        images = MemoryImages(torch.from_numpy(rows))
    else:
        digests, bad = survey(pictures, input, progress)
        images = FileImages(pictures, input, digests)
    names = [picture.name for picture in pictures]
    number = {label: index for index, label in enumerate(labels)}
    classes = torch.tensor([number.get(item.label, UNLABELLED) for item in found], dtype=torch.int64)
    split = Split(images, classes, sample_ids(names), names)
    if bad:
        split = split.take(torch.tensor([index for index in range(len(found)) if index not in bad]))
    return split, [bad[index] for index in sorted(bad)]


def _from_named(named: Named, extra: list[LabelledFile], how: recipe.DataRecipe, progress: Progress) -> Dataset:
    size = named.train.images.size[0]
    if how.size not in (None, size):
        raise DataError(f"this set has {size}x{size} pictures; leave data.size out")
    preprocessing = _preprocessing(size, how)
    whole, skipped = named.train + named.test, []
    if extra:
        if not _fit(len(named.train) + len(extra), preprocessing.input, how):
            raise DataError("a named set is in memory, and the unlabelled pictures are too many; raise data.memory_gb")
        more, skipped = _read(extra, (), preprocessing.input, progress)
        whole += more
    places = [name.partition("/")[0] for name in whole.names]
    return _divide(whole, places, named.labels, preprocessing, skipped, how, progress)


def _preprocessing(size: int, how: recipe.DataRecipe) -> Preprocessing:
    return Preprocessing(
        input=Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size))), mean=how.mean, std=how.std
    )


def _fit(count: int, input: Input, how: recipe.DataRecipe) -> bool:
    """Do that many pictures to learn from stay in memory?"""
    return count * input.height * input.width * 3 <= how.memory_gb * 2**30


def _from_pictures(
    found: list[LabelledFile], extra: list[LabelledFile], how: recipe.DataRecipe, progress: Progress
) -> Dataset:
    given = {item.split for item in found}
    if not ("train" in given and "" not in given) and given != {""}:
        raise DataError("pictures for training are missing, or lie beside the others; put them into train/")
    training = [item for item in found if item.split in ("", "train")]
    labels = tuple(sorted({item.label for item in training}))
    if len(labels) < 2:
        raise DataError(f"only one class ({labels[0]}); a classifier needs two or more class folders")
    strangers = {item.label for item in found} - set(labels)
    if strangers:
        raise DataError(f"class {min(strangers)!r} has no training pictures; add some to train/ or remove it")

    size = how.size or min(native_size([item.file for item in found]), LARGEST_DEFAULT_SIZE)
    preprocessing = _preprocessing(size, how)
    check_memory(len(found) - len(training), preprocessing.input)
    in_memory = _fit(len(training) + len(extra), preprocessing.input, how)
    whole, skipped = _read([*found, *extra], labels, preprocessing.input, progress, in_memory=in_memory)
    place = {item.file.name: item.split for item in (*found, *extra)}
    return _divide(whole, [place[name] for name in whole.names], labels, preprocessing, skipped, how, progress)


def _divide(
    whole: Split,
    places: list[str],
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    skipped: list[str],
    how: recipe.DataRecipe,
    progress: Progress,
) -> Dataset:
    """All readable pictures by the splits that they lie in, and what is missing held back from the training ones."""

    def members(*wanted: str) -> Tensor:
        return torch.tensor([index for index, place in enumerate(places) if place in wanted], dtype=torch.int64)

    given, train = set(places), members("", "train")
    if {"val", "test"} <= given:
        _check_enough(whole, train, labels, 1)
        validation, test = members("val"), members("test")
    elif given & {"val", "test"}:
        _check_enough(whole, train, labels, 2)
        train, validation = _hold_back(whole, train, how.holdout)
        test = members("val", "test")
    else:
        _check_enough(whole, train, labels, 3)
        train, test = _hold_back(whole, train, how.holdout)
        train, validation = _hold_back(whole, train, how.holdout / (1 - how.holdout))
    unlabelled = members("unlabelled")
    if how.labels < 1:
        rest, train = _hold_back(whole, train, how.labels)
        unlabelled = torch.cat([rest, unlabelled])
    return Dataset(
        whole.take(train),
        whole.take(validation).in_memory(progress),
        whole.take(test).in_memory(progress),
        labels,
        preprocessing,
        skipped,
        _without_labels(whole.take(unlabelled)) if len(unlabelled) else None,
    )


def _check_enough(whole: Split, members: Tensor, labels: tuple[str, ...], needed: int) -> None:
    counts = torch.bincount(whole.labels[members], minlength=len(labels)).tolist()
    for label, count in zip(labels, counts, strict=True):
        if count < needed:
            raise DataError(
                f"class {label!r} has {count} readable picture{'s' * (count != 1)}, but needs {needed} or more: "
                "one in each split; add pictures or remove the class"
            )


def _hold_back(whole: Split, members: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Two parts of `members`, int64 indices: the second has `share` of each class (at least one picture), chosen by
    the ids alone."""
    is_held = torch.zeros(len(members), dtype=torch.bool)
    for number in whole.labels[members].unique():
        alike = (whole.labels[members] == number).nonzero().flatten()
        by_id = alike[whole.ids[members[alike]].argsort()]
        is_held[by_id[: max(1, round(share * len(alike)))]] = True
    return members[~is_held], members[is_held]


def _without_labels(split: Split) -> Split:
    return replace(split, labels=torch.full_like(split.labels, UNLABELLED))
