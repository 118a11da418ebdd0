"""The page of a run: one file that any browser reads as it was meant, whatever the class names are."""

from __future__ import annotations

import dataclasses
import re

import msgspec
import numpy as np
import pytest

from browser import HOSTILE, Read, as_unicode, stands_alone
from libkd_sdk.pages.run import FEW, run_report
from trainer.evaluate import Score, Scores
from trainer.findings import Answer, Findings, Kind, Reliability, Sample, Stage
from trainer.units import duration, size

SECTIONS = [
    "Accuracy of every stage",
    "Time and storage",
    "Curves",
    "Accuracy of every class",
    "Confusion",
    "Reliability",
    "Sample predictions",
    "Data",
    "Recipe",
    "Versions",
]


def invented(
    labels: tuple[str, ...], teachers: int = 2, size: int = 24, plain: bool = True, each: int = 20
) -> Findings:
    """Return findings that nobody measured, of nets that are right about seven times in ten.

    Each class has at least `each` test images, and so has each bin that is not empty.
    """
    draw, classes = np.random.default_rng(0), len(labels)
    score = Score(images=90, top1=0.7, nll=0.9, ece=0.05)
    results = Scores(validation=score, test=score)
    curve = {"loss": [2.0, 1.5, 1.2], "validation_top1": [0.3, 0.6, 0.7], "lr": [1e-3, 5e-4, 1e-5]}
    teacher = [f"teachers/net{number}" for number in range(teachers)]
    kinds: list[tuple[str, Kind]] = [(stage, "teacher") for stage in teacher]
    kinds += [("student", "student")]
    kinds += [("arms/plain", "plain")] if plain else []
    accuracy = {stage: draw.uniform(0.4, 1, classes) for stage in (*teacher, "student")}
    accuracy["student"][-1] = np.nan
    count = np.array([0] * 5 + [each] * 10)
    bins = Reliability(np.linspace(0, 1, 15), np.where(count, np.linspace(0.1, 0.9, 15), np.nan), count, 0.08)
    samples = [
        Sample(
            f"test/{labels[label]}/{number}.png",
            draw.integers(0, 256, (size, size, 3), np.uint8),
            label,
            {stage: Answer(int(draw.integers(classes)), 0.8) for stage, _ in kinds},
        )
        for number, label in enumerate(draw.integers(0, classes, 24).tolist())
    ]
    return Findings(
        run="run",
        labels=labels,
        stages=tuple(
            Stage(stage, stage.split("/")[-1], kind, "a net", 400_000, 30.0, 1_600_000, results, curve)
            for stage, kind in kinds
        ),
        confusion=draw.poisson(0.3, (classes, classes)) + each * np.eye(classes, dtype=np.int64),
        class_accuracy=accuracy,
        before=bins,
        after=dataclasses.replace(bins, ece=0.02),
        temperature=1.3,
        samples=tuple(samples),
        mode="replay",
        store_bytes=3_000_000,
        store_seconds=150.0,
        recipe='seed = 7\n[teachers.net0]\nmodel = "<b>"\n',
        data=("/somewhere/images",),
        images={"train": 900, "validation": 90, "test": 90},
        majority={"validation": 0.25, "test": 0.3},
        caveats=("student is no better than a coin",),
        skipped=tuple(f"{label}: not an image" for label in labels),
        versions={"torch": "2.14.0", "device": "cpu"},
    )


@pytest.mark.parametrize("labels", [HOSTILE, tuple(f"{number}{HOSTILE[number % 5]}" for number in range(100))])
def test_class_names_are_nothing_but_text(labels):
    found = Read(run_report(invented(labels)))
    assert "script" not in found.tags
    assert found.tags.count("img") == 24
    assert found.of("h2") == SECTIONS
    assert set(map(as_unicode, labels)) <= set(found.of("td"))
    assert '"<b>"' in "".join(found.of("pre"))


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_page_needs_nothing_but_itself(classes):
    html = run_report(invented(tuple(f"class {number}" for number in range(classes))))
    links = Read(html).links
    assert stands_alone(html)
    anchors = {link for link in links if link.startswith("#section")}
    assert len(anchors) == len(SECTIONS)
    assert all(f'id="{anchor[1:]}"' in html for anchor in anchors)


