"""The list of the shards of a data set: `shards.json`, which `pack` writes, or what a user names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin

import msgspec
from msgspec.structs import replace

from sdk.files import read_regular, write_whole

from ...errors import DataError
from .tar import local_path, opened

LIST = "shards.json"
_MAX_LIST = 2**28
_PLAIN = re.compile(r"[\w-]+\.tar", re.ASCII)

SplitName = Literal["train", "val", "test", "unlabelled"]


class Shard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A shard.

    Attributes:
        url: its path, URL or command; in a list, it is relative to the list.
        samples: the number of samples that are used.
        bytes, sha256: the size and the digest of the tar.
        bad: the numbers of the samples that are left out, in the order of the tar.
        labelled: whether the classes of its samples are known.
    """

    url: str
    samples: int
    bytes: int
    sha256: str
    bad: tuple[int, ...] = ()
    labelled: bool = True


class ShardList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The shards of a data set.

    Attributes:
        labels: the class names. The text of a sample's class is its number in them, counted from 0.
        counts: the number of training images of each class.
        splits: the shards of each split.
    """

    format: Literal["libkd-shards/1"]
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    splits: dict[SplitName, tuple[Shard, ...]]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.counts) or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels that repeat, or other counts than labels")
        shards = [shard for split in self.splits.values() for shard in split]
        if len({shard.sha256 for shard in shards}) < len(shards):
            raise ValueError("a shard is in it twice")
        if any(not 0 < shard.samples < 2**40 or shard.bytes < 0 for shard in shards):
            raise ValueError("a shard without samples")


def list_of(source: str) -> str | None:
    """Return the place of the list that a source is, or that lies in it; None if it has none."""
    if re.search(rf"(^|/){re.escape(LIST)}$", source):
        return source
    path = local_path(source)
    return str(path / LIST) if path is not None and (path / LIST).is_file() else None


def read_list(place: str) -> ShardList:
    """Return the list at a path or a URL. The shards in it have whole paths or URLs.

    Raises:
        DataError: it is missing or damaged.
    """
    local, path = opened(place), local_path(place)
    try:
        content = read_regular(local.path, _MAX_LIST)
        if content is None:
            raise ValueError("larger than a list can be")
        found = msgspec.json.decode(content, type=ShardList)
        for shard in (shard for shards in found.splits.values() for shard in shards):
            if not _PLAIN.fullmatch(shard.url):  # a list from elsewhere must not name a command, or any other file
                raise ValueError(f"{shard.url!r} is not the name of a tar beside it")
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as fault:
        raise DataError(f"{place}: no list of shards ({fault}); pack the images again") from fault

    def whole(shard: Shard) -> Shard:
        return replace(shard, url=urljoin(place, shard.url) if path is None else str(path.parent / shard.url))

    splits = {name: tuple(map(whole, shards)) for name, shards in found.splits.items()}
    return replace(found, splits=splits)


def write_list(folder: Path, content: ShardList) -> None:
    """Write the list of the shards in `folder`.

    Raises:
        FileError: the disk is full, or the folder can't be written.
    """
    write_whole(folder / LIST, msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n")


def is_command(source: str) -> bool:
    """Return whether a source is a command, whose output is a shard."""
    return source.strip().lower().startswith("pipe:")


def is_pattern(source: str) -> bool:
    """Return whether a source is a URL, a command, or a pattern such as `train-{0000..0099}.tar`."""
    return is_command(source) or _is_url(source) or _has_braces(source)


def lasting(source: str) -> str:
    """Return an absolute path for a file, a folder or a pattern of shards; a URL or the name of a dataset unchanged."""
    is_pattern_of_files = _has_braces(source) and not (is_command(source) or _is_url(source))
    return str(Path(source).resolve()) if Path(source).exists() or is_pattern_of_files else source


def _is_url(source: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", source, re.IGNORECASE) is not None


def _has_braces(source: str) -> bool:
    return re.search(r"\{[^{}]*(\.\.|,)[^{}]*\}", source) is not None and not Path(source).exists()


def expanded(sources: Sequence[str]) -> list[str]:
    """Return the single shards that some patterns name."""
    from webdataset.shardlists import expand_urls

    return [url for source in sources for url in (expand_urls(source) if is_pattern(source) else [source])]
