"""Published weights: nets by their timm name, and files of weights, with a line for whatever is not such a file."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import huggingface_hub
import timm
import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from sdk.errors import did_you_mean

from ..errors import RecipeError
from ..tensors import not_finite, read_foreign

PATIENCE = 10.0
"""The seconds until a server has to answer."""

HEAD_BYTES = 512
ZIP, PICKLE, LFS = b"PK\x03\x04", b"\x80", b"version https://git-lfs"


def create_net(model: str, *, pretrained: bool = False, **args: Any) -> nn.Module:
    """Return a net of timm, with its published weights if `pretrained`.

    These weights are taken from the file that an earlier error named, if it is there; else timm downloads them.

    Raises:
        RecipeError: timm does not know the model, the model does not know an argument, or there are no weights.
    """
    if not timm.is_model(model):
        raise RecipeError(f"timm has no model {model!r}; {did_you_mean(model, timm.list_models())}")
    if not pretrained:
        try:
            return timm.create_model(model, **args)
        except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as fault:
            raise RecipeError(f"timm can't create {model!r} with {args}: {_line(fault)}; correct args") from fault
    file = _published(model)
    source = {"file": str(file)} if file else None
    if file:
        read_weights(file)  # or say what it is
    try:
        return timm.create_model(model, pretrained=True, pretrained_cfg_overlay=source, **args)
    except Exception as fault:  # whatever the network, the library for it, or the file has come up with
        with torch.device("meta"):
            create_net(model, **args)
        raise RecipeError(
            f"timm can't get the weights of {model!r}: {_line(fault)}; set `weights` to a file instead of `pretrained`"
        ) from fault


def _published(model: str) -> Path | None:
    """Return the file of a model's published weights, or None if timm has to download it, and can.

    Raises:
        RecipeError: it is not here, and can't be downloaded. The message says which file to fetch, and where it is
            looked for.
    """
    known = timm.get_pretrained_cfg(model)
    origin = known.url if known and isinstance(known.url, str) else ""
    if known and known.hf_hub_id:
        name = known.hf_hub_filename or "model.safetensors"
        origin = huggingface_hub.hf_hub_url(known.hf_hub_id, name)
        cached = huggingface_hub.try_to_load_from_cache(known.hf_hub_id, name)
        if isinstance(cached, str):
            return Path(cached)
    if not known or not origin:
        raise RecipeError(f"timm has no weights for {model!r}; set `weights` to a file, or leave `pretrained` out")
    name = ".".join(filter(None, (known.architecture, known.tag)))
    fetched = Path(torch.hub.get_dir()) / "checkpoints" / f"{name}{Path(origin).suffix}"
    if fetched.is_file():
        return fetched
    if trouble := _unreachable(origin):
        raise RecipeError(
            f"the weights of {model!r} are not here and can't be downloaded ({trouble}); fetch {origin} and put it "
            f"here as {fetched}, or set `weights` to it instead of `pretrained`"
        )
    return None


def _unreachable(address: str) -> str:
    """Return why nothing can be downloaded from an address, "" if it can.

    The library for downloads would try again for a minute, and say so each time.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return ""  # somebody answers
    except urllib.error.URLError as fault:
        return _line(fault.reason)
    except OSError as fault:
        return _line(fault)
    return ""