def test_a_hundred_classes_and_large_images_make_a_file_that_can_be_mailed():
    html = run_report(invented(tuple(f"class {number}" for number in range(100)), teachers=4, size=512))
    assert len(html) < 2e6


def test_few_classes_have_their_counts_in_the_confusion_and_many_their_worst_pairs():
    few = invented(tuple("abcdefghij"))
    counts = [f"{count:,}" for count in few.confusion.flatten().tolist() if count]
    cells = "".join(re.findall(r'class="confusion">(.*?)</table>', run_report(few), re.S))
    assert re.findall(r">([\d,]+)</td>", cells) == counts

    many = invented(tuple(f"class {number}" for number in range(30)))
    many.confusion[3, 17] = 1234
    texts = Read(run_report(many)).of("td")
    place = texts.index("1,234")
    assert texts[place - 2 : place] == ["class 3", "class 17"]
    assert texts[place + 1] == f"{1234 / many.confusion[3].sum():.1%}"


def test_what_matters_most_stands_first():
    taught = invented(("a", "b"))
    better = {split: msgspec.structs.replace(score, top1=0.825) for split, score in taught.stages[0].results.items()}
    stages = [
        dataclasses.replace(stage, results=better) if stage.name == "student" else stage for stage in taught.stages
    ]
    tiles = Read(run_report(dataclasses.replace(taught, stages=tuple(stages)))).of("strong")
    assert tiles == ["82.5%", "+12.5 points", "70.0%", "0.40 M", "2.0%"]
    assert Read(run_report(invented(("a", "b"), plain=False))).of("strong") == ["70.0%", "70.0%", "0.40 M", "2.0%"]


def test_a_run_that_stored_nothing_says_so():
    online = dataclasses.replace(invented(("a", "b")), mode="online", store_bytes=None, store_seconds=None)
    html = run_report(online)
    assert "Nothing is stored: the teachers answered while the student learned" in html
    assert "stored logits" not in html


def test_time_and_storage_are_summed_over_all_stages():
    cells = Read(run_report(invented(("a", "b")))).texts
    place = cells.index(("b", "sum"))
    assert [text for _, text in cells[place : place + 4]] == [
        "sum",
        "stages side by side take less",
        "4.5 min",
        "9.4 MB",
    ]


def test_the_same_findings_make_the_same_page():
    assert run_report(invented(HOSTILE)) == run_report(invented(HOSTILE))


def test_figures_are_given_in_units_that_fit():
    assert [size(count) for count in (999, 1_600_000, 3e12)] == ["999 bytes", "1.6 MB", "3 TB"]
    assert [duration(seconds) for seconds in (0.05, 45, 600, 7200)] == ["0.1 s", "45 s", "10 min", "2.0 h"]


def test_every_sample_shows_the_name_of_its_file():
    run = invented(HOSTILE)
    assert set(Read(run_report(run)).of("small")) >= {as_unicode(sample.name) for sample in run.samples}


@pytest.mark.parametrize("name", [*HOSTILE, "train/" + "x" * 4000 + ".png", "two\nlines\x07.png"])
def test_a_mistake_is_shown_under_the_name_of_its_file_whatever_that_is(name):
    run = invented(("a", "b"))
    html = run_report(dataclasses.replace(run, samples=(dataclasses.replace(run.samples[0], name=name),)))
    read = Read(html)
    assert stands_alone(html)
    assert as_unicode(name) in read.of("small")
    assert "script" not in read.tags


