"""Nets that learned nothing, classes with few test images and differences by chance are said beside accuracies."""

from __future__ import annotations

import pytest

from trainer.caveats import caveats, reach, uncertain
from trainer.comparison import Pair, paired
from trainer.evaluate import Score

LABELS = ("cat", "dog", "emu")


def score(top1: float, majority: float | None = 0.5, answered: int | None = 3) -> Score:
    return Score(images=60, top1=top1, nll=1.0, ece=0.1, majority=majority, answered=answered)


def test_a_good_net_on_enough_images_has_none():
    assert caveats({"student": score(0.9)}, LABELS, [20, 10, 30]) == []
    assert caveats({"student": score(0.9, None, None)}, LABELS, [20, 10, 30]) == []  # a record of an earlier version


def test_a_net_that_answers_one_class_only_is_named():
    (line,) = caveats({"student": score(0.9), "teacher conv": score(0.5, answered=1)}, LABELS, [20, 20, 20])
    assert line == "teacher conv gives one answer to all 60 test images: it does not tell the classes apart"


def test_a_net_that_is_no_better_than_a_constant_is_named():
    (line,) = caveats({"student": score(0.5)}, LABELS, [20, 20, 20])
    assert line == "student is no better than a model that always answers the largest class (50.0%)"


def test_classes_with_few_test_images_are_counted_and_the_smallest_are_named():
    (line,) = caveats({}, LABELS, [9, 10, 3])
    assert line == "2 of 3 classes have fewer than 10 test images (emu 3, cat 9): their accuracies say little"
    (line,) = caveats({}, "abcd", [1, 2, 3, 4])
    assert "(a 1, b 2, c 3, ...)" in line


def test_chance_reaches_far_with_few_images():
    assert reach(0.5, 100) == pytest.approx(0.098)
    assert reach(1.0, 100) == 0


def test_differences_within_their_interval_are_counted():
    clear, unclear = (0.0, 0.2), (-0.1, 0.3)
    pairs = [Pair(arm="b", other="a", difference=0.1, interval=it) for it in (clear, unclear, (0.05, 0.15))]
    assert uncertain(pairs[2:]) == ""
    assert uncertain(pairs).startswith("2 of 3 differences are smaller than the reach of their interval")
    assert uncertain(paired({"a": [0.5], "b": [0.6]})) == ""  # one seed has no interval
