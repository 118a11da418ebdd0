"""The page of a benchmark: each bundle can be told from the others, whatever engine it is for."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from browser import HOSTILE, Read, as_unicode, stands_alone
from libkd_sdk.pages.benchmark import apart, benchmark_report, engine_colour, unsteady
from libkd_sdk.pages.tradeoff import Point, front, tradeoff
from runtimes.engines import ENGINES, RUNNABLE
from sdk.benchmark import Measurement, Speed

SPEED = Speed(
    calls=200,
    p25_ms=1.2,
    p50_ms=1.25,
    p75_ms=1.3,
    p95_ms=1.9,
    p99_ms=2.5,
    per_second=900,
    load_ms=80,
    peak_bytes=120_000_000,
)


def measured(
    target: str,
    precision: str = "fp32",
    *,
    bundle: str = "run/bundles",
    top1: float | None = 0.881,
    judged_on: str | None = "2,000 images of 10 classes, for a net trained on clothes",
):
    return Measurement(
        bundle=f"{bundle}/{target}-{precision}",
        name="clothes",
        target=target,
        precision=precision,
        threads=2,
        arch="vit-conv8-96x4",
        input_size=28,
        size_bytes=1_720_000,
        speed=SPEED,
        bare=SPEED,
        top1=top1,
        judged_on=judged_on,
    )


ALL = [measured(target, precision) for target in RUNNABLE for precision in ("fp32", "int8")]


def test_every_point_and_bar_is_named():
    html = benchmark_report(ALL, None)
    found = Read(html)
    for number, it in enumerate(ALL, 1):
        way = f"{ENGINES[it.target].title} {it.precision}"
        assert f">{number}</text>" in html  # in the scatter plot
        assert f"<b>{number}</b><span>{it.bundle}<small>{way}, {it.arch}</small></span>" in html  # the key beside it
        assert found.of("span").count(f"{number} {way}") == 3  # latency, size, memory
    assert stands_alone(html)
    assert html.count("<svg") == 1
    assert html.count('class="strips"') == 3


def test_names_of_bundles_are_nothing_but_text():
    html = benchmark_report([measured("onnx", bundle=name) for name in HOSTILE], list(HOSTILE))
    assert stands_alone(html)
    for name in HOSTILE:
        assert as_unicode(f"{name}/onnx-fp32") in Read(html).of("span")
    assert as_unicode(", ".join(HOSTILE)) in Read(html).text


def test_an_engine_s_colour_is_its_own_and_an_unknown_one_is_grey(monkeypatch):
    assert len({engine_colour(name) for name in ENGINES}) == len(ENGINES)
    monkeypatch.setitem(ENGINES, "fake", ENGINES["onnx"]._replace(title="Fake", colour="purple"))
    monkeypatch.setitem(ENGINES, "odd", ENGINES["onnx"]._replace(title="Odd", colour="mauve"))
    assert engine_colour("fake") == "purple"
    assert engine_colour("odd") == engine_colour("nowhere") == "grey"
    html = benchmark_report([*ALL, measured("fake"), measured("odd"), measured("nowhere")], None)
    assert {"7 Fake fp32", "8 Odd fp32", "9 nowhere fp32"} <= set(Read(html).of("span"))
    assert "--mark:var(--purple)" in html


def test_times_that_vary_too_much_are_said_to_mean_little():
    assert unsteady(ALL) == ""
    assert "vary too much" not in Read(benchmark_report(ALL, None)).text
    for quartiles in ({"p75_ms": 1.6}, {"p25_ms": 0.9}):
        wild = replace(ALL[1], speed=replace(SPEED, **quartiles))
        html = benchmark_report([ALL[0], wild], None)
        assert "The times of 2 vary too much to be compared: their quartiles are more than 25% away" in Read(html).text
        assert "1.25 ms (unsteady)" in Read(html).of("td")


def test_without_accuracy_or_memory_the_page_leaves_them_out():
    unknown = Speed(calls=1, p25_ms=1, p50_ms=1, p75_ms=1, p95_ms=1, p99_ms=1, per_second=1, load_ms=1, peak_bytes=None)
    plain = measured("onnx", top1=None)
    html = benchmark_report([Measurement(**{**_fields(plain), "speed": unknown, "bare": None})], None)
    assert "<svg" not in html
    assert "the engine alone" not in Read(html).of("td")
    assert "Peak memory" not in html


def _fields(it: Measurement) -> dict[str, object]:
    return {name: getattr(it, name) for name in it.__struct_fields__}


@pytest.mark.parametrize("places", [(0.8812, 0.8793), (0.12501, 0.12549)])
def test_accuracies_that_differ_little_have_readable_axes(places):
    html = benchmark_report([measured("onnx", top1=top1) for top1 in places], None)
    labels = [text for text in Read(html).of("text") if text.replace(".", "").isdigit()]
    assert max(map(len, labels)) <= 6


def test_only_bundles_that_were_judged_on_the_same_images_are_in_the_plot():
    other = measured("onnx", bundle="other", judged_on="500 images of 10 classes, for a net trained on clothes")
    found = [other, *ALL[:2], measured("onnx", bundle="unproved", top1=None, judged_on=None)]
    unknown, elsewhere = apart(found)
    assert unknown.startswith("No top-1 is known of 4: no labelled images were there at the export.")
    assert elsewhere.startswith("The top-1 of 1 is of other images (500 images of 10 classes, for a net trained on")
    assert "than that of 2, 3 (2,000 images of 10 classes" in elsewhere
    html = benchmark_report(found, None)
    assert {unknown, elsewhere} <= set(Read(html).of("p"))
    assert [f"<b>{number}</b><span>" in html for number in (1, 2, 3, 4)] == [False, True, True, False]
    assert ">3</text>" in html
    assert apart(ALL) == []


def point(number: int, ms: float, top1: float) -> Point:
    return Point(number, replace(SPEED, p25_ms=0.99 * ms, p50_ms=ms, p75_ms=1.01 * ms), top1, "blue", 0.01)


def test_the_front_has_the_nets_that_no_other_one_beats():
    points = [point(1, 4.0, 0.9), point(2, 1.0, 0.7), point(3, 2.0, 0.7), point(4, 2.0, 0.8), point(5, 9.0, 0.9)]
    assert [it.number for it in front(points)] == [2, 4, 1]
    svg = tradeoff(points)
    assert all(f">{number}</text>" in svg for number in range(1, 6))


@pytest.mark.parametrize(
    ("low", "high", "numbers"),
    [
        (1.25, 1.26, ["1", "2"]),
        (1.0, 9.0, ["0.5", "1", "2", "5", "10"]),
        (0.004, 3000.0, ["0.01", "0.1", "1", "10", "100", "1000"]),
    ],
)
def test_latencies_are_on_a_logarithmic_axis_with_a_few_round_numbers(low, high, numbers):
    svg = tradeoff([point(41, low, 0.5), point(42, high, 0.6)])
    assert re.findall(r">([^<]+)</text>", svg.partition("latency (ms)")[0]) == numbers
