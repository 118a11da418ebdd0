"""The cores of the example apps for phones, compiled with the harness in tests/examples/phones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILERS = ROOT / ".phones"
HARNESS = ROOT / "tests" / "examples" / "phones"
KOTLIN_CORE = ROOT / "examples" / "android" / "core" / "src" / "main" / "kotlin" / "com" / "example" / "libkd" / "core"
SWIFT_CORE = ROOT / "examples" / "ios" / "Core" / "Sources" / "LibkdCore"
JAVA = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")  # starts fastest
TRIPLE = "x86_64-pc-linux-gnu"


class Program:
    """A core with its harness, which answers commands."""

    def __init__(self, command: list[str | Path]) -> None:
        self._command = command

    def answers(self, commands: Iterable[Iterable[object]]) -> list[list[str]]:
        """Return the words of the answer to each command: the first is `ok` or an error's code."""
        lines = ["\t".join(map(str, words)) for words in commands]
        done = subprocess.run(self._command, input="\n".join(lines) + "\n", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        answers = [line.split("\t") for line in done.stdout.splitlines()]
        assert len(answers) == len(lines), done.stdout
        return answers


def compiled(language: str, folder: Path) -> Program:
    """Compile the core of a language, with warnings as errors; skip the test where its compiler is missing."""
    if not (COMPILERS / language / "ready").exists():
        pytest.skip(f"no compiler for {language}; `make .phones/{language}/ready` installs one")
    return _kotlin(folder) if language == "kotlin" else _swift(folder)


def _kotlin(folder: Path) -> Program:
    if not shutil.which("java"):
        pytest.skip("no Java; `apt-get install openjdk-17-jre-headless` installs one")
    jars = COMPILERS / "kotlin" / "node_modules" / "kotlin-compiler" / "lib"
    compiler = os.pathsep.join(map(str, sorted(jars.glob("*.jar"))))
    main = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
    sources = [*sorted(KOTLIN_CORE.glob("*.kt")), HARNESS / "Harness.kt"]
    _run([*JAVA, "-cp", compiler, main, "-Werror", "-no-reflect", "-d", folder, *sources])
    classes = os.pathsep.join(map(str, (folder, jars / "kotlin-stdlib.jar")))
    return Program([*JAVA, "-cp", classes, "com.example.libkd.harness.HarnessKt"])


def _swift(folder: Path) -> Program:
    """Compile with a toolchain that is not installed: its programs run on its own C library, which they are given."""
    root = COMPILERS / "swift"
    home, libraries = root / "usr" / "libexec" / "swift", root / "usr" / "lib" / "x86_64-linux-gnu"
    gcc, runtime = root / "usr" / "lib" / "gcc" / "x86_64-linux-gnu" / "14", home / "lib" / "swift" / "linux"
    loader = libraries / "ld-linux-x86-64.so.2"
    start: list[str | Path] = [loader, "--library-path", os.pathsep.join(map(str, (libraries, runtime)))]

    front: list[str | Path] = [*start, home / "bin" / "swift-frontend", "-frontend", "-c", "-O", "-warnings-as-errors"]
    front += ["-target", TRIPLE, "-sdk", root, "-resource-dir", runtime.parent, "-module-cache-path", folder / "cache"]
    core, harness, module = folder / "core.o", folder / "harness.o", folder / "LibkdCore.swiftmodule"
    whole: list[str | Path] = ["-parse-as-library", "-module-name", "LibkdCore", "-emit-module-path", module]
    _run([*front, *sorted(SWIFT_CORE.glob("*.swift")), *whole, "-o", core])
    _run([*front, HARNESS / "main.swift", "-module-name", "harness", "-I", folder, "-o", harness])

    program = folder / "harness"
    linker: list[str | Path] = [*start, home / "bin" / "lld", "-flavor", "gnu", "-pie", "-dynamic-linker", loader]
    linker += [libraries / "Scrt1.o", libraries / "crti.o", gcc / "crtbeginS.o", runtime / "x86_64" / "swiftrt.o"]
    linker += [core, harness, *(f"-L{place}" for place in (runtime, libraries, gcc))]
    linker += ["-lswiftCore", "-lswift_Concurrency", "-lswift_StringProcessing", "-lswiftGlibc", "-lm", "-lc"]
    _run([*linker, gcc / "crtendS.o", libraries / "crtn.o", "-o", program])
    return Program([*start, program])


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
