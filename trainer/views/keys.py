"""Counter-based randomness: every draw is a hash of (seed, sample, view, name of the draw). There is no state.

The hash is the finaliser of splitmix64 (Steele et al., OOPSLA 2014) chained over the parts of the key, in wrapping
64-bit integer arithmetic, which torch does alike on every device.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _signed(_GOLDEN)
    x = (x ^ _logical_shift(x, 30)) * _signed(_MULTIPLIERS[0])
    x = (x ^ _logical_shift(x, 27)) * _signed(_MULTIPLIERS[1])
    return x ^ _logical_shift(x, 31)


def _word(text: str) -> int:
    return _signed(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def seed_of(seed: int, *parts: str | int) -> int:
    """A seed of its own (63 bits, not negative) for a named part of a run."""
    return _word("/".join(map(str, (seed, *parts)))) & (2**63 - 1)


class Keys:
    """The keys of a batch: `samples` are int64 ids [B]; `view` is one number for all, or [B]."""

    def __init__(self, seed: int, samples: Tensor, view: int | Tensor) -> None:
        self._base = _mix(_mix(_mix(torch.full_like(samples, _signed(seed))) + samples) + view)

    def bits(self, name: str) -> Tensor:
        """64 random bits a sample, int64 [B]."""
        return _mix(self._base + _word(name))

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform in [low, high), float32 [B]."""
        unit = _logical_shift(self.bits(name), 40).to(torch.float32) * 2.0**-24
        return low + (high - low) * unit

    def normal(self, name: str) -> Tensor:
        """Standard normal, float32 [B]."""
        middle = self.uniform(name).double() + 2.0**-25  # of the 2^-24 that a draw stands for: never 0
        return torch.special.ndtri(middle).float()

    def chance(self, name: str, probability: float) -> Tensor:
        """True with the given probability, bool [B]."""
        return self.uniform(name) < probability


def order(seed: int, samples: Tensor, view: int, name: str = "order") -> Tensor:
    """The keyed permutation of `samples` (int64 ids [N]) for a view, as indices [N].

    It depends on the set of ids alone and not on how they are laid out. Neighbours 2i and 2i+1 are a pair.
    """
    return torch.argsort(Keys(seed, samples, view).bits(name), stable=True)
