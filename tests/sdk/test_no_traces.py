"""Nothing that the SDK does reaches the network, or leaves a file outside of the folders that it is given."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from runtimes.engines import RUNNABLE
from runtimes.executorch.library import native_runtime

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows sockets and files"),
]

CALLS = "socket,connect,bind,sendto,sendmsg,openat,open,creat,mkdir,mkdirat,link,linkat,symlink,symlinkat,mknod,rename"
INSIDE = {"AF_UNIX", "AF_LOCAL"}
"""The kinds of sockets that do not leave the machine: the C library asks for the name of the user through one."""

HARMLESS = re.compile(r"/dev/(null|tty|shm/sem\.\S+)|/proc/self/\S+")
"""Files in no folder: a semaphore of multiprocessing is one for a moment, and then has no name."""

OPENED = re.compile(r'\b(?:openat\([^,]+, |open\()"(?P<path>[^"]*)", (?P<flags>[A-Z_|]+)')
MADE = re.compile(r'\b(?:creat|mkdir|mkdirat|link|linkat|symlink|symlinkat|mknod|rename)\(.*"(?P<path>[^"]*)"')


class Traces(NamedTuple):
    """The native calls of a process and its children.

    Attributes:
        sockets: the kinds of sockets that they opened.
        written: the files and folders that they made, or opened for writing.
        left: what is in the home folder and in the folder for temporary files afterwards.
    """

    sockets: set[str]
    written: set[Path]
    left: list[str]


def traces(command: list[object], folder: Path) -> Traces:
    home, temporary, log = folder / "home", folder / "temporary", folder / "calls"
    for path in (home, temporary):
        path.mkdir()
    if compiled := native_runtime().functions:  # the library that is made once; see tests/runtimes
        shutil.copytree(Path(compiled._name).parent, home / "xdg_cache_home" / "libkd-sdk")
    before = set(home.rglob("*"))
    places = {
        name: str(home / name.lower())
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")
    }
    cleared = ("ORT_DISABLE_TELEMETRY", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in cleared}
    environment |= {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1", **places}
    watched = ["strace", "-f", "-qq", "-s", "4096", "-e", f"trace={CALLS}", "-o", log, *command]
    process = subprocess.run(list(map(str, watched)), capture_output=True, env=environment, timeout=300, check=False)
    assert process.returncode == 0, process.stderr.decode()
    sockets, written = set(), set()
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if " = -1 " in line:
            continue
        if found := re.search(r"\bsocket\((\w+)", line):
            sockets.add(found[1])
        made = MADE.search(line)
        opened = OPENED.search(line)
        if opened and {"O_WRONLY", "O_RDWR", "O_CREAT"} & set(opened["flags"].split("|")):
            made = opened
        if made:
            written.add(Path(made["path"]))
    left = [str(path) for place in (home, temporary) for path in sorted(place.rglob("*")) if path not in before]
    return Traces(sockets, {path for path in written if not HARMLESS.fullmatch(str(path))}, left)


def check(found: Traces, *given: Path) -> None:
    """Assert that there was no network, and that only the given folders, and files in them, were written."""
    assert found.sockets <= INSIDE
    assert found.left == []
    assert [path for path in found.written if not any(path.is_relative_to(place) for place in given)] == []


def python(code: str) -> list[object]:
    return [sys.executable, "-c", code]


def libkd(*arguments: object) -> list[object]:
    return [sys.executable, "-m", "libkd_sdk", *arguments]


def test_the_watch_sees_what_it_looks_for(tmp_path):
    code = "import socket, pathlib; socket.socket(); pathlib.Path.home().joinpath('trace').write_text('')"
    found = traces(python(code), tmp_path)
    assert found.sockets == {"AF_INET"}
    assert found.written == {tmp_path / "home" / "trace"}
    assert found.left == [str(tmp_path / "home" / "trace")]


def test_importing(tmp_path):
    check(traces(python("import sdk, libkd_sdk, libkd_sdk.main, sdk.classifier, sdk.benchmark, trainer"), tmp_path))


@pytest.mark.parametrize("target", RUNNABLE)
def test_predicting(target, bundles, tmp_path):
    code = (
        "import numpy, sdk, time\n"
        f"with sdk.Classifier({str(bundles[target].path)!r}, threads=2, self_test=True) as classifier:\n"
        "    image = numpy.zeros((50, 50, 3), numpy.uint8)\n"
        "    classifier.predict(image), classifier.predict_batch([image] * 3), list(classifier.stream([image] * 3))\n"
        "time.sleep(1)\n"  # ONNX Runtime would report to its makers from a thread
    )
    check(traces(python(code), tmp_path))


@pytest.mark.parametrize("target", RUNNABLE)
def test_verifying(target, bundles, tmp_path):
    check(traces(libkd("verify", bundles[target].path, "--json"), tmp_path))


def test_measuring_with_a_page(bundles, tmp_path):
    (tmp_path / "given").mkdir()
    options = ("--rounds", 1, "--calls", 1, "--report", tmp_path / "given" / "speed.html")
    check(
        traces(libkd("benchmark", bundles["openvino"].path, *options), tmp_path),
        tmp_path / "given",
        tmp_path / "temporary",
    )


def test_distilling(clothes, tiny_recipe_file, tmp_path):
    run = tmp_path / "given" / "run"
    command = libkd("distill", "--data", clothes, "--out", run, "--recipe", tiny_recipe_file)
    check(traces(command, tmp_path), run.parent, tmp_path / "temporary")


@pytest.mark.long
@pytest.mark.parametrize("target", RUNNABLE)
def test_exporting(target, distilled, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(distilled, given / "run")
    command = libkd(
        "export", given / "run", "--target", target, "--precision", "int8", "--max-drop", 10, "--out", given / "bundle"
    )
    check(traces(command, tmp_path), given, tmp_path / "temporary")
