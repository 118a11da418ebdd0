"""Run the vectors' bundles, and larger ones, with the instructions that other CPUs have, and show what changes.

    python benchmarks/devices.py [--nets FOLDER] [--emulator qemu-x86_64-static]

Each engine runs in a process of its own for each set of instructions: on this CPU; as oneDNN, which OpenVINO computes
with, is told by its environment; on CPUs that qemu emulates; and with the engine's own settings instead of ours. The
larger bundles are a net of convolutions and a transformer, trained for a moment on the test images of the demo, at
int8. Their expected answers are those of this CPU. They are made once, in `--nets`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from check_vectors import Row  # noqa: E402

VECTORS = ROOT / "spec" / "vectors"
TIMEOUT_S = 900
STEPS = 80
EMULATED = {"SSE4.2": "Nehalem", "AVX": "SandyBridge", "AVX2": "Haswell"}
"""Instructions, and the CPU of qemu that has them and no more."""
TITLES = ("engine", "precision", "bundle", "instructions", "golden", "vectors", "same")


class Variant(NamedTuple):
    """A way to run an engine's bundles: a name for the table, a command before Python's, variables, and options."""

    name: str
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()


def variants(engine: str, emulator: str | None) -> Iterator[Variant]:
    """Yield the ways to run an engine here."""
    yield Variant("this CPU")
    yield Variant("this CPU, own settings", options=("--bare",))
    if engine == "openvino":
        yield Variant("AVX in oneDNN", environment=(("ONEDNN_MAX_CPU_ISA", "AVX"),))
    if emulator:
        for name, cpu in EMULATED.items():
            yield Variant(f"{name} (qemu {cpu})", (emulator, "-cpu", cpu))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=Path, default=ROOT / "libkd-scratch" / "devices")
    parser.add_argument("--emulator", default=shutil.which("qemu-x86_64-static"))
    arguments = parser.parse_args()
    if not arguments.nets.exists():
        make_nets(arguments.nets)
    print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}", flush=True)
    for engine in ("onnx", "openvino", "executorch"):
        for variant in variants(engine, arguments.emulator):
            for vectors in (VECTORS, arguments.nets):
                names = sorted(folder.name for folder in (vectors / "bundles").iterdir() if engine in folder.name)
                for cells in measured(variant, vectors, names):
                    print(f"| {engine} | {' | '.join(cells)} |", flush=True)


def measured(variant: Variant, vectors: Path, bundles: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of a row for each bundle, after the first cell."""
    command = [*variant.command, sys.executable, str(ROOT / "tools" / "check_vectors.py"), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict(variant.environment)}
    done = subprocess.run(
        [*command, "--vectors", str(vectors), *variant.options, *bundles],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    rows = {row.part: row for row in map(_row, done.stdout.splitlines())}
    for name in bundles:
        net, precision = "vectors" if vectors == VECTORS else name.split("-")[0], name.split("-")[-1]
        if row := rows.get(name):
            yield precision, net, variant.name, f"{row.golden:.1e}", f"{row.difference:.1e}", f"{row.same:.1%}"
        else:
            yield precision, net, variant.name, f"ended with {done.returncode}", "", ""


def _row(line: str) -> Row:
    return msgspec.json.decode(line, type=Row)


def make_nets(folder: Path) -> None:
    """Train the two nets, and write their bundles with expected answers into a folder, like that of the vectors."""
    import numpy as np
    import timm
    import torch
    from safetensors.numpy import save_file
    from torch import nn

    import sdk
    from trainer.data import load_labelled
    from trainer.data.named import FASHION_MNIST_LABELS as LABELS

    torch.manual_seed(0)
    preprocessing = sdk.Preprocessing.square(28, mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35))
    data = load_labelled(["fashion-mnist-mini"], LABELS, preprocessing.input)
    pixels, labels = data.pixels(), data.labels
    nets = {
        "convolutions": nn.Sequential(
            *_convolution(3, 24, 2),
            *_convolution(24, 48, 1),
            *_convolution(48, 96, 2),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, len(LABELS))),
        ),
        "transformer": timm.create_model(
            "vit_tiny_patch16_224", img_size=28, patch_size=7, embed_dim=96, depth=4, num_heads=3, num_classes=10
        ),
    }
    expected: dict[str, np.ndarray] = {}
    shown = {f"cover/{index}": image for index, image in enumerate(pixels[::40].numpy())}
    for name, net in nets.items():
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
        for _ in range(STEPS):
            chosen = torch.randint(0, len(pixels), (32,))
            images = (pixels[chosen].permute(0, 3, 1, 2) / 255 - 0.3) / 0.35
            nn.functional.cross_entropy(net(images), labels[chosen]).backward()
            optimizer.step()
            optimizer.zero_grad()
        for engine in ("onnx", "openvino", "executorch"):
            bundle = sdk.export(
                net.eval(),
                target=engine,
                precision="int8",
                out=folder / "bundles" / f"{name}-{engine}-int8",
                labels=LABELS,
                preprocessing=preprocessing,
                calibration=pixels[::32].numpy(),
            )
            session = bundle.session(1)
            for key, image in shown.items():
                expected[f"{bundle.path.name}/{key.removeprefix('cover/')}"] = session.run(image[None])[0]
            session.close()
    save_file(shown, folder / "pixels.safetensors")
    save_file(expected, folder / "probabilities.safetensors")


def _convolution(channels: int, wider: int, stride: int) -> tuple[nn.Module, ...]:
    from torch import nn

    return nn.Conv2d(channels, wider, 3, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()


if __name__ == "__main__":
    main()
