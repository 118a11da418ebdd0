"""The augmentation of views, as a recipe describes it."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

REVISION = 1  # raise it whenever the same spec and key would give other pixels


class ViewSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The augmentation of one view. By default, every part is off.

    Attributes:
        shift: the largest shift in each direction, as a share of the side (pad-and-crop).
        scale: the smallest and the largest share of the area that is kept (random resized crop); (1, 1) keeps it all.
        ratio: the smallest and the largest aspect ratio of that crop.
        flip: the probability of a horizontal flip.
        rotate: the largest rotation in either direction, in degrees.
        fill: the pixels outside of the image: `zeros`, or the nearest pixels of its `border`.
        brightness, contrast, saturation: the largest relative change, up or down.
        operations: how many of RandAugment's operations (Cubuk et al., 2020) are applied to each image; 0 is off.
        magnitude: the strength of these operations, 0..10; each draw varies with a normal deviation of 0.5 (timm's
            `rand-m9-mstd0.5`). `uniform` draws the strength from a wider range: with operations = 1, this is
            TrivialAugment (Mueller & Hutter, 2021).
        erase: the probability that a rectangle of 2 to 33 % of the area is made grey (Zhong et al., 2017).
        mixup: alpha of the Beta distribution of Mixup (Zhang et al., 2018); 0 is off.
        cutmix: alpha of CutMix (Yun et al., 2019); 0 is off. If both are on, each pair draws one of them.
        mix: the probability that a pair is mixed.
    """

    shift: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    rotate: float = 0.0
    fill: Literal["zeros", "border"] = "zeros"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    operations: int = 0
    magnitude: float | Literal["uniform"] = 9.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix: float = 1.0

    def __post_init__(self) -> None:
        for name in ("shift", "flip", "brightness", "contrast", "saturation", "erase", "mix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is between 0 and 1")
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise ValueError("scale and ratio are (smallest, largest), above 0, and scale is at most 1")
        if min(self.rotate, self.mixup, self.cutmix) < 0:
            raise ValueError("rotate, mixup and cutmix are not negative")
        if self.operations < 0 or not (self.magnitude == "uniform" or 0 <= self.magnitude <= 10):
            raise ValueError("operations is not negative, and magnitude is between 0 and 10")

    def hash(self) -> str:
        """Return a hash that changes whenever the same key would give other pixels."""
        return hashlib.sha256(msgspec.json.encode([REVISION, self])).hexdigest()[:16]


class ExtraSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Further augmentation of a finished view, which moves no pixels. By default, every part is off.

    Attributes:
        brightness, contrast, saturation: the largest relative change, up or down.
        erase: the probability that a rectangle of 2 to 33 % of the area is made grey.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is between 0 and 1")
