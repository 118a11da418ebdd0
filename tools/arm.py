"""Build a system for aarch64 without being root, and check there, under qemu, that the SDK answers as it should.

    python tools/arm.py [PART ...]

The system is Debian 12 with its Python 3.11, the wheels of the base install and of the engines for aarch64, and a wheel
of this project. The parts are those of `tools/check_vectors.py`. Each runs in a process of its own, and `verify` runs
for each bundle. All lies in `.arm/`: what is there is not made again, so remove a folder in it to make that anew.

It needs Debian 12 on x86-64 with apt-get, the network, and 1.5 GB. qemu and a compiler for aarch64 are taken from the
path, or else from Debian's packages.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from check_vectors import HEAD, PIXELS, Row, shown

ROOT = Path(__file__).parents[1]
ARM = ROOT / ".arm"
VECTORS = ROOT / "spec" / "vectors"

SYSTEM = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6")
SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main"
APT = """
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "{folder}/lists";
Dir::State::status "{status}";
Dir::Cache "{folder}/cache";
"""

# ONNX Runtime 1.32 and 1.30 end with a segmentation fault when they are imported under the qemu 7.2 of Debian 12, with
# any model of a CPU that was tried (max, max without SVE, cortex-a53, cortex-a72, neoverse-n1). 1.27 works.
WHEELS = ("onnxruntime==1.27.*", "numpy", "pillow", "msgspec", "safetensors", "typer", "rich", "openvino>=2026.2")
EXECUTORCH = "executorch>=1.5.1,<1.6"
"""It is installed without what it requires, because only its Python module needs torch."""
PLATFORMS = ("manylinux_2_35_aarch64", "manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
TIMEOUT_S = 900

CPU = "cortex-a76"
"""The processor of a Raspberry Pi 5, for example: with the 8-bit dot product, and without SVE, SME and I8MM."""
PYTHON = """#!/bin/sh
exec {qemu} -cpu {cpu} -0 {self} -L {root} {root}/usr/bin/python3.11 "$@"
"""
"""Python starts itself again by the name in `-0`, as `verify` does: the kernel can't start a program for aarch64."""
COMPILER = """#!/bin/sh
export LD_LIBRARY_PATH={tools}/usr/lib/x86_64-linux-gnu
exec {tools}/usr/bin/aarch64-linux-gnu-g++ --sysroot={tools} "$@"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", metavar="PART", nargs="*")
    bundles = sorted(folder.name for folder in (VECTORS / "bundles").iterdir())
    parts = parser.parse_args().parts or [PIXELS, *bundles]
    build()
    print(HEAD, flush=True)
    failed = [part for part in parts if not check(part)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def build() -> None:
    """Make what is not in `.arm/` yet, and put the present state of this project in."""
    ARM.mkdir(exist_ok=True)
    once(ARM / "root", lambda folder: unpack(folder, "arm64", "/dev/null", SYSTEM))
    once(ARM / "site", install_wheels)
    missing = [
        package
        for program, package in (
            ("qemu-aarch64-static", "qemu-user-static"),
            ("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
        )
        if shutil.which(program) is None
    ]
    if missing:
        once(ARM / "tools", lambda folder: unpack(folder, "amd64", "/var/lib/dpkg/status", missing))
    qemu = shutil.which("qemu-aarch64-static") or ARM / "tools/usr/bin/qemu-aarch64-static"
    write_program(ARM / "python", PYTHON.format(qemu=qemu, cpu=CPU, self=ARM / "python", root=ARM / "root"))
    if "g++-aarch64-linux-gnu" in missing:
        write_program(ARM / "c++", COMPILER.format(tools=ARM / "tools"))
    shutil.rmtree(ARM / "project", ignore_errors=True)
    pip(ARM / "project", "--no-deps", str(ROOT))


def check(part: str) -> bool:
    """Run one part under qemu, print its line, and return whether it passed."""
    done = run(ROOT / "tools" / "check_vectors.py", "--json", part)
    if done.returncode:
        print(f"{part}: exit code {done.returncode}\n{done.stderr.strip()}", flush=True)
        return False
    row = msgspec.json.decode(done.stdout.splitlines()[-1], type=Row)
    print(shown(row), flush=True)
    if part == PIXELS:
        return row.difference == 0
    verified = run("-m", "libkd_sdk", "verify", VECTORS / "bundles" / part, "--timeout", TIMEOUT_S)
    if verified.returncode:
        print(verified.stderr.strip(), flush=True)
    return verified.returncode == 0


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the Python for aarch64, which sees the packages for aarch64 and none of this machine."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ARM / "project", ARM / "site"))),
        "PYTHONNOUSERSITE": "1",
        "XDG_CACHE_HOME": str(ARM / "cache"),
        "CXX": shutil.which("aarch64-linux-gnu-g++") or str(ARM / "c++"),
    }
    command = [str(ARM / "python"), *map(str, words)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False, cwd=ARM
    )


def once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder if it is not there. It gets its name when it is complete."""
    if folder.exists():
        return
    print(f"making {folder.relative_to(ROOT)}", file=sys.stderr, flush=True)
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    fill(new)
    new.rename(folder)


def unpack(folder: Path, architecture: str, status: str, packages: list[str] | tuple[str, ...]) -> None:
    """Download Debian's packages, with all that they need and `status` does not list, and unpack them into a folder."""
    apt = ARM / f"apt-{architecture}"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(SOURCE + "\n", encoding="utf-8")
    settings = apt / "apt.conf"
    settings.write_text(APT.format(architecture=architecture, folder=apt, status=status), encoding="utf-8")
    call("apt-get", "-q", "-c", settings, "update")
    call("apt-get", "-q", "-c", settings, "install", "--yes", "--download-only", *packages)
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        call("dpkg-deb", "-x", package, folder)


def install_wheels(folder: Path) -> None:
    """Install the wheels for aarch64."""
    chosen = ("--python-version", "3.11", "--only-binary=:all:", *(f"--platform={name}" for name in PLATFORMS))
    pip(folder, *chosen, *WHEELS)
    pip(folder, *chosen, "--no-deps", EXECUTORCH)


def pip(folder: Path, *words: str) -> None:
    call(sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *words)


def call(*words: str | Path) -> None:
    """Run a program whose output only matters if it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(map(str, words))}: exit code {done.returncode}")


def write_program(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)


if __name__ == "__main__":
    main()
