"""Print the lowest versions that pyproject.toml allows for the base install and the extra `sign`, as pip's constraints.

python tools/lowest.py > lowest.txt
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest() -> list[str]:
    """Return the constraints, such as `numpy==1.26`."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["sign"]]
    return [re.sub(r">=([\d.]+).*", r"==\1", requirement) for requirement in requirements]


if __name__ == "__main__":
    print("\n".join(lowest()))
