"""A classifier in other processes: pickled, and forked."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from patterns import LABELS, SIZE, patterns
from programs import run
from runtimes.engines import RUNNABLE
from sdk import Classifier, ImageError, Preprocessing, UsageError
from sdk.testing import FakeSession

INPUT = Preprocessing.square(SIZE).input


def fake(session: FakeSession | None = None) -> Classifier:
    return Classifier.with_session(session or FakeSession([0.9, 0.1]), labels=["cat", "dog"], input=INPUT)


@pytest.mark.slow
@pytest.mark.parametrize("target", RUNNABLE)
def test_a_pickled_classifier_predicts_there(target, bundles, tmp_path, monkeypatch):
    monkeypatch.chdir(bundles[target].path.parent)
    image, allowed = patterns(1, 0)[0], (label for label in LABELS[:3])
    np.save(tmp_path / "image.npy", image)
    with Classifier(target, threads=1, top_k=2, allow=allowed) as classifier:
        (tmp_path / "classifier").write_bytes(pickle.dumps(classifier))
        expected = classifier.predict(image)
    program = (
        "import os, pickle, sys, numpy; from pathlib import Path; os.chdir(sys.argv[1])\n"
        "with pickle.loads(Path('classifier').read_bytes()) as classifier:\n"
        "    answer = classifier.predict(numpy.load('image.npy'))\n"
        "print(answer.top)"
    )
    assert run(program, tmp_path).strip() == str(expected.top)


def test_answers_and_errors_can_be_pickled(bundles):
    prediction = fake().predict(patterns(1, 0)[0])
    assert pickle.loads(pickle.dumps(prediction)).to_dict() == prediction.to_dict()
    error = pickle.loads(pickle.dumps(ImageError("a.png: broken")))
    assert (type(error), str(error)) == (ImageError, "a.png: broken")
    bundle = pickle.loads(pickle.dumps(bundles["onnx"].without_contents()))
    assert bundle == bundles["onnx"].without_contents()


def test_a_session_of_ones_own_stays_here():
    with pytest.raises(UsageError, match="can't be pickled; make it in the other process"):
        pickle.dumps(fake())


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.slow
def test_a_forked_one_predicts_or_is_told(target, busy, bundles):
    """The engine's threads are missing there; neither a half-read stream nor the end of the child may hang."""
    program = """
import os, signal, sys, threading
import numpy as np
import sdk

bundle, busy, image = sys.argv[1], sys.argv[2] == "True", np.zeros((32, 32, 3), np.uint8)
classifier = sdk.Classifier(bundle, threads=2)
expected = classifier.predict(image).probabilities
over = threading.Event()
def predict():
    while not over.is_set():
        classifier.predict(image)
for _ in range(2 * busy):
    threading.Thread(target=predict).start()
for how in ("exit", "close", "use") * 2:
    stream = classifier.stream([image] * 9)
    next(stream)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        over.set()
        try:
            next(stream)
        except sdk.UsageError as fault:
            assert "belongs to the process that it was forked from" in str(fault)
        else:
            os._exit(3)
        if how == "close":
            classifier.close()
        elif how == "use":
            try:
                assert np.abs(classifier.predict(image).probabilities - expected).max() < 1e-6
                assert len(list(classifier.stream([image] * 5))) == 5
            except sdk.EngineError as fault:
                assert "OpenVINO was used before this process was forked" in str(fault)
                assert "openvino" in bundle
        sys.exit(0)
    assert len(list(stream)) == 8
    assert os.waitpid(child, 0)[1] == 0, how
over.set()
print("well")
"""
    assert run(program, bundles[target].path, busy) == "well\n"


@pytest.mark.slow
@pytest.mark.parametrize("target", [target for target in RUNNABLE if target != "openvino"])
def test_forks_at_any_moment_of_a_prediction(target, bundles):
    """An engine holds locks of its own while it computes. In the child of such a moment they would stay held."""
    program = """
import os, signal, sys, threading
import numpy as np
import sdk

image = np.zeros((32, 32, 3), np.uint8)
classifier, over = sdk.Classifier(sys.argv[1], threads=2), threading.Event()
def predict():
    while not over.is_set():
        classifier.predict(image)
for _ in range(4):
    threading.Thread(target=predict).start()
for _ in range(60):
    over.wait(0.01)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        classifier.predict(image)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print("hung")
        break
over.set()
"""
    assert run(program, bundles[target].path) == ""


def test_a_fork_waits_until_no_thread_is_inside_of_an_engine():
    program = """
import os, threading, time
from runtimes.forks import no_fork

entered, inside = threading.Event(), False
def load():
    global inside
    with no_fork():
        inside = True
        entered.set()
        time.sleep(0.3)
        inside = False
thread = threading.Thread(target=load)
thread.start()
entered.wait()
child = os.fork()
if child == 0:
    with no_fork():
        os._exit(3 if inside else 0)
print(os.waitpid(child, 0)[1])
with no_fork():
    child = os.fork()  # the thread that is inside may fork
    if child == 0:
        os._exit(0)
    print(os.waitpid(child, 0)[1])
thread.join()
"""
    assert run(program) == "0\n0\n"


def test_the_threads_of_a_forked_process_go_on_when_it_forks_again():
    program = """
import os, signal, threading
from runtimes.forks import no_fork

def forked(work):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]

def enter():
    with no_fork():
        pass

def in_child():
    for _ in range(2):
        assert forked(enter) == 0
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
print(forked(in_child))
"""
    assert run(program) == "0\n"


def test_a_child_keeps_to_the_bundle_of_its_parent(own_copy):
    """The bundle was replaced by another one in the meantime, so there is nothing to open again."""
    program = """
import os, sys
from pathlib import Path
import numpy as np
import sdk

classifier, image = sdk.Classifier(sys.argv[1]), np.zeros((32, 32, 3), np.uint8)
model = Path(sys.argv[1], "model.onnx")
model.write_bytes(model.read_bytes()[:-1])
child = os.fork()
if child == 0:
    try:
        classifier.predict(image)
    except sdk.BundleError:
        os._exit(0)
    os._exit(3)
print(os.waitpid(child, 0)[1], classifier.predict(image).label is not None)
"""
    assert run(program, own_copy("onnx")) == "0 True\n"
