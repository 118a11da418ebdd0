"""Small real data for tests: images of clothes as files, and a recipe that trains on them in seconds."""

from __future__ import annotations

import zipfile
from pathlib import Path

CLASSES = ("Bag", "Sneaker", "Trouser")

TINY_RECIPE = """
seed = 7

[views]
count = 2
spec = { scale = [0.6, 1.0], ratio = [0.8, 1.25], flip = 0.5, mixup = 0.8, cutmix = 1.0 }

[teachers.conv]
model = "resnet18_small"
args = { layers = [1, 1, 1, 1], channels = [16, 16, 16, 16], stem_stride = 2 }
temperature = 2.0
training = { epochs = 10, batch = 16, lr = 1e-2, warmup = 1.0, ema = 0.9 }

[teachers.involution]
model = "rednet26_small_k3"
args = { layers = [1, 1, 1, 1], channels = [16, 16, 16, 16], stem_stride = 2 }
training = { epochs = 10, batch = 16, lr = 3e-3, warmup = 1.0, ema = 0.9 }

[student]
patch = 8
width = 32
depth = 2
heads = 2
drop_path = 0.1
training = { epochs = 4, batch = 16, lr = 3e-3, warmup = 1.0, ema = 0.9 }
"""


def unpack_clothes(folder: Path, train: int = 24, test: int = 8) -> Path:
    """Write `folder/{train,test}/CLASS/NUMBER.png` and return `folder`.

    Args:
        train, test: the number of real images in each of the three classes.
    """
    from trainer.data.named import FASHION_MNIST_MINI  # needs torch, which not every environment of tests has

    wanted = {
        f"{split}/{name}/{n}.png"
        for split, k in (("train", train), ("test", test))
        for name in CLASSES
        for n in range(k)
    }
    with zipfile.ZipFile(FASHION_MNIST_MINI) as archive:
        archive.extractall(folder, wanted)
    return folder
