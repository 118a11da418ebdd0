"""The page people look at: sections of text, tables and pictures as one HTML file that opens offline and runs nothing.

All text is escaped where it comes in: only `Html` goes into a page as it is.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from sdk.images import Pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
"""By name, on light and on dark paper. Those of lines can be told apart by the colour-blind (after Okabe and Ito)."""

THUMBNAIL = 96


class Html(str):
    """Markup, which goes into a page as it is."""

    __slots__ = ()


class Section(NamedTuple):
    """A part of a page, under a heading of its own."""

    title: str
    parts: Sequence[Html]


def markup(text: str) -> Html:
    """Text as markup; what is markup already stays as it is. File names that are no Unicode become so."""
    return text if isinstance(text, Html) else Html(escape(text.encode("utf-8", "replace").decode()))


def join(parts: Iterable[str]) -> Html:
    return Html("".join(map(markup, parts)))


def tag(name: str, *content: str, **attributes: str) -> Html:
    """An element. An attribute's `_` stands for `-`, and `class_` for `class`."""
    said = "".join(f' {key.rstrip("_").replace("_", "-")}="{markup(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{said}>{join(content)}</{name}>")


def paragraph(text: str) -> Html:
    return tag("p", text)


def details(summary: str, *content: str) -> Html:
    """What is folded away until it is asked for."""
    return tag("details", tag("summary", summary), *content)


def tiles(facts: Iterable[tuple[str, str, str]]) -> Html:
    """What matters most: name, value, and a note on it."""
    return tag(
        "div",
        *(tag("div", tag("span", name), tag("strong", value), tag("small", note)) for name, value, note in facts),
        class_="tiles",
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> Html:
    """A table whose first columns are `texts`, aligned left; the others are numbers, aligned right."""
    kinds = ["text" if index < texts else "number" for index in range(len(columns))]
    head = tag("tr", *(tag("th", name, scope="col", class_=kind) for name, kind in zip(columns, kinds, strict=True)))
    body = (tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows)
    return wide(tag("table", tag("thead", head), tag("tbody", *body)))


def wide(content: Html) -> Html:
    """Scrolls by itself where the screen is narrower."""
    return tag("div", content, class_="wide", tabindex="0")


def bar(text: str, share: float, colour: str = "blue") -> Html:
    """A number with a bar of that share of the cell under it; no bar for NaN."""
    length = f"width:{100 * min(1.0, share):.1f}%;background:var(--{colour})" if math.isfinite(share) else "width:0"
    return tag("span", text, tag("i", tag("i", style=length)), class_="bar")


def picture(pixels: Pixels, description: str) -> Html:
    """uint8 [height, width, 3] as a PNG, larger ones made smaller."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Html(f'<img src="data:image/png;base64,{data}" alt="{markup(description)}">')


def figure(drawing: Html, caption: str) -> Html:
    return tag("figure", tag("figcaption", caption), drawing)


def figures(*drawn: Html) -> Html:
    """Side by side as far as there is room."""
    return tag("div", *drawn, class_="figures")


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """Names and their colours."""
    return tag(
        "p",
        *(tag("span", tag("i", style=f"background:var(--{colour})"), name) for name, colour in entries),
        class_="legend",
    )


_MATPLOTLIB = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "text.color": COLOURS["ink"][0],
    "axes.labelcolor": COLOURS["ink"][0],
    "axes.edgecolor": COLOURS["faint"][0],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": COLOURS["line"][0],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["faint"][0],
    "ytick.color": COLOURS["faint"][0],
    "xtick.labelcolor": COLOURS["ink"][0],
    "ytick.labelcolor": COLOURS["ink"][0],
    "font.size": 9,
}


def drawing(draw: Callable[[Figure], None], description: str, inches: tuple[float, float] = (3.5, 2.5)) -> Html:
    """What `draw` puts on a matplotlib figure, as SVG whose colours, if they are of `COLOURS`, suit the reader's paper.

    No text of others belongs in there: matplotlib has not the letters of every language.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with style.context(["default", _MATPLOTLIB]):
        canvas = Figure(figsize=inches, layout="constrained")
        draw(canvas)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        canvas.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)  # as large as the page has room
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure, and nothing points at them
    for name, (colour, _) in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Html(svg.replace("<svg", f'<svg role="img" aria-label="{markup(description)}"', 1))


def axes(canvas: Figure, x: str, y: str) -> Axes:
    """The only axes of a figure, named."""
    found = canvas.subplots()
    found.set_xlabel(x)
    found.set_ylabel(y)
    return found


_STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:66rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.75rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--line)}
p{margin:.4rem 0 .8rem;max-width:46rem}
a{color:var(--blue)}
header p,small,figcaption,summary,.legend{color:var(--faint)}
nav a{text-decoration:none}
nav{font-size:.9rem;display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin-top:1rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;margin:1.25rem 0}
.tiles>div{background:var(--panel);border-radius:.5rem;padding:.8rem 1rem;display:flex;flex-direction:column}
.tiles span{font-size:.85rem;color:var(--faint)}
.tiles strong{font-size:1.4rem;line-height:1.45;font-weight:600}
.tiles small{font-size:.8rem;line-height:1.35}
.wide{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
.wide>table{min-width:min(100%,36rem)}
th,td{padding:.35rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th:first-child,td:first-child{padding-left:0}
th:last-child,td:last-child{padding-right:0}
thead th{font-weight:500;color:var(--faint);vertical-align:bottom}
.number{text-align:right;white-space:nowrap}
td.text{max-width:18rem;overflow-wrap:break-word}
.bar{display:inline-block;min-width:5.5rem}
.bar>i{display:block;height:.28rem;margin-top:.15rem;background:var(--line);border-radius:.2rem;overflow:hidden}
.bar>i>i{display:block;height:100%}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:1rem 1.5rem}
figure{margin:.5rem 0;max-width:34rem}
figcaption{font-size:.9rem;margin-bottom:.25rem}
svg{display:block;width:100%;height:auto}
svg text{font-family:inherit!important}
svg image,.cards img{image-rendering:pixelated}
.legend{font-size:.9rem;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem}
.legend i{display:inline-block;width:1.1rem;height:.25rem;border-radius:.2rem;margin-right:.4rem;vertical-align:middle}
.confusion{font-size:.85rem}
.confusion th,.confusion td{padding:.3rem .45rem;border:1px solid var(--paper);text-align:center;min-width:2.6rem}
.confusion thead th{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;max-height:12rem}
.confusion tbody th{text-align:right;font-weight:500;max-width:12rem;overflow-wrap:break-word}
.confusion tbody th,.confusion thead td{position:sticky;left:0;background:var(--paper)}
.confusion td{background:var(--panel)}
.confusion thead td{color:var(--faint);white-space:nowrap;text-align:right;vertical-align:bottom;line-height:1.3}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:.75rem}
.cards>div{overflow:hidden;background:var(--panel);border-radius:.5rem;padding:.75rem;font-size:.85rem}
.cards header{display:flex;gap:.7rem;align-items:center;margin-bottom:.4rem;overflow-wrap:anywhere}
.cards img{width:4.5rem;height:4.5rem;object-fit:contain;border-radius:.25rem;flex:none}
.cards table{width:100%;font-size:inherit}
.cards td{padding:.15rem .3rem;border:0;overflow-wrap:anywhere}
.cards td:nth-child(2){width:100%}
.cards td:first-child{color:var(--faint);overflow-wrap:break-word}
.right{color:var(--green)}
.wrong{color:var(--orange)}
pre{background:var(--panel);border-radius:.5rem;padding:1rem;overflow-x:auto;font-size:.85rem;line-height:1.45}
summary{cursor:pointer}
@media print{nav{display:none}h2{break-after:avoid}figure,tr{break-inside:avoid}}
"""

_LIGHT, _DARK = (";".join(f"--{name}:{pair[tone]}" for name, pair in COLOURS.items()) for tone in (0, 1))
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A browser keeps to this whatever is in the page: no script runs, nothing is loaded."""
_HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="color-scheme" content="light dark">'
    f"<style>:root{{{_LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{_DARK}}}}}{_STYLE}</style>"
)


def page(title: str, introduction: Sequence[Html], sections: Sequence[Section]) -> str:
    """A whole HTML file: a heading, what comes first, and the sections with links to them."""
    names = [f"section-{number}" for number in range(1, len(sections) + 1)]
    links = (tag("a", section.title, href=f"#{name}") for name, section in zip(names, sections, strict=True))
    bodies = (
        tag("section", tag("h2", section.title), *section.parts, id=name)
        for name, section in zip(names, sections, strict=True)
    )
    body = tag("main", tag("header", tag("h1", title), *introduction, tag("nav", *links)), *bodies)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{_HEAD}{tag("title", title)}</head><body>{body}</body></html>\n'


def write_page(path: Path, html: str) -> None:
    """Write the file whole, or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(html, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def percent(share: float) -> str:
    return f"{share:.1%}" if math.isfinite(share) else "-"
