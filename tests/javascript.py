"""Node and the packages of `bindings/js`, for tests; a test whose tool is missing is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bindings" / "js"
VECTORS = ROOT / "spec" / "vectors"
RUNTIME = PACKAGE / "node_modules" / "onnxruntime-web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

needs_packages = pytest.mark.skipif(
    shutil.which("node") is None or not (PACKAGE / "node_modules" / ".package-lock.json").exists(),
    reason="needs Node 20 or newer with npm, and `make javascript`",
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; Debian: apt-get install chromium")


def node(
    *arguments: object, cwd: Path = PACKAGE, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Node and return what it wrote; `env` is added to the environment."""
    command = ["node", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=300
    )


def compiled() -> None:
    """Compile the TypeScript sources of the package as they are now."""
    done = node(PACKAGE / "node_modules" / "typescript" / "bin" / "tsc", "--project", "tsconfig.json")
    assert done.returncode == 0, done.stdout


def passes(file: str, **environment: str) -> None:
    """Assert that all tests of a file in `bindings/js/test` pass."""
    done = node("--test", "--test-reporter=tap", f"test/{file}", env=environment)
    failed = [line for line in done.stdout.splitlines() if "not ok" in line or "error:" in line]
    assert done.returncode == 0, "\n".join(failed) or done.stdout + done.stderr
    assert "\n# fail 0\n" in done.stdout
    assert "\n# skipped 0\n" in done.stdout
