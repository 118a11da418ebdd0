"""What a view may do to a picture."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

REVISION = 1  # of the pixels: raise it whenever the same spec and key would give other ones


class ViewSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Augmentation of one view; every default is off.

    Attributes:
        shift: largest shift in either direction, as a share of the side (pad-and-crop).
        scale: smallest and largest share of the area that is kept (random resized crop); (1, 1) keeps it all.
        ratio: smallest and largest aspect of that crop.
        flip: probability of a horizontal flip.
        rotate: largest rotation either way, in degrees.
        fill: what stands outside of the picture: zeros, or its border pixels.
        brightness, contrast, saturation: largest relative change either way.
        operations: how many of RandAugment's operations (Cubuk et al., 2020) each picture gets; 0 is off.
        magnitude: of these, 0..10; each draw varies by a normal deviation of 0.5 (timm's `rand-m9-mstd0.5`). `uniform`
            draws it from a wider range: with operations = 1 that is TrivialAugment (Mueller & Hutter, 2021).
        erase: probability that a rectangle of 2 to 33 % of the area is made grey (Zhong et al., 2017).
        mixup: alpha of the Beta distribution of Mixup (Zhang et al., 2018); 0 is off.
        cutmix: alpha of CutMix (Yun et al., 2019); 0 is off. With both on, each pair draws one of them.
        mix: probability that a pair is mixed at all.
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
            raise ValueError("scale and ratio are (smallest, largest), above 0, scale at most 1")
        if min(self.rotate, self.mixup, self.cutmix) < 0:
            raise ValueError("rotate, mixup and cutmix are not negative")
        if self.operations < 0 or not (self.magnitude == "uniform" or 0 <= self.magnitude <= 10):
            raise ValueError("operations is not negative, magnitude between 0 and 10")

    def hash(self) -> str:
        """Names the pixels that this spec makes."""
        return hashlib.sha256(msgspec.json.encode([REVISION, self])).hexdigest()[:16]


class ExtraSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Augmentation on top of a finished view that leaves its geometry alone; every default is off.

    Attributes:
        brightness, contrast, saturation: largest relative change either way.
        erase: probability that a rectangle of 2 to 33 % of the area is made grey.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is between 0 and 1")
