"""The Markdown files of the project, and the snippets in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    sorted(
        (
            *ROOT.glob("*.md"),
            *ROOT.glob("docs/*.md"),
            *ROOT.glob("spec/*.md"),
            *(page for page in ROOT.glob("examples/**/*.md") if "node_modules" not in page.parts),
            *ROOT.glob("benchmarks/**/*.md"),
            *ROOT.glob("bindings/*/*.md"),
        )
    )
)

_FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^ *```$", re.M | re.S
)


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        language: what stands after the fence, for example `bash`.
        mark: the comment on the line before, which says why `tests/docs` does not run it, or "".
        line: the line of its first fence.
    """

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a `bash` block, without comments and with continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


def name(page: Path) -> str:
    """Return the path of a page, as people know it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return all fenced blocks of a page but for the directives of MyST."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        if fence["language"].startswith("{"):
            continue
        lines = (line.removeprefix(fence["indent"]) for line in fence["text"].splitlines(keepends=True))
        line = text.count("\n", 0, fence.start("indent")) + 1
        found.append(Block(page, line, fence["language"].strip(), fence["mark"] or "", "".join(lines)))
    return found
