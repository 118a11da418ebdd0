"""Data in shards: tar files in the layout of webdataset, which are streamed and may be anywhere.

A sample is some members of a tar with the same name up to the first dot of its last part: an image, such as
`train/cat/1.jpg`, and its class, `train/cat/1.cls`, as text.
"""

from .listing import is_command, lasting
from .load import are_shards, load_shards, shard_files
from .packing import Form, Wanted, pack, wanted_of, wanted_of_named
from .stream import ShardSamples

__all__ = [
    "Form",
    "ShardSamples",
    "Wanted",
    "are_shards",
    "is_command",
    "lasting",
    "load_shards",
    "pack",
    "shard_files",
    "wanted_of",
    "wanted_of_named",
]
