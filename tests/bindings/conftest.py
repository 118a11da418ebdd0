"""The npm package, compiled once for all tests of it."""

from __future__ import annotations

import pytest

from javascript import compiled


@pytest.fixture(scope="session")
def package(made_once) -> None:
    made_once("javascript", lambda folder: compiled())
