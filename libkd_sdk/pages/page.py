"""Render a template as one HTML file that opens offline and runs nothing.

The templates are in `templates/`, their look is in `style.css`. Jinja2 escapes every text that comes into a page; only
`markupsafe.Markup`, which `charts` and the templates make, goes in as it is. Importing this module loads no Jinja2,
because the base installation has none.
"""

from __future__ import annotations

import base64
import io
import math
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from sdk.images import Pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Environment
    from markupsafe import Markup

COLOURS = {
    "paper": ("#ffffff", "#14181d"),
    "panel": ("#f4f6f8", "#1d232a"),
    "ink": ("#1f2933", "#dfe5ec"),
    "faint": ("#5c6875", "#9aa6b4"),
    "line": ("#d3dae1", "#38424d"),
    "blue": ("#0a6cab", "#5fb4ef"),
    "orange": ("#c2540a", "#f09a5a"),
    "green": ("#0d8566", "#43c6a1"),
    "purple": ("#9b4489", "#d592c7"),
    "yellow": ("#8f6e0b", "#dcbb4b"),
    "grey": ("#75818d", "#8a96a3"),
}
"""Each colour by its name, on light and on dark paper. Colour-blind readers can tell lines apart (after Okabe, Ito)."""

ALWAYS_THE_LARGEST = "always the largest class"
"""The name of the baseline beside accuracies: a model that gives the same answer to every image."""

THUMBNAIL = 96

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The content security policy: a browser runs no script and loads nothing, whatever is in the page."""


class Tile(NamedTuple):
    """One of the few numbers that matter most, with a note under it."""

    name: str
    value: str
    note: str


class Cell(NamedTuple):
    """A cell of a table that is more than a text.

    Attributes:
        note: small text under the first one.
        share: length of the bar under the text, from 0 to 1; None or NaN draws no bar.
        colour: of the bar, a name in `COLOURS`.
        few: whether so few images stand behind the number that the bar is hatched.
    """

    text: str
    note: str = ""
    strong: bool = False
    share: float | None = None
    colour: str = "blue"
    few: bool = False

    @property
    def length(self) -> str | None:
        """The bar's length as CSS, or None without a bar."""
        if self.share is None:
            return None
        return f"{100 * min(1.0, self.share):.1f}%" if math.isfinite(self.share) else "0"


def render(template: str, **content: object) -> str:
    """Return a whole page.

    Args:
        template: a file name in `templates/`.
        content: the values that the template shows. Characters that are no valid Unicode, as in some file names, are
            replaced by question marks.
    """
    html = _environment().get_template(template).render(section=_Sections(), **content)
    return html.encode("utf-8", "replace").decode()


def thumbnail(pixels: Pixels) -> str:
    """Return uint8 [height, width, 3] as a `data:` address of a PNG of at most `THUMBNAIL` pixels a side."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def percent(share: float) -> str:
    """Return a share of 1 in percent, `-` for NaN."""
    return f"{share:.1%}" if math.isfinite(share) else "-"


def millions(count: int) -> str:
    """Return a number of parameters in millions."""
    return f"{count / 1e6:.2f} M"


class _Sections:
    """Makes the sections of one page and remembers their titles, so that the page can link to them."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def __call__(self, title: str, caller: Callable[[], Markup]) -> Markup:
        """Return the section that a template writes as `{% call section(title) %}...{% endcall %}`."""
        from markupsafe import Markup

        self.titles.append(title)
        return Markup('<section id="section-{}"><h2>{}</h2>\n{}</section>\n').format(len(self.titles), title, caller())


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    light, dark = (";".join(f"--{name}:{pair[tone]}" for name, pair in COLOURS.items()) for tone in (0, 1))
    colours = f":root{{{light}}}\n@media(prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    environment.globals |= {"style": Markup(colours + style), "policy": POLICY}
    return environment
