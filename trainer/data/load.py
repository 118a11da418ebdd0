"""The reading of folders, archives and named datasets: from sources to splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..errors import DataError
from ..progress import Progress, Silent
from ..recipe import DataRecipe
from .dataset import Dataset
from .division import Readable, divide, division
from .files import Input, check_memory
from .layout import LabelledFile, check_names, labelled, loose
from .named import FASHION_MNIST_MINI, NAMED, Named
from .reading import default_size, labels_of, preprocessing_of, read, told
from .samples import Samples, spread
from .shards import Wanted, are_shards, load_shards, shard_files, wanted_of, wanted_of_named
from .sources import ImageFile
from .split import Split, sample_ids


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
    """Return the data in `sources`: one named dataset, shards, or folders and archives (zip, tar).

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
    if are_shards(sources):
        return load_shards(sources, unlabelled, how, size_step=size_step, skip_bad=skip_bad, progress=progress)
    extra = told(loose(_places(unlabelled)), progress)
    if (name := _name(sources)) is not None:
        return _from_named(NAMED[name](root), extra, how, progress, skip_bad)
    found = told(labelled(_places(sources)), progress)
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
    found = _all_labelled(sources, progress)
    chosen = _for_the_test(found) or found
    strangers = {item.label for item in chosen} - set(labels)
    if strangers:
        raise DataError(
            f"class {min(strangers)!r} is not one of the model's {len(labels)}; rename or remove its folder"
        )
    check_memory(len(chosen), input)
    return read(chosen, labels, input, progress)[0]


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
    chosen = _for_the_test(_all_labelled(sources, progress))
    input = preprocessing_of(how.size, how).input
    check_memory(len(chosen), input)
    return read(chosen, labels, input, progress, skip_bad=True)[0] if chosen else None


def load_training_sample(
    sources: Sequence[str | Path], how: DataRecipe, count: int, *, progress: Progress | None = None
) -> Tensor | None:
    """Return what `sample` returns of the images to train on that `load` returns, but read no other images.

    It is None for a named dataset and for shards, and wrong if an image can't be read: others may be held back then.

    Args:
        how: the data table of a run's recipe, which has the size.

    Returns:
        uint8 [n, height, width, 3].

    Raises:
        DataError: there are no such images, or too many of them can't be read.
    """
    assert how.size is not None
    if _name(sources) is not None or are_shards(sources):
        return None
    found = labelled(_places(sources)).images
    everything = wanted_of(found, ())
    ids, places = sample_ids([file.name for file in everything.files]), everything.places
    train = division(everything.classes, ids, places, everything.labels, how).train
    chosen = [found[index] for index in train[spread(len(train), count)].tolist()]
    return read(chosen, everything.labels, preprocessing_of(how.size, how).input, progress or Silent())[0].pixels()


def _all_labelled(sources: Sequence[str | Path], progress: Progress) -> list[LabelledFile]:
    """Return the labelled images in folders and archives; of shards, those of the test or validation."""
    return shard_files(sources) if are_shards(sources) else told(labelled(_places(sources)), progress)


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
    found = shard_files(sources) if are_shards(sources) else told(loose(_places(sources)), progress)
    chosen, _ = read([found[index] for index in spread(len(found), count).tolist()], (), input, progress)
    return chosen.pixels()


def wanted(
    sources: Sequence[str | Path],
    *,
    unlabelled: Sequence[str | Path] = (),
    root: Path | None = None,
    progress: Progress | None = None,
) -> Wanted:
    """Return the images in `sources`, as they are packed into shards; see `load`.

    Raises:
        DataError: there are no such images, two have the same name, or they are in shards already.
    """
    progress = progress or Silent()
    if are_shards(sources):
        raise DataError(f"{sources[0]}: in shards already; name it by --data of the commands that train")
    extra = told(loose(_places(unlabelled)), progress)
    if (name := _name(sources)) is not None:
        return wanted_of_named(NAMED[name](root), extra)
    found = told(labelled(_places(sources)), progress)
    check_names([*found, *extra])
    return wanted_of(found, extra)


def originals(sources: Sequence[str | Path]) -> dict[str, ImageFile]:
    """Return the files of the labelled images in `sources` by their names in a split; a named dataset has none.

    Raises:
        DataError: see `load`.
    """
    return {} if _name(sources) else {item.file.name: item.file for item in _all_labelled(sources, Silent())}


def sample(samples: Samples, count: int) -> Tensor:
    """Return the pixels of at most `count` evenly spread images, uint8 [n, height, width, 3]."""
    return samples.few(count).pixels()


def _name(sources: Sequence[str | Path]) -> str | None:
    """Return the name of the named dataset in `sources`; None if it holds folders and archives."""
    return str(sources[0]) if len(sources) == 1 and sources[0] in NAMED else None


def _places(sources: Sequence[str | Path]) -> list[Path]:
    return [FASHION_MNIST_MINI if source == "fashion-mnist-mini" else Path(source) for source in sources]


def _from_named(
    named: Named, extra: list[LabelledFile], how: DataRecipe, progress: Progress, skip_bad: bool
) -> Dataset:
    size = named.train.images.size[0]
    if how.size not in (None, size):
        raise DataError(f"this dataset has images of {size}x{size}; leave data.size out")
    preprocessing = preprocessing_of(size, how)
    whole, skipped = named.train.joined(named.test), list[str]()
    if extra:
        if not _fit(len(named.train) + len(extra), preprocessing.input, how):
            raise DataError(
                "a named dataset is kept in memory, and there are too many unlabelled images for that; "
                "raise data.memory_gb"
            )
        more, skipped = read(extra, (), preprocessing.input, progress, skip_bad=skip_bad)
        whole = whole.joined(more)
    places = [name.partition("/")[0] for name in whole.names]
    return divide(Readable(whole, places, named.labels, preprocessing, skipped), how, progress)


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
    labels, training = labels_of(found), [item for item in found if item.split in ("", "train")]
    size = how.size or default_size([item.file for item in found], size_step, progress)
    preprocessing = preprocessing_of(size, how)
    check_memory(len(found) - len(training), preprocessing.input)
    in_memory = _fit(len(training) + len(extra), preprocessing.input, how)
    everything = [*found, *extra]
    whole, skipped = read(everything, labels, preprocessing.input, progress, in_memory=in_memory, skip_bad=skip_bad)
    place = {item.file.name: item.split for item in (*found, *extra)}
    places = [place[name] for name in whole.names]
    return divide(Readable(whole, places, labels, preprocessing, skipped), how, progress)
