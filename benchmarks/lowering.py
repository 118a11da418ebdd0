"""Measure how much faster a bundle is than the engine's plain export of the same module, and int8 than fp32.

    python benchmarks/lowering.py [--nets 224,32,rednet26] [--targets onnx,openvino,executorch] [--threads 1,2]
                                  [--busy 1] [--json]

The nets are the student at 224 and at 32 pixels, and RedNet-26, which is made of involutions, at 64 pixels. The seconds
of an export at fp32 are those of the processor.

The plain export is the one on the first page of each engine's documentation, with the manifest, the names and the batch
size of a bundle. It is loaded and called with the engine's defaults, except for the number of threads (and for
OpenVINO's fp32, which has to be requested). Weights are random, as only the speed of the arithmetic is measured. For
each number of threads, every file has a process of its own, and the processes take turns. Ratios are ratios of medians.
With `--busy`, that many other processes compute all the time, like the threads of an app.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch

import sdk
from runtimes.base import INPUT, METADATA_KEY, OUTPUT
from runtimes.engines import RUNNABLE
from sdk.benchmark import Measurement, measure
from sdk.bundle.manifest import embedded
from sdk.exporting.deployed import Deployed
from trainer.models import Student


class Net(NamedTuple):
    """A net to lower, for square images of `size` pixels."""

    make: Callable[[], torch.nn.Module]
    size: int
    classes: int


NETS = {
    "224": Net(
        lambda: Student(classes=1000, teachers=2, size=224, patch=16, width=192, depth=12, mlp_ratio=4.0), 224, 1000
    ),
    "32": Net(lambda: Student(classes=100, teachers=2, size=32), 32, 100),  # as in the recipe `small`
    "rednet26": Net(lambda: timm.create_model("rednet26", num_classes=100), 64, 100),
}
CALIBRATION = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--targets", default=",".join(RUNNABLE))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--busy", type=int, default=0, help="number of other processes that compute all the time")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for net in arguments.nets.split(","):
            for target in arguments.targets.split(","):
                bundles, export_s = _bundles(NETS[net], target, Path(folder) / net)
                for threads in map(int, arguments.threads.split(",")):
                    with _others(arguments.busy):
                        found = measure(bundles, rounds=arguments.rounds, calls=arguments.calls, threads=threads)
                    rows.append(_row(net, target, threads, export_s, found))
                    if not arguments.json:
                        print(_line(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=2))


@contextmanager
def _others(count: int) -> Iterator[None]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _row(
    net: str, target: str, threads: int, export_s: float, found: list[Measurement]
) -> dict[str, str | int | float]:
    plain, fp32, int8 = found
    assert plain.bare is not None
    return {
        "net": net,
        "target": target,
        "threads": threads,
        "export_s": round(export_s, 1),
        "plain_ms": round(plain.bare.p50_ms, 3),
        "fp32_ms": round(fp32.speed.p50_ms, 3),
        "int8_ms": round(int8.speed.p50_ms, 3),
        "faster_than_plain": round(plain.bare.p50_ms / fp32.speed.p50_ms, 2),
        "int8_faster_than_fp32": round(fp32.speed.p50_ms / int8.speed.p50_ms, 2),
        "int8_size": round(int8.size_bytes / fp32.size_bytes, 3),
    }


def _line(row: dict[str, Any]) -> str:
    return (
        "{net:<8} {target:<10} {threads} threads: exported in {export_s:.0f} s, plain {plain_ms:7.2f} ms, "
        "fp32 {fp32_ms:7.2f} ms ({faster_than_plain:.2f} times faster), int8 {int8_ms:7.2f} ms "
        "({int8_faster_than_fp32:.2f} times faster than fp32, {int8_size:.2f} of its size)".format(**row)
    )


def _bundles(net: Net, target: str, folder: Path) -> tuple[list[sdk.Bundle], float]:
    """Return three bundles, and the seconds of the second: the plain export, ours at fp32, and ours at int8."""
    torch.manual_seed(0)
    module, preprocessing = net.make().eval(), sdk.Preprocessing.square(net.size)
    coarse = np.random.default_rng(0).integers(0, 256, (CALIBRATION, net.size // 8, net.size // 8, 3), np.uint8)

    def ours(precision: str) -> sdk.Bundle:
        return sdk.export(
            module,
            target=target,
            precision=precision,
            out=folder / f"{target}-{precision}",
            labels=[str(label) for label in range(net.classes)],
            preprocessing=preprocessing,
            calibration=coarse.repeat(8, 1).repeat(8, 2) if precision == "int8" else None,
        )

    start = time.process_time()
    fp32 = ours("fp32")
    export_s = time.process_time() - start
    plain = folder / f"{target}-plain"
    shutil.copytree(fp32.path, plain)
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        pixels = torch.zeros(1, net.size, net.size, 3, dtype=torch.uint8)
        PLAIN[target](Deployed(module, preprocessing), pixels, plain, embedded(fp32.manifest))
    _list_again(plain, target)
    return [sdk.Bundle.open(plain), fp32, ours("int8")], export_s


def _list_again(bundle: Path, target: str) -> None:
    """Write the hashes of replaced files into the manifest, so that the bundle opens again."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    for name in RUNNABLE[target].files:
        data = (bundle / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def _plain_onnx(module: torch.nn.Module, example: torch.Tensor, folder: Path, manifest: str) -> None:
    several = (example.repeat(2, 1, 1, 1),)  # a batch of one would be exported as a fixed size
    exported = torch.onnx.export(
        module,
        several,
        dynamic_shapes=({0: "batch"},),
        input_names=[INPUT],
        output_names=[OUTPUT],
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    exported.model.metadata_props[METADATA_KEY] = manifest
    exported.save(folder / "model.onnx")


def _plain_openvino(module: torch.nn.Module, example: torch.Tensor, folder: Path, manifest: str) -> None:
    import openvino

    model = openvino.convert_model(module, example_input=example, input=[-1, *example.shape[1:]])
    model.input().tensor.set_names({INPUT})
    model.output().tensor.set_names({OUTPUT})
    model.set_rt_info(manifest, METADATA_KEY)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


def _plain_executorch(module: torch.nn.Module, example: torch.Tensor, folder: Path, manifest: str) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported, carried = torch.export.export(module, (example,)), {METADATA_KEY: manifest}
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()], constant_methods=carried)
    (folder / "model.pte").write_bytes(edge.to_executorch().buffer)


PLAIN: dict[str, Callable[[torch.nn.Module, torch.Tensor, Path, str], None]] = {
    "onnx": _plain_onnx,
    "openvino": _plain_openvino,
    "executorch": _plain_executorch,
}

if __name__ == "__main__":
    main()
