"""All pages have this in common: escaping, sections, charts, and how they are written."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import resources

import pytest

from browser import HOSTILE, Read, as_unicode, stands_alone
from libkd_sdk.pages import page
from libkd_sdk.pages.charts import TICKS, Lane, Mark, axes, drawing, strips
from libkd_sdk.pages.page import Cell

ANY = """
{% extends "base.html" %}
{% import "parts.html" as parts %}
{% block introduction %}{{ parts.tiles(tiles) }}{% endblock %}
{% block sections %}
{% call section(heading) %}<p>{{ text }}</p>{{ parts.table(columns, rows) }}{{ parts.facts(facts) }}{% endcall %}
{% call section("Legend") %}{{ parts.legend([(text, "blue")]) }}{{ parts.strips(text, chart) }}{% endcall %}
{% endblock %}
"""


def shown(text: str, heading: str = "Speed", rows: list[list[str | Cell]] | None = None) -> str:
    """Return a page that shows a text in each of its parts."""
    template = page._environment().from_string(ANY)
    html = template.render(
        section=page._Sections(),
        title=text,
        tiles=[page.Tile(text, text, text)],
        heading=heading,
        text=text,
        columns=["", "ms"],
        rows=rows or [[text, Cell(text, note=text, share=0.5)], [Cell(text, note=text, strong=True), text]],
        facts=[(text, text)],
        chart=strips("ms", [Lane(text, text, [Mark("dot", 1, 1, "blue")])]),
    )
    return as_unicode(html)


def test_a_page_has_any_sections():
    found = Read(shown("p50 < 3 ms", "Speed & size", [["a", "1"]]))
    assert found.of("title", "h1") == ["p50 < 3 ms"] * 2
    assert found.of("h2") == found.of("a") == ["Speed & size", "Legend"]
    assert found.links == ["#section-1", "#section-2"]
    assert found.of("p", "td") == ["p50 < 3 ms", "a", "1"]
    assert 'class="number">1<' in shown("", rows=[["a", "1"]])


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_escaped_once_in_every_part(text):
    html = shown(text, text)
    found = Read(html)
    assert stands_alone(html)
    assert "img" not in found.tags
    assert set(found.of("h1", "h2", "p", "td", "dt", "dd", "span", "strong", "small", "figcaption", "b")) == {
        as_unicode(text),
        as_unicode(text) + " (ms)",
        "Legend",
    }


def test_no_template_switches_escaping_off():
    names = {file.name for file in resources.files("libkd_sdk.pages").joinpath("templates").iterdir()}
    assert names == {"base.html", "parts.html", "run.html", "comparison.html", "benchmark.html"}
    assert page._environment().autoescape is True
    for name in names:
        source = resources.files("libkd_sdk.pages").joinpath("templates", name).read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", source)


def test_a_name_that_a_template_does_not_know_is_an_error():
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        page.render("comparison.html", title="without its values")


def test_the_browser_may_run_and_load_nothing():
    assert f'<meta http-equiv="Content-Security-Policy" content="{page.POLICY.replace(chr(39), "&#39;")}">' in shown("")
    assert page.POLICY.startswith("default-src 'none'")


def test_the_readers_own_matplotlib_settings_do_not_matter(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsvg.fonttype: path\nbackend: TkAgg\n")
    program = (
        "from libkd_sdk.pages.charts import drawing, axes; "
        "print(drawing(lambda canvas: axes(canvas, 'epoch', 'loss'), 'curve'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"MPLCONFIGDIR": str(tmp_path)}
    )
    assert ">epoch</text>" in done.stdout, done.stderr


def test_importing_it_does_not_load_matplotlib():
    program = (
        "import sys, libkd_sdk.pages.page, libkd_sdk.pages.charts, libkd_sdk.pages.benchmark, "
        "libkd_sdk.pages.comparison; print({'jinja2', 'matplotlib', 'trainer', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("values", [[0.00012, 0.00498], [0.1251, 0.1279], [3.0, 4.0], [1e6, 9e6]])
def test_axes_have_few_short_numbers(values):
    svg = drawing(lambda canvas: axes(canvas, "epoch", "rate").plot([1, 2], values), "rates")
    numbers = re.findall(r">(-?[\d.e+]+)</text>", svg)
    assert 4 <= len(numbers) <= 2 * TICKS
    assert all(number == f"{float(number):.6g}" for number in numbers)


def test_strips_hold_all_their_marks_and_zero_if_asked():
    lanes = [Lane("a", "1", [Mark("bar", 0, 40, "blue"), Mark("tick", 30, 30, "grey")]), Lane("b", "2", [])]
    chart = strips("ms", lanes, zero=True)
    assert [(mark.left, mark.width) for mark in chart.lanes[0].marks] == [(0.0, 96.15), (72.12, 0.0)]
    assert chart.ticks[0] == ("0", 0.0)
    narrow = strips("%", [Lane("a", "", [Mark("dot", 70.1, 70.1, "blue")])], reference=70.0)
    assert 0 < narrow.reference < narrow.lanes[0].marks[0].left < 100
    alone = strips("%", [Lane("a", "", [Mark("dot", 0, 0, "blue")])])
    assert 0 < alone.lanes[0].marks[0].left < 100