def test_a_sample_shows_what_every_net_says():
    run = invented(("a", "b"), teachers=2)
    nets = [
        text for tag, text in Read(run_report(dataclasses.replace(run, samples=run.samples[:1]))).texts if tag == "td"
    ]
    place = nets.index("without teachers")
    assert [nets[place - 3 * back] for back in (3, 2, 1)] == ["net0", "net1", "student"]


def test_a_narrow_screen_shows_the_accuracy_first():
    columns = Read(run_report(invented(("a", "b")))).of("th")
    assert columns[0] == "test top-1"


def test_few_images_are_said_and_drawn_as_few():
    run = invented(tuple("abcde"), each=FEW - 10)
    few, step = Read(run_report(run)), 100 / run.confusion.sum(1).min()
    assert few.text.count(f"Every class has fewer than {FEW} test images") == 1
    assert f"In the smallest, one image more or less is {step:.3g} points." in few.text
    assert f"Hatched bins hold fewer than {FEW} of the" in few.text
    assert "10 of 10 bins before, 10 of 10 bins after." in few.text
    assert few.classes.count("few") == 3 * 5 + 5  # bars of three nets, rows of the confusion

    html = run_report(invented(tuple("abcde"), each=FEW))
    many = Read(html)
    assert "fewer than" not in many.text
    assert "few" not in many.classes
    assert "<pattern" in run_report(run)
    assert "<pattern" not in html


def test_what_a_few_images_can_not_carry_is_not_drawn():
    run = invented(tuple("abcde"), each=4)
    run.class_accuracy["student"][-1] = 0.5
    read = Read(run_report(run))
    assert "few" not in read.classes
    assert "Every class has fewer than 10 test images: too few to tell which classes are confused." in read.text
    assert "test images are too few to tell how often the student is right by how sure it is" in read.text
    assert "confusion" not in read.classes
    counts = set(run.confusion.sum(1).tolist())
    cells = [re.fullmatch(r"\d+ of (\d+)", text) for text in read.of("td")]
    assert {int(cell[1]) for cell in cells if cell} == counts
    assert read.of("h2") == SECTIONS


def test_the_baseline_and_what_the_figures_do_not_say_stand_beside_them():
    read = Read(run_report(invented(("a", "b"))))
    cells = [text for _, text in read.texts]
    place = cells.index("always the largest class")
    assert cells[place + 1 : place + 3] == ["30.0%", "25.0%"]
    assert "student is no better than a coin." in read.text
    assert "always the largest class: 30.0%" in read.text


def test_a_gain_that_chance_reaches_says_so():
    taught = invented(("a", "b"))
    assert "chance alone reaches" in Read(run_report(taught)).text  # both students are equally good
    better = {split: msgspec.structs.replace(score, top1=0.99) for split, score in taught.stages[0].results.items()}
    stages = [
        dataclasses.replace(stage, results=better) if stage.name == "student" else stage for stage in taught.stages
    ]
    assert "chance alone" not in Read(run_report(dataclasses.replace(taught, stages=tuple(stages)))).text


def test_a_student_without_a_temperature_has_one_diagram():
    run = dataclasses.replace(invented(tuple("abcde"), each=FEW), temperature=1.0)
    text = Read(run_report(run)).text
    assert "No temperature was applied" in text
    assert "Before its temperature" not in text


def test_one_class_with_few_images_is_named_as_one():
    run = invented(("a", "b"), each=FEW)
    run.confusion[1] = [2, 8]
    text = Read(run_report(run)).text
    assert f"One class has fewer than {FEW} test images" in text
    assert "one image more or less is 10 points" in text


def test_a_class_without_test_images_is_no_reason_to_divide_by_zero():
    run = invented(("a", "b"), each=FEW)
    run.confusion[1] = 0
    assert f"One class has fewer than {FEW} test images" in Read(run_report(run)).text


def test_the_confusion_says_how_many_images_a_class_has():
    run = invented(("a", "b"))
    counts = [f"({count:,})" for count in run.confusion.sum(1).tolist()]
    assert [text for text in Read(run_report(run)).of("small") if text.startswith("(")] == counts
