"""Counter-based randomness: every draw is a hash of (seed, sample, view, name of the draw). There is no state.

The hash is the finaliser of splitmix64 (Steele et al., OOPSLA 2014), chained over the parts of the key. It uses
wrapping 64-bit integer arithmetic, which gives the same results on every device.
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
    """Return a separate seed (63 bits, not negative) for a named part of a run."""
    return _word("/".join(map(str, (seed, *parts)))) & (2**63 - 1)


class Keys:
    """The keys of a batch, from which random numbers are drawn by name.

    Args:
        samples: int64 ids [B].
        view: one number for all samples, or int64 [B].
    """

    def __init__(self, seed: int, samples: Tensor, view: int | Tensor) -> None:
        self._base = _mix(_mix(_mix(torch.full_like(samples, _signed(seed))) + samples) + view)

    def bits(self, name: str) -> Tensor:
        """Return 64 random bits for each sample, int64 [B]."""
        return _mix(self._base + _word(name))

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return uniform draws in [low, high), float32 [B]."""
        unit = _logical_shift(self.bits(name), 40).to(torch.float32) * 2.0**-24
        return low + (high - low) * unit

    def normal(self, name: str) -> Tensor:
        """Return standard normal draws, float32 [B]."""
        middle = self.uniform(name).double() + 2.0**-25  # a draw stands for an interval of 2^-24; its middle is never 0
        normal: Tensor = torch.special.ndtri(middle)
        return normal.float()

    def chance(self, name: str, probability: float) -> Tensor:
        """Return draws that are true with the given probability, bool [B]."""
        return self.uniform(name) < probability


def order(seed: int, samples: Tensor, view: int, name: str = "order") -> Tensor:
    """Return the keyed permutation of `samples` for a view: indices, int64 [N]. Places 2i and 2i+1 are a pair.

    The permuted ids depend only on the set of ids, and not on the order in which they are given.

    Args:
        samples: int64 ids [N].
        name: names the draw; another name gives another permutation.
    """
    return torch.argsort(Keys(seed, samples, view).bits(name), stable=True)
