"""Labelled images: folders, archives and named datasets become uint8 pixels, labels and stable ids."""

from .dataset import Dataset
from .feed import feed, to_device
from .files import Input, Preprocessing, Resize
from .inputs import to_input
from .load import load, load_labelled, load_sample, sample
from .split import UNLABELLED, Decoded, Split

__all__ = [
    "UNLABELLED",
    "Dataset",
    "Decoded",
    "Input",
    "Preprocessing",
    "Resize",
    "Split",
    "feed",
    "load",
    "load_labelled",
    "load_sample",
    "sample",
    "to_device",
    "to_input",
]
