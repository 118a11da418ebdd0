"""Measure how many images of 32x32 per second `render` makes, next to torchvision's transforms, one image at a time.

    python benchmarks/views.py [--device cuda] [--threads 1] [--json]

Both do the same amount of work on the same images: `render` on the device, torchvision on the CPU from Pillow images.
At this size torchvision is about as fast with Pillow images as with tensors, and faster in RandAugment.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from msgspec.structs import replace
from torch import Tensor
from torchvision.transforms import v2

from trainer.views import ViewSpec, render

SIZE = 32
PLAIN = ViewSpec(scale=(0.4, 1.0), ratio=(0.75, 1.3333), flip=0.5, erase=0.25, mixup=0.8, cutmix=1.0)
SPECS = {
    "crop, flip, erase, mix": PLAIN,
    "and RandAugment, 2 of m9": replace(PLAIN, operations=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [_row(name, spec, batch, arguments.device) for name, spec in SPECS.items() for batch in (128, 512)]
    print(json.dumps(rows, indent=2) if arguments.json else _table(rows))


def _row(name: str, spec: ViewSpec, batch: int, device: torch.device) -> dict[str, str | int | float]:
    images = _images(batch)
    here, samples = images.to(device), torch.arange(batch, device=device)
    ours = _rate(batch, lambda view: render(here, samples, seed=0, view=view, spec=spec).pixels, device)
    reference = _rate(batch, _torchvision(images, spec), torch.device("cpu"))
    return {
        "views": name,
        "batch": batch,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "render_per_s": round(ours),
        "torchvision_per_s": round(reference),
        "ratio": round(ours / reference, 2),
    }


def _images(count: int) -> Tensor:
    """Return uint8 [count, SIZE, SIZE, 3]: smooth images with some noise, like photographs."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=draw) * 220
    smooth = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(0, 220)
    noise = torch.rand(count, 3, SIZE, SIZE, generator=draw) * 35
    return (smooth + noise).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _torchvision(images: Tensor, spec: ViewSpec) -> Callable[[int], Tensor]:
    """Return torchvision's transforms for `spec`. They are not the same views, but as much work."""
    pil_images = [v2.functional.to_pil_image(image) for image in images.permute(0, 3, 1, 2)]
    bilinear = v2.InterpolationMode.BILINEAR
    each = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=spec.scale, ratio=spec.ratio, interpolation=bilinear),
            v2.RandomHorizontalFlip(spec.flip),
            v2.RandAugment(spec.operations, magnitude=27, interpolation=bilinear),  # of 31 bins: m9
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomErasing(spec.erase, value=0.5),
        ]
    )
    mix = v2.RandomChoice([v2.MixUp(alpha=spec.mixup, num_classes=10), v2.CutMix(alpha=spec.cutmix, num_classes=10)])
    labels = torch.arange(len(pil_images)) % 10
    return lambda _: mix(torch.stack([each(image) for image in pil_images]), labels)[0]


def _rate(batch: int, run: Callable[[int], Tensor], device: torch.device, rounds: int = 7) -> float:
    """Return images per second in the fastest of some rounds."""
    times = []
    for number in range(rounds + 1):  # the first warms up
        started = time.perf_counter()
        run(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return batch / min(times[1:])


def _table(rows: list[dict[str, str | int | float]]) -> str:
    head = f"{'views':26} {'batch':>5} {'render/s':>10} {'torchvision/s':>14} {'ratio':>6}"
    lines = ["{views:26} {batch:5} {render_per_s:10} {torchvision_per_s:14} {ratio:6}".format_map(row) for row in rows]
    return "\n".join([head, *lines, "render on {device}, CPU threads: {threads}".format_map(rows[0])])


if __name__ == "__main__":
    main()
