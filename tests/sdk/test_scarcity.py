"""Machines that lack something: memory, a folder for temporary files, names in UTF-8; and no word on stderr."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patterns import LABELS, SIZE
from programs import run
from runtimes.engines import RUNNABLE
from runtimes.errors import import_failure
from sdk import Bundle, Classifier, EngineError, EngineMissing

NO_FOLDER = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"


@pytest.mark.slow
@pytest.mark.parametrize("target", RUNNABLE)
def test_without_a_folder_for_temporary_files_it_predicts(target, bundles):
    program = NO_FOLDER + (
        "import sys, numpy, sdk\n"
        "with sdk.Classifier(sys.argv[1], self_test=True) as classifier:\n"
        "    print(len(classifier.predict_batch([numpy.zeros((40, 40, 3), numpy.uint8)] * 3)))\n"
        "print(sdk.verify(sys.argv[1]).golden)\n"
    )
    assert run(program, bundles[target].path, TMPDIR="/nowhere") == "3\n12\n"


@pytest.mark.parametrize("target", RUNNABLE)
def test_an_image_that_may_not_be_written_is_predicted_without_a_word(target, bundles, capfd):
    """This is what `numpy.asarray` of a Pillow image is."""
    image = np.asarray(Image.new("RGB", (SIZE, SIZE)))
    assert not image.flags.writeable
    with Classifier(bundles[target].path) as classifier:
        capfd.readouterr()  # ExecuTorch tells about the processor when it is first loaded
        assert classifier.predict(image).label in LABELS
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_too_little_memory_is_not_called_a_missing_package(bundles):
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1536 * 2**20,) * 2)\n"
        "import sdk\n"
        "for _ in range(2):\n"
        "    try: sdk.Classifier(sys.argv[1], threads=1)\n"
        "    except sdk.EngineError as fault: print(type(fault).__name__, fault)\n"
    )
    for line in run(program, bundles["executorch"].path).splitlines():
        assert line.startswith("EngineError ExecuTorch: too little memory to load a library (")
        assert "pip install" not in line


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (ModuleNotFoundError("No module named 'a'", name="a"), EngineMissing, "X: a is not installed; pip install"),
        (ModuleNotFoundError("No module named 'a.b'", name="a.b"), EngineError, "(No module named 'a.b'); pip install"),
        (ModuleNotFoundError("No module named '_lzma'", name="_lzma"), EngineError, "(No module named '_lzma')"),
        (ImportError("a.so: undefined symbol: f"), EngineError, "can't be loaded (a.so: undefined symbol: f)"),
        (ImportError("a.so: failed to map segment from shared object"), EngineError, "too little memory"),
        (OSError("a.so: cannot allocate memory in static TLS block"), EngineError, "too little memory"),
        (MemoryError(), EngineError, "too little memory to load a library (MemoryError)"),
        (RuntimeError("function 'f' already has a docstring\nmore"), EngineError, "already has a docstring); pip"),
    ],
)
def test_a_failed_import_says_why(fault, kind, text):
    found = import_failure("X", fault, "[train]")
    assert type(found) is kind
    assert text in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "openvino", pytest.param("executorch", marks=pytest.mark.long)])
def test_a_path_that_is_not_utf_8(target, bundles, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such name")
    for name, content in Bundle.open(bundles[target].path).contents.items():
        (folder / name).write_bytes(content)
    program = (
        "import os, sys, numpy, sdk; from sdk.benchmark import measure\n"
        "with sdk.Classifier(sys.argv[1], self_test=True) as classifier:\n"
        "    print(classifier.predict(numpy.zeros((40, 40, 3), numpy.uint8)).label is not None)\n"
        "print(sdk.verify(sys.argv[1]).golden, measure([sys.argv[1]], rounds=1, calls=1)[0].bare.calls)\n"
        "os.chdir(sys.argv[1]); os.truncate(os.listdir()[0], 9)\n"
        "try: measure([sys.argv[1]])\n"
        "except sdk.BundleError as fault: print('told')\n"
    )
    assert run(program, folder) == "True\n12 1\ntold\n"
