"""Labelled images: folders, archives and named datasets become uint8 pixels, labels and stable ids."""

from .dataset import Dataset
from .files import Input, Preprocessing, Resize, nearest_multiple
from .images import FileImages, Images, MemoryImages
from .inputs import to_input
from .load import load, load_labelled, load_sample, sample
from .split import UNLABELLED, Split, to_device

__all__ = [
    "UNLABELLED",
    "Dataset",
    "FileImages",
    "Images",
    "Input",
    "MemoryImages",
    "Preprocessing",
    "Resize",
    "Split",
    "load",
    "load_labelled",
    "load_sample",
    "nearest_multiple",
    "sample",
    "to_device",
    "to_input",
]
