"""Measure what `Classifier` adds to its engine: a call, a camera's photograph, an import, memory, first call, loading.

    python benchmarks/predict.py [--students 224,32] [--targets onnx,openvino,executorch] [--json]

Ratios are ratios of medians. The two sides of a comparison take turns, and each engine has a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lowering import NETS

import sdk
from runtimes.cores import usable_cores
from runtimes.engines import RUNNABLE, load_bare, open_bare
from sdk.images import crop, resize

CAMERA = (4000, 3000)
IMPORTS = 15
LOADS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--students", default="224,32")
    parser.add_argument("--targets", default=",".join(RUNNABLE))
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--bundle", type=Path, help="measure this bundle, in this process")
    arguments = parser.parse_args()
    if arguments.bundle:
        print(json.dumps(_of_bundle(arguments.bundle, arguments.calls)))
        return
    rows = [_imports("import sdk"), _imports("from sdk import Classifier")]
    with tempfile.TemporaryDirectory() as folder:
        for student in arguments.students.split(","):
            for target in arguments.targets.split(","):
                bundle = _export(student, target, Path(folder) / f"{target}-{student}")
                if target == "onnx":
                    rows.append({"of": f"{student} px {target}", **_memory(bundle)})
                command = [sys.executable, __file__, "--bundle", str(bundle), "--calls", str(arguments.calls)]
                found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                rows += [{"of": f"{student} px {target}", **row} for row in found]
    print(json.dumps(rows, indent=2) if arguments.json else "\n".join(map(_line, rows)))


def _line(row: dict[str, Any]) -> str:
    return "{of:<18} {what:<52} {ours:9.3f} to {theirs:9.3f} {unit}: {ratio:.3f}".format(**row)


def _export(student: str, target: str, out: Path) -> Path:
    import torch

    torch.manual_seed(0)
    net = NETS[student]
    module, preprocessing = net.make().eval(), sdk.Preprocessing.square(net.size)
    labels = [str(label) for label in range(net.classes)]
    return sdk.export(module, target=target, precision="fp32", out=out, labels=labels, preprocessing=preprocessing).path


def _of_bundle(path: Path, calls: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    with sdk.Classifier(path) as classifier:
        classifier.warm_up()
        size = (classifier.input.height, classifier.input.width)
        pixels = draw.integers(0, 256, (*size, 3), np.uint8)
        after_warm_up = [_seconds(lambda: classifier.predict(pixels)) for _ in range(calls)]
        engine = _engine_call(classifier)
        photograph = _photograph(draw)

        def plainly() -> None:
            from PIL import Image

            image = Image.open(io.BytesIO(photograph)).convert("RGB")
            engine(np.asarray(crop(resize(image, classifier.input.resize), size))[None])

        return [
            _row(
                "predict, to the engine's call",
                *_turns(lambda: classifier.predict(pixels), lambda: engine(pixels[None]), calls),
            ),
            _row(
                "a 12-megapixel JPEG, to Pillow and the engine",
                *_turns(lambda: classifier.predict(photograph), plainly, 10),
            ),
            _row(
                "the first call after warm_up, to later ones",
                after_warm_up[0],
                statistics.median(after_warm_up[calls // 2 :]),
            ),
            *_loading(path),
        ]


def _loading(path: Path) -> list[dict[str, Any]]:
    """Compare loading a bundle with loading its files into the bare engine, and with the checks of the files alone."""
    bundle = sdk.Bundle.open(path)
    target, threads = bundle.target, usable_cores()
    load_bare(target)

    def ours() -> None:
        sdk.Classifier(path, threads=threads).close()

    def theirs() -> None:
        open_bare(target, path, threads, bundle.precision)

    size = f"{bundle.size_bytes / 1e6:.0f} MB"
    return [
        _row(f"loading {size}, to the bare engine", *_turns(ours, theirs, LOADS)),
        _row(f"checking {size}, to the bare engine", *_turns(lambda: sdk.Bundle.open(path), theirs, LOADS)),
    ]


def _engine_call(classifier: sdk.Classifier) -> Callable[[np.ndarray], object]:
    """Return the engine's own call on the session of the classifier, so that nothing else differs."""
    checked: Any = classifier._session._session
    session = checked._session
    assert classifier.bundle is not None
    target = classifier.bundle.target
    if target == "onnx":
        return lambda pixels: session._session.run(["probabilities"], {"pixels": pixels})
    if target == "openvino":
        return lambda pixels: session._one.infer([pixels])
    import torch

    return lambda pixels: session._forward([torch.from_numpy(pixels)])[0].numpy()


def _photograph(draw: np.random.Generator) -> bytes:
    """Return a JPEG like that of a camera: smooth, with noise."""
    from PIL import Image

    width, height = CAMERA
    smooth = Image.fromarray(draw.integers(0, 256, (30, 40, 3), np.uint8)).resize(CAMERA, Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, np.int16) + draw.normal(0, 4, (height, width, 1)).astype(np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _imports(code: str) -> dict[str, Any]:
    _process(code)  # writes the bytecode, as an installation does
    pairs = [(_process(code), _process("import numpy, PIL.Image")) for _ in range(IMPORTS)]
    ours, theirs = map(statistics.median, zip(*pairs, strict=True))
    return {"of": "any", **_row(f"{code}, to numpy and PIL.Image", ours, theirs)}


def _process(code: str) -> float:
    timed = f"import time; start = time.perf_counter()\n{code}\nprint(time.perf_counter() - start)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", timed], capture_output=True, check=True, env=environment)
    return float(done.stdout)


def _memory(bundle: Path) -> dict[str, Any]:
    """Compare the peak memory of two processes that predict one array: with `Classifier`, and with the engine alone."""
    peak = "\nprint([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    size = sdk.Bundle.open(bundle).input.height
    array = f"numpy.zeros((1, {size}, {size}, 3), numpy.uint8)"
    codes = (
        f"import numpy, sdk; sdk.Classifier({str(bundle)!r}).predict({array}[0])",
        f"import numpy, onnxruntime; session = onnxruntime.InferenceSession({str(bundle / 'model.onnx')!r}); "
        f"session.run(None, {{'pixels': {array}}})",
    )
    ours, theirs = (
        int(subprocess.run([sys.executable, "-c", code + peak], capture_output=True, check=True).stdout) / 1024
        for code in codes
    )
    return {**_row("memory of a process that predicted once", ours, theirs, unit="MiB")}


def _turns(ours: Callable[[], object], theirs: Callable[[], object], calls: int) -> tuple[float, float]:
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(calls)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _row(what: str, ours: float, theirs: float, *, unit: str = "ms") -> dict[str, Any]:
    factor = 1000 if unit == "ms" else 1
    return {
        "what": what,
        "ours": round(ours * factor, 4),
        "theirs": round(theirs * factor, 4),
        "unit": unit,
        "ratio": round(ours / theirs, 3),
    }


if __name__ == "__main__":
    main()
