"""The page of a run: one file that any browser reads as it was meant, whatever the class names are."""

from __future__ import annotations

import dataclasses
import re
import stat
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from libkd_sdk.pages.page import Html, Section, markup, page, paragraph, table, tag, write_page
from libkd_sdk.pages.run import run_report
from trainer.findings import Answer, Findings, Reliability, Sample, Stage
from trainer.units import duration, size

HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror='alert(2)'>", "$\\frac{", "näh/garn 布 &amp;", "\udcff")
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
VOID = {"meta", "img", "br", "path", "use"}


class Read(HTMLParser):
    """What a browser gets out of a page; a tag that is closed in the wrong place is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.links += [value for name, value in attrs if name.split(":")[-1] in ("src", "href", "data", "action")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


def invented(labels: tuple[str, ...], teachers: int = 2, size: int = 24, plain: bool = True) -> Findings:
    """Findings that nobody measured, of nets that are right about seven times in ten."""
    draw, classes = np.random.default_rng(0), len(labels)
    results = {split: {"images": 90, "top1": 0.7, "nll": 0.9, "ece": 0.05} for split in ("validation", "test")}
    curve = {"loss": [2.0, 1.5, 1.2], "validation_top1": [0.3, 0.6, 0.7], "lr": [1e-3, 5e-4, 1e-5]}
    teacher = [f"teachers/net{number}" for number in range(teachers)]
    kinds = [*((stage, "teacher") for stage in teacher), ("student", "student"), *[("arms/plain", "plain")] * plain]
    accuracy = {stage: draw.uniform(0.4, 1, classes) for stage in (*teacher, "student")}
    accuracy["student"][-1] = np.nan
    count = np.array([0] * 5 + [9] * 10)
    bins = Reliability(np.linspace(0, 1, 15), np.where(count, np.linspace(0.1, 0.9, 15), np.nan), count, 0.08)
    samples = [
        Sample(
            f"test/{labels[label]}/{number}.png",
            draw.integers(0, 256, (size, size, 3), np.uint8),
            label,
            {stage: Answer(int(draw.integers(classes)), 0.8) for stage in accuracy},
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
        confusion=draw.poisson(0.3, (classes, classes)) + 20 * np.eye(classes, dtype=np.int64),
        class_accuracy=accuracy,
        before=bins,
        after=dataclasses.replace(bins, ece=0.02),
        temperature=1.3,
        samples=tuple(samples),
        mode="replay",
        store_bytes=3_000_000,
        store_seconds=150.0,
        recipe='seed = 7\n[teachers.net0]\nmodel = "<b>"\n',
        data=("/somewhere/pictures",),
        pictures={"train": 900, "validation": 90, "test": 90},
        skipped=tuple(f"{label}: not a picture" for label in labels),
        versions={"torch": "2.14.0", "device": "cpu"},
    )


@pytest.mark.parametrize("labels", [HOSTILE, tuple(f"{number}{HOSTILE[number % 5]}" for number in range(100))])
def test_class_names_are_nothing_but_text(labels):
    found = Read(run_report(invented(labels)))
    assert "script" not in found.tags
    assert found.tags.count("img") == 24
    assert found.of("h2") == SECTIONS
    shown = {text.encode("utf-8", "replace").decode() for text in labels}
    assert shown <= set(found.of("td"))
    assert '"<b>"' in "".join(found.of("pre"))


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_page_needs_nothing_but_itself(classes):
    html = run_report(invented(tuple(f"class {number}" for number in range(classes))))
    links = Read(html).links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert not re.search(r"@import|url\((?!#)", html)
    anchors = {link for link in links if link.startswith("#section")}
    assert len(anchors) == len(SECTIONS)
    assert all(f'id="{anchor[1:]}"' in html for anchor in anchors)


def test_a_hundred_classes_and_large_pictures_make_a_file_that_can_be_mailed():
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
    better = {split: {**figures, "top1": 0.825} for split, figures in taught.stages[0].results.items()}
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
    assert "stored answers" not in html


def test_time_and_storage_are_summed_over_all_stages():
    cells = Read(run_report(invented(("a", "b")))).texts
    place = cells.index(("b", "together"))
    assert [text for _, text in cells[place : place + 3]] == ["together", "4.5 min", "9.4 MB"]


def test_the_same_findings_make_the_same_page():
    assert run_report(invented(HOSTILE)) == run_report(invented(HOSTILE))


def test_a_page_is_of_any_sections():
    html = page("Bundles & engines", [], [Section("Speed", [paragraph("p50 < 3 ms"), table(["", "ms"], [["a", "1"]])])])
    found = Read(html)
    assert found.of("title", "h1") == ["Bundles & engines"] * 2
    assert found.of("p", "td") == ["p50 < 3 ms", "a", "1"]
    assert 'class="number">1<' in html


def test_text_is_escaped_once_and_markup_never():
    assert markup("a<b") == "a&lt;b"
    assert markup(markup("a<b")) == "a&lt;b"
    assert tag("p", "<", Html("<br>"), title='"') == '<p title="&quot;">&lt;<br></p>'


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write_page(path, "<p>ä")
    assert path.read_text(encoding="utf-8") == "<p>ä"
    with pytest.raises(UnicodeEncodeError):
        write_page(path, "half\udcff")
    assert path.read_text(encoding="utf-8") == "<p>ä"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.stat().st_mode & stat.S_IRUSR


def test_the_readers_own_matplotlib_settings_do_not_matter(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsvg.fonttype: path\nbackend: TkAgg\n")
    program = "from libkd_sdk.pages.page import drawing, axes; print(drawing(lambda canvas: axes(canvas, 'epoch', 'loss'), 'curve'))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"MPLCONFIGDIR": str(tmp_path)}
    )
    assert ">epoch</text>" in done.stdout, done.stderr


def test_importing_it_does_not_load_matplotlib():
    program = "import sys, libkd_sdk.pages.page; print({'matplotlib', 'trainer', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_figures_are_given_in_units_that_fit():
    assert [size(count) for count in (999, 1_600_000, 3e12)] == ["999 bytes", "1.6 MB", "3 TB"]
    assert [duration(seconds) for seconds in (0.05, 45, 600, 7200)] == ["0.1 s", "45 s", "10 min", "2.0 h"]
