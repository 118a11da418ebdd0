"""Compare the two ways to call ExecuTorch: through its C++ runtime, and through its Python module, which needs torch.

    python benchmarks/executorch_runtime.py [--threads 2] [--rounds 5] [--calls 200] [--json]

The bundle is the student at 32 pixels, at fp32 and int8, with random weights. Each process opens the bundle and
predicts; the processes of both ways take turns, and medians count. Start-up is the time until the bundle is open,
without that of Python and numpy. Memory is what the process has resident at its end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WAYS = ("native", "torch")
PRECISIONS = ("fp32", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_measured(arguments.child, arguments.bundle, arguments.threads, arguments.calls)))
        return
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            bundle, found = _export(precision, Path(folder)), dict[str, list[dict[str, float]]]()
            for _ in range(arguments.rounds):
                for way in WAYS:
                    command = [sys.executable, __file__, "--child", way, "--bundle", str(bundle)]
                    command += ["--threads", str(arguments.threads), "--calls", str(arguments.calls)]
                    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                    found.setdefault(way, []).append(json.loads(done.stdout))
            for way in WAYS:
                medians = {name: statistics.median(one[name] for one in found[way]) for name in found[way][0]}
                rows.append({"precision": precision, "way": way, **medians})
                if not arguments.json:
                    print(
                        "{precision} {way:<6} start {start_s:.2f} s, {memory_mb:.0f} MB, {call_ms:.3f} ms".format(
                            **rows[-1]
                        )
                    )
    if arguments.json:
        print(json.dumps(rows, indent=2))


def _export(precision: str, folder: Path) -> Path:
    import torch

    import sdk
    from trainer.models import Student

    torch.manual_seed(0)
    return sdk.export(
        Student(classes=100, teachers=2, size=32).eval(),
        target="executorch",
        precision=precision,
        out=folder / precision,
        labels=[str(label) for label in range(100)],
        preprocessing=sdk.Preprocessing.square(32),
        calibration=np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
        if precision == "int8"
        else None,
    ).path


def _measured(way: str, path: Path, threads: int, calls: int) -> dict[str, Any]:
    started = time.perf_counter()
    if way == "torch":
        from runtimes.executorch import library

        vars(library)["native_runtime"] = lambda: library.NativeRuntime(None, "the other way is measured")
    from sdk import Bundle

    bundle = Bundle.open(path)
    session = bundle.session(threads)
    start_s = time.perf_counter() - started
    image = np.random.default_rng(0).integers(0, 256, (1, bundle.input.height, bundle.input.width, 3), np.uint8)
    seconds = []
    for _ in range(calls):
        before = time.perf_counter()
        session.run(image)
        seconds.append(time.perf_counter() - before)
    assert ("torch" in sys.modules) == (way == "torch")
    resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return {
        "start_s": start_s,
        "memory_mb": int(resident.split()[1]) / 1024,
        "call_ms": 1000 * statistics.median(seconds[calls // 4 :]),
    }


if __name__ == "__main__":
    main()
