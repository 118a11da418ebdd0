"""Every engine gives PyTorch's answers, from any thread, and refuses what is not its file."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from patterns import LABELS, SIZE, patterns
from runtimes.base import ModelFiles, Signature
from runtimes.engines import RUNNABLE, OpenSession, open_session
from runtimes.errors import BundleError, EngineError
from sdk.exporting.deployed import Deployed, Reference

SIGNATURE = Signature(SIZE, SIZE, len(LABELS))


def opened(engine: str, folder: Path, signature: Signature = SIGNATURE, threads: int | None = 1) -> OpenSession:
    return open_session(engine, ModelFiles.in_folder(folder, RUNNABLE[engine].files), signature, threads)


@pytest.fixture(params=RUNNABLE)
def engine(request):
    return request.param


@pytest.fixture
def session(engine, bundles):
    session, _ = opened(engine, bundles[engine].path, threads=2)
    yield session
    session.close()


@pytest.fixture(scope="module")
def expected(vit, preprocessing):
    """The images of these tests, and PyTorch's probabilities for them."""
    pixels = patterns(200, seed=7)
    return pixels, Reference(Deployed(vit, preprocessing)).run(pixels)


def test_the_images_of_these_tests_tell_classes_apart(expected):
    _, probabilities = expected
    assert len(set(probabilities.argmax(1))) == len(LABELS)
    assert probabilities.max(1).std() > 0.05


def test_answers_are_pytorch_s(session, expected):
    pixels, probabilities = expected
    answers = session.run(pixels)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, probabilities, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_batch_of_any_size_is_answered_like_its_images(session, expected, size):
    pixels, probabilities = expected
    answers = session.run(pixels[:size])
    assert answers.shape == (size, len(LABELS))
    np.testing.assert_allclose(answers, probabilities[:size], rtol=0, atol=1e-5)


def test_the_engines_agree_with_each_other(bundles, expected):
    pixels, _ = expected
    answers = {}
    for engine in RUNNABLE:
        session, _ = opened(engine, bundles[engine].path)
        answers[engine] = session.run(pixels[:50])
        session.close()
    for one in RUNNABLE:
        for other in RUNNABLE:
            np.testing.assert_allclose(answers[one], answers[other], rtol=0, atol=1e-5)


def test_the_layout_in_memory_does_not_matter(session, expected):
    pixels, probabilities = expected
    channels_first = pixels[:4].transpose(0, 3, 1, 2).copy().transpose(0, 2, 3, 1)
    for view in (np.asfortranarray(pixels[:4]), channels_first, pixels[:, :, ::-1][:4, :, ::-1]):
        np.testing.assert_allclose(session.run(view), probabilities[:4], rtol=0, atol=1e-5)
    mirrored = pixels[:4, :, ::-1]
    np.testing.assert_allclose(session.run(mirrored), session.run(mirrored.copy()), rtol=0, atol=1e-6)


def test_an_answer_is_not_overwritten_by_the_next(session, expected):
    pixels, _ = expected
    first = session.run(pixels[:1])
    kept = first.copy()
    session.run(pixels[1:2])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("size", [1, 3])
def test_an_answer_does_not_lie_in_the_memory_of_the_engine(session, expected, size):
    """To free it there takes a lock of the engine, which may stay locked in a forked process."""
    assert session.run(expected[0][:size]).flags.owndata


def test_threads_may_share_a_session(session, expected):
    pixels, probabilities = expected
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda index: session.run(pixels[index : index + 1])[0], range(100)))
    np.testing.assert_allclose(np.stack(answers), probabilities[:100], rtol=0, atol=1e-5)


def test_other_shapes_are_refused(engine, bundles):
    with pytest.raises(
        BundleError, match=r"the model's input is .*uint8 \[\w, 32, 32, 3\], and not pixels: uint8 \[n, 32, 28"
    ):
        opened(engine, bundles[engine].path, Signature(SIZE, 28, len(LABELS)))
    with pytest.raises(
        BundleError, match=r"the model's output is .*float32 \[\w, 5\], and not probabilities: .* 1000\]"
    ):
        opened(engine, bundles[engine].path, Signature(SIZE, SIZE, 1000))


