"""The tensor files of a run: safetensors that are whole or absent, and that say what they hold. No pickle.

A file carries its identity and a digest over everything in it. So neither a file with one changed bit nor a whole file
in another one's place is used.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sdk.errors import LibkdError
from sdk.files import write_whole

from .errors import RunError

_ABOUT = "libkd"
"""The key of our metadata. It is a single one, because safetensors writes several in a random order."""


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    content: str
    facts: dict[str, str]
    digest: str = ""


@dataclass(frozen=True)
class TensorFile:
    """A file of tensors: where it lies, what it holds, and what to do if it can't be used.

    Attributes:
        content: the identity of the tensors, in words, such as `the weights of student in run 1a2b3c4d`. It is written
            into the file, and compared when it is read.
        remedy: what to do if the file can't be used, as the end of the error's message.
        error: the class of that error.
    """

    path: Path
    content: str
    remedy: str
    error: type[LibkdError] = RunError

    def write(self, tensors: Mapping[str, Tensor], **facts: str) -> None:
        """Write the file, whole or not at all.

        Args:
            facts: further facts about the tensors, which `read` returns.

        Raises:
            FileError: the disk is full, or the folder can't be written.
        """
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        about = _About(self.content, facts)
        about = msgspec.structs.replace(about, digest=_digest(plain, about))
        # Not with save_file: only their owner may read the files that it makes.
        write_whole(self.path, save(plain, metadata={_ABOUT: msgspec.json.encode(about).decode()}))

    def read(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors, which are whole and finite, and the facts.

        Raises:
            LibkdError: `error`, if the file is missing, damaged, or holds something else.
        """
        try:
            tensors, about = _read(self.path)
        except (OSError, SafetensorError, ValueError) as fault:
            raise self.refusal(str(fault)) from fault
        if about is None:
            raise self.refusal("it has no digest: an earlier version or another program wrote it")
        if about.content != self.content:
            raise self.refusal(f"it holds {about.content}, not {self.content}")
        if name := not_finite(tensors):
            raise self.refusal(f"{name} holds NaN or infinity")
        return tensors, about.facts

    def refusal(self, reason: str) -> LibkdError:
        """Return the error that the file can't be used."""
        return self.error(f"{self.path}: missing or damaged ({reason}); {self.remedy}")


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Return the tensors of any safetensors file. If this project wrote it, its digest is compared.

    Raises:
        OSError, SafetensorError, ValueError: it is missing or damaged.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], _About | None]:
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it can't be iterated)
        found = (file.metadata() or {}).get(_ABOUT)
    if found is None:
        return tensors, None
    try:
        about = msgspec.json.decode(found, type=_About)
    except (RecursionError, msgspec.MsgspecError) as fault:
        raise ValueError(f"no description of it: {fault}") from fault
    if about.digest != _digest(tensors, about):
        raise ValueError("its content is not that of its digest")
    return tensors, about


def _digest(tensors: Mapping[str, Tensor], about: _About) -> str:
    """Return the SHA-256 of everything that a file says, in hexadecimal."""
    names = sorted(tensors)
    outline = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    digest = hashlib.sha256(json.dumps([about.content, sorted(about.facts.items()), outline]).encode())
    for name in names:
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, or None."""
    return next((name for name, tensor in tensors.items() if not _is_finite(tensor)), None)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(value.item()) for value in tensor.aminmax())  # ten times as fast as isfinite


def weights_hash(model: nn.Module) -> str:
    """Return a hash of a model's weights and of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
