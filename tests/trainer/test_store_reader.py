"""`spec/store.md` is enough to read a store and to write a unit: the reader and the writer here use nothing else."""

import hashlib
import itertools
import json

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.numpy import save

import store_reader
from jobs import job_of
from trainer.arms import own_arm
from trainer.lessons import open_store
from trainer.logits import LogitStore, fill_missing
from trainer.pipeline import load_teachers
from trainer.progress import Silent
from trainer.views import order


@pytest.fixture
def store(copy, tiny_data):
    return open_store(copy, tiny_data, own_arm(copy.recipe), load_teachers(job_of(copy, tiny_data)))


@pytest.mark.parametrize(("top_k", "dtype"), [*itertools.product([0, 2], ["float16", "int8"])])
def test_a_reader_of_its_own_finds_the_logits_of_every_image(top_k, dtype, store, copy, tiny_data, tmp_path):
    split, teachers = tiny_data.train, load_teachers(job_of(copy, tiny_data))
    other = LogitStore(tmp_path / "other", replace(store.header, top_k=top_k, dtype=dtype, shard=20), 2)
    fill_missing(other, teachers, split, Silent())
    for view in range(2):
        expected = torch.empty(len(split), 2, 3)
        expected[order(store.header.seed, split.ids, view)] = other.read(view).at(torch.arange(len(split)))
        found = store_reader.read_logits(other.folder, split.names, view)
        np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 - 1])
def test_the_order_of_a_view_is_that_of_the_specification(seed, tiny_data):
    for view in (0, 1, 1000):
        ours = order(seed, tiny_data.train.ids, view).numpy()
        np.testing.assert_array_equal(store_reader.order(seed, tiny_data.train.names, view), ours)


def unit_by_hand(content, tensors):
    """Return the bytes of a unit, as the specification says."""
    outline = [[name, f"torch.{tensor.dtype}", list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    facts = {"arithmetic": "fp32"}
    digest = hashlib.sha256(json.dumps([content, sorted(facts.items()), outline]).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.tobytes())
    about = {"content": content, "facts": facts, "digest": digest.hexdigest()}
    return save(tensors, {"libkd": json.dumps(about)})


def test_a_unit_that_another_program_wrote_is_read(store):
    logits = np.random.default_rng(0).normal(size=(66, 3)).astype(np.float16)
    header = (store.folder / "store.json").read_bytes()
    identity = hashlib.sha256(b"".join(header.split())).hexdigest()[:16]
    tensors = {"conv.logits": logits, "involution.logits": -logits}
    store.path(1, 0).write_bytes(unit_by_hand(f"view 1, shard 0 of store {identity}", tensors))
    read = store.read(1).at(torch.arange(66))
    np.testing.assert_array_equal(read[:, 0].numpy(), logits)
    np.testing.assert_array_equal(read[:, 1].numpy(), -logits)