def test_pixels_of_another_size_fail_with_a_name(session):
    for odd in (
        np.zeros((1, SIZE, SIZE + 8, 3), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((1, SIZE, SIZE, 3), np.float32),
        np.zeros((0, SIZE, SIZE, 3), np.uint8),
    ):
        with pytest.raises(EngineError, match=r"takes uint8 \[n, 32, 32, 3\], and not (uint8|float32) \["):
            session.run(odd)


@pytest.mark.parametrize("seed", range(4))
def test_garbage_is_refused_before_the_engine_sees_it(engine, own_copy, seed):
    folder = own_copy(engine)
    file = folder / RUNNABLE[engine].files[0]
    garbage = np.random.default_rng(seed).integers(128, 256, file.stat().st_size, np.uint8)  # no UTF-8, no known head
    file.write_bytes(garbage.tobytes())
    with pytest.raises(BundleError, match=f"{file.name} is not a file of {RUNNABLE[engine].title}"):
        opened(engine, folder)


def test_a_truncated_file_fails_with_a_name(engine, own_copy):
    folder = own_copy(engine)
    file = folder / RUNNABLE[engine].files[0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(EngineError, match=f"loading {file.name} failed: ."):
        opened(engine, folder)


def test_the_manifest_inside_is_read_back(engine, bundles):
    session, manifest = opened(engine, bundles[engine].path)
    session.close()
    assert '"näh/garn"' in manifest


@pytest.mark.slow
def test_engines_are_silent(engine, bundles):
    program = (
        "import sys; from pathlib import Path; import numpy as np; from runtimes.base import *;"
        "from runtimes.engines import *;"
        f"files = ModelFiles.in_folder(Path({str(bundles[engine].path)!r}), RUNNABLE[{engine!r}].files);"
        f"session, _ = open_session({engine!r}, files, Signature{tuple(SIGNATURE)}, 1);"
        f"session.run(np.zeros((1, {SIZE}, {SIZE}, 3), np.uint8)); session.close()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_nothing_is_reported_to_the_makers_of_an_engine(engine, bundles, tmp_path):
    """OpenVINO, left alone, keeps an identity in the home folder and sends events under it."""
    program = (
        "import sys; from pathlib import Path; from runtimes.base import *; from runtimes.engines import *;"
        f"files = ModelFiles.in_folder(Path({str(bundles[engine].path)!r}), RUNNABLE[{engine!r}].files);"
        f"open_session({engine!r}, files, Signature{tuple(SIGNATURE)}, 1)[0].close();"
        f"load_lowering({engine!r});"
        "print(sys.modules.get('openvino_telemetry'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert done.stdout.strip() == "None", done.stderr
    assert not (tmp_path / "intel").exists()


def test_openvino_files_speak_model_api(bundles):
    import openvino

    model = openvino.Core().read_model(bundles["openvino"].path / "model.xml")
    keys = {key: model.get_rt_info(["model_info", key]).astype(str) for key in ("model_type", "labels", "resize_type")}
    assert keys == {
        "model_type": "Classification",
        "labels": "t-shirt ankle_boot näh/garn bag coat",
        "resize_type": "crop",
    }


def test_onnx_files_tell_nothing_of_the_machine_that_made_them(bundles):
    content = (bundles["onnx"].path / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b"File " not in content


class TestExecuTorchThreads:
    """One pool a process: it is set before the first model is loaded, and by nobody while one is open."""

    def open(self, bundles, threads):
        return opened("executorch", bundles["executorch"].path, threads=threads).session

    def count(self):
        from executorch.extension.pybindings import _C

        return _C._threadpool_get_thread_count()

    def test_the_first_session_sets_them(self, bundles):
        for threads in (1, 2, 1):
            session = self.open(bundles, threads)
            assert self.count() == threads
            session.close()

    def test_a_second_one_may_not_ask_for_others(self, bundles):
        first = self.open(bundles, 1)
        with pytest.raises(EngineError, match=r"already runs with threads=1 in this process.*not 2"):
            self.open(bundles, 2)
        same, any_number = self.open(bundles, 1), self.open(bundles, None)
        assert self.count() == 1
        for session in (first, same, any_number):
            session.close()
        self.open(bundles, 2).close()

    def test_a_session_that_failed_to_load_holds_nothing(self, bundles, own_copy):
        folder = own_copy("executorch")
        file = folder / "model.pte"
        file.write_bytes(file.read_bytes()[:5000])
        with pytest.raises(EngineError):
            opened("executorch", folder, threads=2)
        session = self.open(bundles, 1)
        assert self.count() == 1
        session.close()
