"""Shared by the tests of the pages: a strict reader of HTML, and names that try to break out of their place."""

from __future__ import annotations

import re
from html.parser import HTMLParser

HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror='alert(2)'>", "$\\frac{", "näh/garn 布 &amp;", "\udcff")
VOID = {"meta", "img", "br", "path", "use"}


def as_unicode(text: str) -> str:
    """Return a text as a page shows it: question marks replace what is no valid Unicode."""
    return text.encode("utf-8", "replace").decode()


class Read(HTMLParser):
    """The content that a browser reads from a page; a tag that is closed in the wrong place is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.classes: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.links += [value or "" for name, value in attrs if name.split(":")[-1] in ("src", "href", "data", "action")]
        self.classes += [word for name, value in attrs if name == "class" for word in (value or "").split()]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, *tags: str) -> list[str]:
        """Return the texts that stand directly in these elements."""
        return [text for tag, text in self.texts if tag in tags]

    @property
    def text(self) -> str:
        """All text of the page, with single spaces."""
        return " ".join(" ".join(text for tag, text in self.texts if tag != "style").split())


def stands_alone(html: str) -> bool:
    """Return whether a page loads nothing and runs nothing."""
    found = Read(html)
    inside = all(link.startswith(("#", "data:image/png;base64,")) for link in found.links)
    return inside and "script" not in found.tags and not re.search(r"@import|url\((?!#)", html)
