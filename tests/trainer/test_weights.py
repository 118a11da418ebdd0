"""A file that holds no weights is refused with what it is, and with how to make a state dictionary of it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import sdk
from trainer.errors import RecipeError
from trainer.models import check_nets, create_student, create_teacher
from trainer.models.weights import create_net, read_weights
from trainer.recipe import StudentRecipe, TeacherRecipe, read_recipe

NAME = "test_vit"


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that a developer has downloaded must not matter."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return timm.create_model(NAME).state_dict()


def refusals(path: Path) -> str:
    """Return the line that a student and a teacher are refused with, which is the same."""
    lines = set()
    with pytest.raises(RecipeError) as caught:
        create_student(StudentRecipe(model=NAME, weights=str(path)), 2, 5, sdk.Preprocessing.square(160))
    lines.add(str(caught.value))
    with pytest.raises(RecipeError) as caught:
        create_teacher(TeacherRecipe(model=NAME, weights=str(path)), 5, sdk.Preprocessing.square(160))
    lines.add(str(caught.value))
    (line,) = lines
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line) < 600
    return line


def test_a_missing_file_and_a_folder(tmp_path):
    assert "no such file" in refusals(tmp_path / "none.safetensors")
    assert "not a file" in refusals(tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 22883\n",
            "a Git LFS pointer.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html><head><title>404</title>", "a web page, not weights.*/resolve/"),
        (b"", "it is empty"),
        (b"no weights \x1b[31m at all" * 100, "can't be read as weights"),
    ],
)
def test_what_is_no_file_of_weights_is_named(content, message, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    line = refusals(path)
    assert re.search(message, line), line


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_is_named_and_its_advice_works(tmp_path, state):
    program = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(program, tmp_path / "program.pt")
    assert "TorchScript" in refusals(tmp_path / "program.pt")
    torch.save(torch.jit.load(tmp_path / "program.pt").state_dict(), tmp_path / "out.pt")
    assert set(read_weights(tmp_path / "out.pt")) == {"weight", "bias"}


def test_a_pickled_module_is_never_loaded(tmp_path, state):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    assert "a pickled torch.nn.modules.linear.Linear" in refusals(tmp_path / "whole.pth")
    assert "torch.save(model.state_dict(), FILE)" in refusals(tmp_path / "whole.pth")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    assert "not a plain state dictionary; save only `model.state_dict()`" in refusals(tmp_path / "other.pth")


@pytest.mark.parametrize("inside", ["state_dict", "model", "model_ema", "weights"])
def test_a_checkpoint_is_told_where_its_weights_are_and_its_advice_works(inside, tmp_path, state):
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "optimizer": {"state": {}}, inside: state}, path)
    assert f"its weights are inside {inside!r}" in refusals(path)
    torch.save(torch.load(path, weights_only=True)[inside], tmp_path / "out.pth")
    assert set(read_weights(tmp_path / "out.pth")) == set(state)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "_orig_mod."])
def test_a_prefix_is_named_and_its_advice_works(prefix, tmp_path, state):
    path = tmp_path / "weights.pth"
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()} | {"loss.weight": torch.ones(1)}, path)
    assert f"its names begin with '{prefix}'; write them without it" in refusals(path)
    weights = {name: tensor for name, tensor in read_weights(path).items() if name != "loss.weight"}
    torch.save({name.removeprefix(prefix): tensor for name, tensor in weights.items()}, path)
    create_student(StudentRecipe(model=NAME, weights=str(path)), 2, 5, sdk.Preprocessing.square(64))


def test_weights_of_another_net_are_told_by_names(tmp_path, state):
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.safetensors")
    line = refusals(tmp_path / "resnet.safetensors")
    assert "not the weights of this model: it has conv1.weight" in line or "it has bn1." in line, line
    wider = timm.create_model(NAME, embed_dim=32).state_dict()
    save_file(wider, tmp_path / "narrow.safetensors")
    assert "missing, unknown or of another shape" in refusals(tmp_path / "narrow.safetensors")


def test_weights_that_are_no_numbers_are_refused(tmp_path, state):
    broken = {**state, "norm.bias": torch.full_like(state["norm.bias"], float("nan"))}
    save_file(broken, tmp_path / "broken.safetensors")
    assert "norm.bias holds NaN or infinity" in refusals(tmp_path / "broken.safetensors")


def test_numpy_arrays_are_named(tmp_path):
    np.savez(tmp_path / "weights.npz", **{"embedding/kernel": np.zeros(3)})
    assert "NumPy arrays; use the same weights with timm's names" in refusals(tmp_path / "weights.npz")


def test_without_a_network_the_line_says_which_file_to_fetch_and_it_is_then_found(tmp_path, state, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    here = tmp_path / "hub" / "checkpoints" / "test_vit.r160_in1k.safetensors"
    with pytest.raises(RecipeError) as caught:
        create_net(NAME, pretrained=True)
    line = str(caught.value)
    assert line.isprintable()
    assert "fetch https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors" in line
    assert f"put it here as {here}," in line
    assert "HF_HUB_OFFLINE is set" in line
    here.parent.mkdir(parents=True)
    save_file(state, here)
    found = create_net(NAME, pretrained=True, num_classes=7)
    assert torch.equal(found.state_dict()["cls_token"], state["cls_token"])
    here.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(RecipeError, match="a Git LFS pointer"):
        create_net(NAME, pretrained=True)


def test_a_server_that_does_not_answer_is_known_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{filename}"
    )
    with pytest.raises(RecipeError, match=r"can't be downloaded \(.*refused.*\); fetch http://127.0.0.1:9/") as caught:
        create_net(NAME, pretrained=True)
    assert str(caught.value).isprintable()


def test_all_missing_files_are_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RecipeError) as caught:
        check_nets(read_recipe("photos"), 4, sdk.Preprocessing.square(160))
    line = str(caught.value)
    assert line.isprintable()
    for name in ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "tf_efficientnet_lite0.in1k"):
        assert f"fetch https://huggingface.co/timm/{name}/resolve/main/model.safetensors" in line
        assert str(tmp_path / "hub" / "checkpoints" / f"{name}.safetensors") in line


def test_a_net_that_nobody_published_says_so():
    with pytest.raises(RecipeError, match=r"timm has no weights for 'rednet26'"):
        create_net("rednet26", pretrained=True)
