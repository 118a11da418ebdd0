"""Labelled images: folders, archives and named datasets become uint8 pixels, labels and stable ids."""

from .dataset import Dataset
from .files import Input, Preprocessing, Resize, content_of, nearest_multiple
from .images import FileImages, Images, MemoryImages
from .inputs import to_input
from .load import load, load_labelled, load_sample, load_test, load_training_sample, originals, sample, wanted
from .samples import Rows, Samples, joined
from .shards import Form, is_command, lasting, pack
from .sources import ImageFile
from .split import UNLABELLED, Split, to_device

__all__ = [
    "UNLABELLED",
    "Dataset",
    "FileImages",
    "Form",
    "ImageFile",
    "Images",
    "Input",
    "MemoryImages",
    "Preprocessing",
    "Resize",
    "Rows",
    "Samples",
    "Split",
    "content_of",
    "is_command",
    "joined",
    "lasting",
    "load",
    "load_labelled",
    "load_sample",
    "load_test",
    "load_training_sample",
    "nearest_multiple",
    "originals",
    "pack",
    "sample",
    "to_device",
    "to_input",
    "wanted",
]