def classifiers(net: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers of a timm net that give its logits."""
    found = learned(net).get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def learned(net: nn.Module) -> dict[str, Any]:
    """Return what timm knows about the training of a net's published weights."""
    return cast(dict[str, Any], net.pretrained_cfg)


def load_weights(net: nn.Module, path: Path, *, whole: bool) -> None:
    """Load the weights of a file into `net`, a net of timm.

    The positions of a transformer are interpolated to the size of its images.

    Args:
        whole: whether the classifier is loaded too. Otherwise one that does not fit is left out.

    Raises:
        RecipeError: the file can't be read, or does not hold weights of such a net.
    """
    weights, own = _converted(read_weights(path), net, path), net.state_dict()
    heads = tuple(f"{name}." for name in classifiers(net))
    free = {name for name in (*own, *weights) if not whole and name.startswith(heads) and not _fits(weights, own, name)}
    wrong = [name for name in own if name not in free and not _fits(weights, own, name)]
    strange = [name for name in weights if name not in own and name not in free]
    if wrong or strange:
        raise RecipeError(f"{path}: not the weights of this model: {_mismatch(weights, own, wrong, strange)}")
    if name := not_finite(weights):
        raise RecipeError(f"{path}: {name} holds NaN or infinity; copy the file again, or use other weights")
    net.load_state_dict({name: tensor for name, tensor in weights.items() if name not in free}, strict=False)


def _converted(weights: dict[str, Tensor], net: nn.Module, path: Path) -> dict[str, Tensor]:
    """Return weights of a transformer as timm converts them for the size of `net`, and others unchanged."""
    if not isinstance(net, VisionTransformer) or "patch_embed.proj.weight" not in weights:
        return weights
    try:
        return checkpoint_filter_fn(dict(weights), net, adapt_layer_scale=True)
    except (RuntimeError, ValueError, AssertionError, KeyError) as fault:
        raise RecipeError(
            f"{path}: not the weights of this model: its positions can't be interpolated ({_line(fault)}); "
            "name the model that they belong to"
        ) from fault


def _fits(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    return name in weights and name in own and weights[name].shape == own[name].shape


def _mismatch(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], wrong: list[str], strange: list[str]) -> str:
    if prefix := _prefix(weights, own):
        return (
            f"its names begin with {prefix!r}; write them without it: torch.save({{name.removeprefix({prefix!r}): "
            "tensor for name, tensor in weights.items()}, FILE)"
        )
    if len(strange) > len(weights) / 2:
        return (
            f"it has {_some(strange)}, and this model {_some(wrong)}; name the model that they belong to, or use "
            "weights with timm's names"
        )
    return (
        f"{_some([*wrong, *strange])} missing, unknown or of another shape; use timm's names and, if it is not "
        "trained, as many classes as there are labels"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Return what stands before the net's own names in nearly all names of the file, such as `module.`, or ""."""
    longest = max(own, key=len)
    found = next((name.removesuffix(longest) for name in weights if name.endswith(f".{longest}")), "")
    return found if found and sum(f"{found}{name}" in weights for name in own) > len(own) / 2 else ""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name: safetensors, or a state dictionary that torch reads without running code.

    Raises:
        RecipeError: the file is anything else; the message says what, and how to make a state dictionary of it.
    """
    try:
        if not path.is_file():
            raise OSError("no such file" if not path.exists() else "not a file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if what := _foreign(path, head):
            raise RecipeError(f"{path}: {what}")
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return read_foreign(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as fault:
        raise RecipeError(f"{path}: {_pickled(fault)}") from fault
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as fault:
        raise RecipeError(f"{path}: can't be read as weights ({_line(fault)}); check the path") from fault
    if isinstance(tensors, dict) and tensors and all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        return tensors
    raise RecipeError(f"{path}: not a plain state dictionary{_wrapper(tensors)}")


def _foreign(path: Path, head: bytes) -> str:
    """Return what a file is that holds no weights, and what to do about it; "" if it may hold weights."""
    if head.startswith(LFS):
        return "a Git LFS pointer, which stands for the weights; fetch them by `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not weights; download the file itself (at Hugging Face, /resolve/ in place of /blob/)"
    if not head:
        return "can't be read as weights (it is empty); copy the file again"
    if head.startswith(ZIP) and zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        if any(re.search(r"(^|/)constants\.pkl$", name) for name in names):
            return (
                "TorchScript, which is a program and not weights; make a state dictionary of it: "
                "torch.save(torch.jit.load(FILE).state_dict(), OUT)"
            )
        if all(name.endswith(".npy") for name in names):
            return "NumPy arrays; use the same weights with timm's names, as safetensors"
    return ""


def _pickled(fault: UnpicklingError) -> str:
    found = re.search(r"GLOBAL (\S+)", str(fault))
    what = f"holds a pickled {found[1]}" if found else "holds pickled objects"
    return (
        f"can't be read as weights: it {what}, which is a program and not weights; where it was made, write only "
        "tensors: torch.save(model.state_dict(), FILE)"
    )


def _wrapper(content: object) -> str:
    """Return how to write the weights alone that lie inside something else."""
    tables = content.items() if isinstance(content, dict) else ()
    inner = [name for name, value in tables if isinstance(value, dict) and any(map(torch.is_tensor, value.values()))]
    if not inner:
        return "; save only `model.state_dict()`"
    best = next((name for name in ("model_ema", "state_dict_ema", "state_dict", "model") if name in inner), inner[0])
    return (
        f": its weights are inside {best!r}; write them alone: "
        f"torch.save(torch.load(FILE, weights_only=True)[{best!r}], OUT)"
    )


def _line(fault: BaseException | str) -> str:
    """Return the first line of a foreign error."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(fault).__name__
