"""The reader in C++, compiled once for all test processes."""

from __future__ import annotations

import pytest

import cpp_reader


@pytest.fixture(scope="session")
def libkd(made_once) -> cpp_reader.Program:
    """The program with every engine."""
    cpp_reader.skip_without_tools()
    return cpp_reader.program(made_once("cpp", cpp_reader.build))


@pytest.fixture(scope="session")
def sanitized(made_once) -> cpp_reader.Program:
    """The program with ExecuTorch, which stops at the first error of memory and at undefined behaviour."""
    cpp_reader.skip_without_tools()
    settings = ("-DLIBKD_SANITIZE=ON", "-DLIBKD_OPENVINO=OFF")
    return cpp_reader.program(made_once("cpp-sanitized", lambda folder: cpp_reader.build(folder, *settings)))
