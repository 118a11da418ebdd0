"""The page of a comparison: every seed is a dot, whatever the arms are called."""

from __future__ import annotations

import re

from msgspec.structs import replace

from browser import HOSTILE, Read, as_unicode, stands_alone
from libkd_sdk.pages.comparison import Latencies, comparison_page, title
from sdk.benchmark import Speed
from trainer.comparison import ComparisonResult, Figures, Pair


def figures(*top1: float, stage: str = "") -> Figures:
    return Figures(
        stage=stage,
        parameters=360_000,
        top1=top1,
        mean=sum(top1) / len(top1),
        deviation=0.01 if len(top1) > 1 else None,
        validation=top1,
        ece=0.05,
        nll=0.9,
        seconds=60.0,
    )


def result(arms: dict[str, Figures]) -> ComparisonResult:
    first, *others = arms
    interval = (0.02, 0.06) if len(arms[first].top1) > 1 else None
    return ComparisonResult(
        data=("clothes",),
        recipe=None,
        images={"train": 7200, "validation": 800, "test": 2000},
        device="cpu",
        torch="2.14.0",
        seeds=tuple(range(len(arms[first].top1))),
        teachers={"conv": arms[first]},
        arms=arms,
        pairs=tuple(Pair(arm=name, other=first, difference=0.04, interval=interval) for name in others),
    )


def test_every_seed_is_a_dot_and_every_mean_has_its_deviation():
    html = comparison_page(result({"without teachers": figures(0.65, 0.66, 0.67), "all": figures(0.69, 0.7, 0.71)}))
    found = Read(html)
    assert stands_alone(html)
    assert found.classes.count("dot") == 6
    assert found.classes.count("tick") == found.classes.count("line") == 2
    assert found.classes.count("reference") == 2
    assert all(0 <= float(place) <= 100 for place in re.findall(r"left:([-\d.]+)%", html))
    assert {"66.00 ± 1.00", "70.00 ± 1.00"} <= set(found.of("b"))
    assert found.of("td").count("+4.00") == 2
    assert found.of("small") == ["± 1.00"] * 2 + ["± 1.00", "(+2.00 to +6.00)"] + ["(+2.00 to +6.00)"]


def test_a_single_seed_has_neither_deviation_nor_interval():
    html = comparison_page(result({"without teachers": figures(0.65), "all": figures(0.69)}))
    found = Read(html)
    assert "line" not in found.classes
    assert "±" not in found.text
    assert found.of("small") == []
    assert "1 seed:" in found.text


def test_names_of_arms_are_nothing_but_text():
    html = comparison_page(result({name: figures(0.65, 0.66) for name in HOSTILE}))
    found = Read(html)
    assert stands_alone(html)
    assert "img" not in found.tags
    assert {as_unicode(f"student, {name}") for name in HOSTILE} <= set(found.of("td"))
    assert set(map(as_unicode, HOSTILE)) <= set(found.of("span"))


def test_unlabelled_images_are_counted_in_the_title():
    found = result({"without teachers": figures(0.65)})
    assert "7,200 training images, judged by 2,000 others" in title(found)
    found.images["unlabelled"] = 5000
    assert "7,200 training images and 5,000 without labels" in title(found)


def speed(ms: float) -> Speed:
    quartiles = {"p25_ms": 0.9 * ms, "p50_ms": ms, "p75_ms": 1.1 * ms, "p95_ms": 2 * ms, "p99_ms": 3 * ms}
    return Speed(calls=60, per_second=1000 / ms, load_ms=9, peak_bytes=None, **quartiles)


def test_teachers_and_students_are_in_one_plot_of_accuracy_by_latency():
    arms = {"all": figures(0.69, 0.7, 0.71, stage="student"), "<plain>": figures(0.65, 0.66, 0.67, stage="arms/plain")}
    found = replace(result(arms), teachers={"conv": figures(0.74, 0.75, 0.76, stage="teachers/conv")})
    speeds = {"teachers/conv": speed(4.0), "student": speed(0.5), "arms/plain": speed(0.5)}
    html = comparison_page(found, Latencies("ONNX Runtime", speeds))
    read = Read(html)
    assert stands_alone(html)
    assert html.count("<svg") == 1
    assert all(f">{number}</text>" in html for number in (1, 2, 3))
    assert {"teacher conv", "student, all", "student, <plain>"} <= set(read.of("span"))
    assert {"75.00 %, 4.00 ms", "70.00 %, 0.50 ms", "66.00 %, 0.50 ms"} <= set(read.of("small"))
    assert "a bundle for ONNX Runtime at fp32 on one thread of this device" in read.text
    assert "varied too much" not in read.text
    wild = {**speeds, "student": replace(speeds["student"], p75_ms=5.0)}
    assert "varied too much" in Read(comparison_page(found, Latencies("ONNX Runtime", wild))).text


def test_without_latencies_the_page_has_no_plot_of_them():
    html = comparison_page(result({"without teachers": figures(0.65, 0.66)}))
    assert "<svg" not in html
    assert "Top-1 by latency" not in html
