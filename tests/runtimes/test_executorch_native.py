"""ExecuTorch is called through its C++ runtime, without torch, and through its Python module where that can't be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from patterns import LABELS, SIZE, patterns
from programs import needs_compiler, run
from runtimes.base import ModelFiles, Signature
from runtimes.engines import open_session
from runtimes.errors import BundleError, EngineError
from runtimes.executorch import session as executorch
from runtimes.executorch.torch_bound import Library

SIGNATURE = Signature(SIZE, SIZE, len(LABELS))
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\n"


def opened(folder, signature=SIGNATURE):
    return open_session("executorch", ModelFiles.in_folder(folder, ["model.pte"]), signature, 1)


@pytest.fixture
def through_torch(monkeypatch):
    monkeypatch.setattr(executorch, "_engine", Library())


@pytest.fixture(scope="module")
def native_answers(bundles):
    assert executorch.HOW == "its C++ runtime, without torch"
    session, manifest = opened(bundles["executorch"].path)
    answers = session.run(patterns(50, seed=3))
    session.close()
    return answers, manifest


@needs_compiler
def test_both_ways_give_the_same_bits(native_answers, bundles, through_torch):
    session, manifest = opened(bundles["executorch"].path)
    assert np.array_equal(session.run(patterns(50, seed=3)), native_answers[0])
    assert manifest == native_answers[1] != ""
    session.close()


@pytest.mark.parametrize("way", ["native", "torch"])
def test_another_signature_and_half_a_file_are_refused_in_both_ways(bundles, own_copy, monkeypatch, way):
    if way == "torch":
        monkeypatch.setattr(executorch, "_engine", Library())
    with pytest.raises(BundleError, match=r"the model's output is a tensor: float32 \[1, \d+\], and not"):
        opened(bundles["executorch"].path, SIGNATURE._replace(classes=7))
    folder = own_copy("executorch")
    file = folder / "model.pte"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(EngineError, match=r"loading model\.pte failed: \S+"):
        opened(folder)


@needs_compiler
def test_many_threads_and_layouts(native_answers, bundles):
    session, _ = opened(bundles["executorch"].path)
    images = patterns(50, seed=3)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: session.run(image[None])[0], images))
    assert np.array_equal(answers, native_answers[0])
    turned = np.asfortranarray(images)[:, ::-1]
    assert np.array_equal(session.run(turned), session.run(np.ascontiguousarray(turned)))
    images.flags.writeable = False
    assert np.array_equal(session.run(images), native_answers[0])
    session.close()


def test_a_closed_program_is_an_error_and_no_crash(bundles):
    program = executorch._engine.open((bundles["executorch"].path / "model.pte").read_bytes())
    program.load()
    program.close()
    program.close()
    with pytest.raises(RuntimeError, match="closed"):
        program.run(patterns(1, seed=0)[0], np.empty(len(LABELS), np.float32))


@needs_compiler
def test_predicting_needs_no_torch(bundles):
    path = bundles["executorch"].path
    answer = f"import sdk; print(sdk.verify({str(path)!r}).golden, sdk.Classifier({str(path)!r}).bundle.target)"
    assert run(WITHOUT_TORCH + answer).split() == ["12", "executorch"]


FALLBACK = "from runtimes.executorch import session; print(session.HOW)"


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [("/nowhere/c++", "No such file or directory: '/nowhere/c++'"), ("false", "(false: exit code 1)")],
)
def test_without_a_compiler_it_is_torch(tmp_path, compiler, reason):
    told = run(FALLBACK, CXX=compiler, XDG_CACHE_HOME=str(tmp_path))
    assert told.startswith("its Python module and torch, because its C++ runtime can't be used (")
    assert reason in told
    assert not list(tmp_path.rglob("*.so"))


def test_a_cache_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert "Not a directory" in run(FALLBACK, XDG_CACHE_HOME=str(tmp_path / "file"))


def test_without_a_compiler_and_torch_the_error_names_both(bundles, tmp_path):
    path = bundles["executorch"].path
    trial = f"import sdk\ntry: sdk.Classifier({str(path)!r})\nexcept sdk.EngineMissing as fault: print(fault)"
    told = run(WITHOUT_TORCH + trial, CXX="/nowhere/c++", XDG_CACHE_HOME=str(tmp_path))
    assert told.startswith("ExecuTorch: needs a C++ compiler, or torch (")
    assert told.rstrip().endswith("; install g++ or clang, or pip install torch")


@needs_compiler
def test_it_is_compiled_once(tmp_path):
    for _ in range(2):
        assert run(FALLBACK, XDG_CACHE_HOME=str(tmp_path)).strip() == "its C++ runtime, without torch"
        (library,) = tmp_path.rglob("*.so")
        made = library.stat().st_mtime_ns
    assert library.stat().st_mtime_ns == made
    assert [file.name for file in library.parent.iterdir()] == [library.name]
    library.write_bytes(b"damaged")
    assert run(FALLBACK, XDG_CACHE_HOME=str(tmp_path)).strip() == "its C++ runtime, without torch"


@needs_compiler
def test_info_says_how_it_runs_here(bundles):
    info = "import sys; from libkd_sdk.main import run; sys.exit(run(['info', sys.argv[1]]))"
    path = bundles["executorch"].path
    assert "its C++ runtime, without torch" in run(info, path)
    assert "its Python module and torch" in run(info, path, CXX="false", XDG_CACHE_HOME=str(path.parent / "cache"))
    assert "nothing (ExecuTorch: executorch is not installed" in run(
        f"import sys; sys.modules['executorch'] = None; {info}", path
    )
    assert "runs here with" not in run(info, bundles["onnx"].path)
