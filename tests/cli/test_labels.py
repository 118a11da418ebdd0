"""Files of labels: text with one a line and JSON in three forms, as editors and tools write them."""

from __future__ import annotations

import codecs
import json
import os

import pytest

from libkd_sdk.labels import read_labels
from sdk.errors import UsageError


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("cat\ndog\n", ("cat", "dog")),
        ("cat\r\ndog", ("cat", "dog")),
        ("  cat \t\ndog\n\n\n", ("cat", "dog")),
        ("\ufeffcat\ndog\n", ("cat", "dog")),
        ('\ufeff["cat", "dog"]', ("cat", "dog")),
        ("a\u2028b\nc\x85d\n\u00a0e\n", ("a\u2028b", None, "\u00a0e")),
        ("crane\ncrane\n", ("crane", "crane")),
        ('{"0": "cat", "1": "dog"}', ("cat", "dog")),
        ('{"1": "dog", "0": "cat"}', ("cat", "dog")),
        ('{"0": "crane", "1": "crane"}', ("crane", "crane")),
        ('{"0": "1", "1": "0"}', ("1", "0")),
        ('{"dog": 1, "cat": 0}', ("cat", "dog")),
        ('{"0": 0, "1": 1}', ("0", "1")),
        (
            json.dumps({str(number): f"label {number}" for number in range(1000)}),
            tuple(f"label {n}" for n in range(1000)),
        ),
    ],
)
def test_every_form_is_read(tmp_path, content, labels):
    path = tmp_path / "labels"
    if None in labels:  # C1 characters end a line for some programs; no bundle may hold one
        path.write_text(content, encoding="utf-8", newline="")
        with pytest.raises(UsageError, match=r"number 1 is 'c\\x85d': .* not printable"):
            read_labels(path)
        content, labels = content.replace("c\x85d\n", ""), (labels[0], labels[2])
    path.write_text(content, encoding="utf-8", newline="")
    assert read_labels(path) == labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b" \n\n", "it is empty"),
        (b"[]", "it is empty"),
        (b"{}", "it is empty"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"\ncat\ndog\n", "line 1 is empty"),
        (b"cat\nd\xff\n", "line 2 is not UTF-8; save it as UTF-8"),
        ("cat\ndog\n".encode("utf-16"), "UTF-16, or no text; save it as UTF-8"),
        (codecs.BOM_UTF16_BE + "cat\n".encode("utf-16-be"), "UTF-16, or no text"),
        ("cat\ndog\n".encode("utf-16-le"), "UTF-16, or no text"),
        (b'["cat", 1]', "number 1 is 1, no text"),
        (b'["cat", null]', "number 1 is null, no text"),
        (b'["cat", ""]', "number 1 is '': empty"),
        (b'["cat", "\\ud800"]', "number 1 is .*not printable"),
        (b'["cat", "two\\nlines"]', "number 1 is .*not printable"),
        (b"cat\tfeline\ndog", "number 0 is .*not printable"),
        (b'["cat",', "can't be read as labels"),
        (b'{"0": "cat", "2": "dog"}', "2 numbers, but 1 is not among them; they are 0 to 1"),
        (b'{"1": "cat", "2": "dog"}', "2 numbers, but 0 is not among them"),
        (b'{"0": "cat", "0": "dog"}', "'0' is there twice"),
        (b'{"00": "cat", "1": "dog"}', "neither from numbers to labels nor"),
        ('{"\u0660": "cat", "1": "dog"}'.encode(), "neither from numbers to labels nor"),
        (b'{"0": ["n01440764", "tench"]}', "number 0 is .*tench.*, no text"),
        (b'{"cat": 0, "dog": 0}', "'cat' and 'dog' have the same number, 0"),
        (b'{"cat": 0, "dog": 2}', "2 numbers, but 1 is not among them"),
        (b'{"cat": 0, "cat": 1}', "'cat' is there twice"),
        (b'{"cat": -1, "dog": 0}', "1 is not among them"),
        (b'{"0": 1, "1": 0}', "numbers on both sides"),
        (b'{"cat": true, "dog": 0}', "neither from numbers to labels nor"),
        (b'{"id2label": {"0": "cat"}}', "neither from numbers to labels nor"),
        (b"[" * 100_000, "can't be read as labels"),
        (b'{"cat": ' + b"9" * 5000 + b"}", "can't be read as labels"),
    ],
)
def test_a_file_that_is_not_clear_gets_one_line(tmp_path, content, message):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}: can't be read as labels (")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "pipe"):
        with pytest.raises(UsageError, match=rf"{path}: can't be read as labels .*one a line"):
            read_labels(path)
