"""A reader of logit stores, written from spec/store.md with json, numpy and safetensors alone."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

WORDS = 2**64


def mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def word(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def order(seed: int, names: list[str], view: int) -> np.ndarray:
    """Return the index of the image at each place of a view."""
    ids = np.array([word(name) for name in names], np.uint64)
    key = mix(mix(mix(np.full_like(ids, seed % WORDS)) + ids) + np.uint64(view))
    return np.argsort(mix(key + word("order")).view(np.int64), kind="stable")


def order_of_shards(header: dict, names: list[str], view: int) -> np.ndarray:
    """Return the same for images that are in shards, which follow one another."""
    starts = np.cumsum([0, *header["shards"]])
    parts = [names[start:end] for start, end in itertools.pairwise(starts)]
    return np.concatenate(
        [start + order(header["seed"], part, view) for start, part in zip(starts[:-1], parts, strict=True)]
    )


def read_logits(store: Path, names: list[str], view: int) -> np.ndarray:
    """Return the logits of all teachers for a view of the named images, float32 [images, teachers, classes]."""
    text = (store / "store.json").read_bytes()
    header, identity = json.loads(text), hashlib.sha256(b"".join(text.split())).hexdigest()[:16]
    is_sharded, rows = "shards" in header, []
    for shard in range(len(header["shards"]) if is_sharded else -(-header["samples"] // header["shard"])):
        with safe_open(store / f"view-{view:04d}-shard-{shard:04d}.safetensors", "np") as file:
            about = json.loads(file.metadata()["libkd"])
            assert about["content"] == f"view {view}, shard {shard} of store {identity}"
            rows.append(np.stack([answers(file, name, header) for name in header["teachers"]], axis=1))
    logits = np.empty((len(names), len(header["teachers"]), header["classes"]), np.float32)
    places = order_of_shards(header, names, view) if is_sharded else order(header["seed"], names, view)
    logits[places] = np.concatenate(rows)
    return logits


def answers(file: safe_open, teacher: str, header: dict) -> np.ndarray:
    """Return the logits of one teacher in a unit, float32 [places, classes]."""
    values = file.get_tensor(f"{teacher}.{'values' if header['top_k'] else 'logits'}").astype(np.float32)
    if header["dtype"] == "int8":
        scale, offset = (file.get_tensor(f"{teacher}.{part}").astype(np.float32) for part in ("scale", "offset"))
        values = offset[:, None] + scale[:, None] * values
    if not header["top_k"]:
        return values
    others = max(1, header["classes"] - header["top_k"])
    level = file.get_tensor(f"{teacher}.rest") - np.float32(np.log(others))
    logits = np.repeat(level[:, None], header["classes"], axis=1)
    np.put_along_axis(logits, file.get_tensor(f"{teacher}.indices").astype(np.int64), values, axis=1)
    return logits
