"""Images in, predictions out: chosen as asked, in order, from any thread, while others are being decoded."""

from __future__ import annotations

import io
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from patterns import LABELS, SIZE, patterns
from sdk import Bundle, BundleError, Classifier, EngineError, ImageError, Prediction, Preprocessing, UsageError
from sdk.testing import FakeSession

INPUT = Preprocessing.square(SIZE).input
ANIMALS = ("cat", "dog", "cow", "dog")  # as in ImageNet, two classes may share a name
SCORES = (0.1, 0.4, 0.2, 0.3)


def fake(scores=SCORES, labels=ANIMALS, **options) -> Classifier:
    return Classifier.with_session(FakeSession(scores), labels=labels, input=INPUT, **options)


@pytest.fixture(params=["onnx", "openvino", "executorch"])
def classifier(request, bundles):
    with Classifier(bundles[request.param].path, threads=2, self_test=True) as classifier:
        yield classifier


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return patterns(40, seed=11)


class TestOneImage:
    def test_a_prediction(self, classifier, validation):
        pixels, labels = validation
        prediction = classifier.predict(pixels[1])
        assert prediction.label == LABELS[labels[1]]
        assert prediction.top[0] == (prediction.label, prediction.score)
        assert [score for _, score in prediction.top] == sorted(prediction.probabilities.tolist(), reverse=True)
        assert {label for label, _ in prediction.top} == set(LABELS)
        assert prediction.probabilities.dtype == np.float32
        assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert prediction.source == "<array 32x32x3>"

    def test_every_source_is_predicted_alike(self, classifier, images, tmp_path):
        file = io.BytesIO()
        Image.fromarray(images[0]).save(file, "PNG")
        (tmp_path / "a.png").write_bytes(file.getvalue())
        expected = classifier.predict(images[0])
        for source in (tmp_path / "a.png", file.getvalue(), io.BytesIO(file.getvalue()), Image.fromarray(images[0])):
            np.testing.assert_array_equal(classifier.predict(source).probabilities, expected.probabilities)
        assert classifier.predict(tmp_path / "a.png").source == str(tmp_path / "a.png")

    def test_images_of_any_size_are_predicted(self, classifier):
        large = np.asarray(Image.fromarray(patterns(1, 3)[0]).resize((1200, 900), Image.Resampling.BICUBIC))
        assert classifier.predict(large).label in LABELS
        assert classifier.predict(large[:3, :2]).label in LABELS

    def test_an_unreadable_image_is_named(self, classifier, tmp_path):
        with pytest.raises(ImageError, match=r"missing\.jpg: no such file"):
            classifier.predict(tmp_path / "missing.jpg")

    def test_a_prediction_cannot_be_changed(self):
        prediction = fake().predict(np.zeros((4, 4, 3), np.uint8))
        with pytest.raises(AttributeError):
            prediction.label = "horse"
        assert not hasattr(prediction, "__dict__")


class TestWhatIsListed:
    def listed(self, **options) -> list[str]:
        return [label for label, _ in fake(**options).predict(patterns(1, 0)[0]).top]

    def test_the_best_come_first(self):
        assert self.listed() == ["dog", "dog", "cow", "cat"]
        assert self.listed(top_k=2) == ["dog", "dog"]
        assert self.listed(top_k=100) == ["dog", "dog", "cow", "cat"]

    def test_only_what_scores_enough(self):
        assert self.listed(score_threshold=0.15) == ["dog", "dog", "cow"]
        assert self.listed(score_threshold=0.25) == ["dog", "dog"]

    def test_allowed_and_denied_labels(self):
        assert self.listed(allow=["cat", "cow"]) == ["cow", "cat"]
        assert self.listed(deny=["dog"]) == ["cow", "cat"]
        assert self.listed(allow="cow") == ["cow"]
        assert self.listed(deny=[]) == self.listed()
        assert self.listed(allow=["dog"], top_k=1) == ["dog"]

    def test_when_nothing_is_left_there_is_no_label(self):
        prediction = fake(allow=["cat"], score_threshold=0.5).predict(patterns(1, 0)[0])
        assert (prediction.label, prediction.score, prediction.top) == (None, 0.0, ())
        np.testing.assert_array_equal(prediction.probabilities, np.float32(SCORES))

    @given(
        weights=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=9).filter(lambda found: sum(found) > 0),
        top_k=st.integers(1, 12),
        threshold=st.floats(0, 1),
        data=st.data(),
    )
    def test_any_choice_is_honoured(self, weights, top_k, threshold, data):
        scores = [weight / sum(weights) for weight in weights]
        labels = [f"class {index}" for index in range(len(scores))]
        denied = data.draw(st.sets(st.sampled_from(labels), max_size=len(labels) - 1))
        allowed = [label for label in labels if label not in denied]
        options = {"labels": labels, "top_k": top_k, "score_threshold": threshold}
        top = fake(scores, deny=denied, **options).predict(patterns(1, 0)[0]).top
        assert top == fake(scores, allow=allowed, **options).predict(patterns(1, 0)[0]).top
        passing = [float(np.float32(score)) for score, label in zip(scores, labels, strict=True) if label in allowed]
        passing = sorted((score for score in passing if score >= threshold), reverse=True)
        assert [score for _, score in top] == passing[:top_k]
        assert not denied & {label for label, _ in top}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"allow": ["cat"], "deny": ["dog"]}, "allow and deny are both given"),
            ({"allow": ["dgo"]}, r"'dgo' is none of the 4 labels; did you mean 'dog'\?"),
            ({"deny": ["zebra"]}, "'zebra' is none of the 4 labels; known: cat, dog, cow"),
            ({"deny": ["cat", "dog", "cow"]}, "leaves no label"),
            ({"allow": []}, "leaves no label"),
            ({"top_k": 0}, "top_k=0: at least 1"),
            ({"score_threshold": 1.5}, r"score_threshold=1.5: between 0.0 and 1.0"),
            ({"score_threshold": float("nan")}, "score_threshold=nan"),
        ],
    )
    def test_what_cannot_be_meant(self, options, message):
        with pytest.raises(UsageError, match=message):
            fake(**options)


class TestBatches:
    @pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 40])
    def test_a_batch_is_its_images(self, classifier, images, count):
        found = classifier.predict_batch(images[:count])
        assert len(found) == count
        for prediction, image in zip(found, images, strict=False):
            np.testing.assert_allclose(
                prediction.probabilities, classifier.predict(image).probabilities, rtol=0, atol=1e-6
            )

    def test_kinds_of_sources_may_be_mixed(self, classifier, images, tmp_path):
        Image.fromarray(images[0]).save(tmp_path / "a.png")
        found = classifier.predict_batch([images[0], tmp_path / "a.png", Image.fromarray(images[0])])
        assert len({prediction.probabilities.tobytes() for prediction in found}) == 1

    def test_an_unreadable_image_stops_it_or_stays_in_its_place(self, classifier, images):
        images = [images[0], b"no image", images[1], "missing.jpg"]
        with pytest.raises(ImageError, match="<8 bytes>"):
            classifier.predict_batch(images)
        found = classifier.predict_batch(images, errors="return")
        assert [type(answer) for answer in found] == [Prediction, ImageError, Prediction, ImageError]
        assert "missing.jpg" in str(found[3])
        assert [type(answer) for answer in classifier.predict_batch([b"", b""], errors="return")] == [ImageError] * 2

    @pytest.mark.parametrize(
        "one",
        ["a.jpg", b"bytes", np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (4, 4)), io.BytesIO(b"1")],
        ids=lambda image: type(image).__name__,
    )
    def test_one_image_is_no_batch(self, one):
        with pytest.raises(UsageError, match="is one image; use predict, or give a list"):
            fake().predict_batch(one)

    def test_a_word_that_is_not_known(self):
        with pytest.raises(UsageError, match="errors='ignore'"):
            fake().predict_batch([], errors="ignore")


class Gate:
    """An image file that is read only once it was opened, and says when somebody began to read it."""

    def __init__(self, image: np.ndarray, is_open: bool = False) -> None:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        self._file = io.BytesIO(file.getvalue())
        self.reached, self.gate = threading.Event(), threading.Event()
        if is_open:
            self.gate.set()

    def read(self, size: int = -1) -> bytes:
        self.reached.set()
        assert self.gate.wait(30)
        return self._file.read(size)


class TestStreams:
    @pytest.mark.parametrize("batch_size", [1, 3, 8])
    @pytest.mark.parametrize("workers", [1, 4, None])
    def test_order_is_kept(self, classifier, images, batch_size, workers):
        expected = [prediction.probabilities for prediction in classifier.predict_batch(images)]
        found = [p.probabilities for p in classifier.stream(iter(images), batch_size=batch_size, workers=workers)]
        np.testing.assert_allclose(np.stack(found), np.stack(expected), rtol=0, atol=1e-6)

    def test_order_is_kept_when_the_first_is_decoded_last(self):
        colours = [np.full((SIZE, SIZE, 3), value, np.uint8) for value in range(4)]
        gates = [Gate(colour) for colour in colours]
        session = FakeSession(SCORES)
        classifier = Classifier.with_session(session, labels=ANIMALS, input=INPUT)
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(list, classifier.stream(gates, workers=4))
            for gate in reversed(gates):
                assert gate.reached.wait(30)
                gate.gate.set()
            assert len(found.result(30)) == 4
        assert [int(batch[0, 0, 0, 0]) for batch in session.seen] == [0, 1, 2, 3]

    def test_images_are_decoded_while_the_engine_runs(self):
        gates = [Gate(image, is_open=index == 0) for index, image in enumerate(patterns(3, 0))]

        class Engine(FakeSession):
            def run(self, pixels):
                assert gates[1].reached.wait(30)  # the next one is being decoded now
                gates[1].gate.set()
                gates[2].gate.set()
                return super().run(pixels)

        classifier = Classifier.with_session(Engine(SCORES), labels=ANIMALS, input=INPUT)
        assert len(list(classifier.stream(gates, workers=1))) == 3

    def test_an_endless_stream_is_read_only_a_little_ahead(self):
        taken = 0

        def camera():
            nonlocal taken
            for _ in itertools.count():
                taken += 1
                yield np.zeros((SIZE, SIZE, 3), np.uint8)

        classifier = fake()
        for _ in itertools.islice(classifier.stream(camera(), batch_size=2, workers=3), 10):
            assert taken <= 15
        assert taken == 13  # four batches out, the fifth begun, five held
        before = set(threading.enumerate())
        stream = classifier.stream(camera())
        next(stream)
        stream.close()
        for thread in set(threading.enumerate()) - before:
            thread.join(30)
            assert not thread.is_alive()

    def test_what_comes_before_an_unreadable_image_is_still_predicted(self, images):
        images = [images[0], images[1], b"no image", images[2]]
        for batch_size in (1, 2, 4):
            stream = fake().stream(images, batch_size=batch_size)
            assert next(stream).label == "dog"
            assert next(stream).label == "dog"
            with pytest.raises(ImageError, match="<8 bytes>"):
                next(stream)
            assert next(stream, None) is None

    def test_errors_of_the_iterator_are_not_hidden(self, images):
        def camera():
            yield images[0]
            raise OSError("unplugged")

        with pytest.raises(OSError, match="unplugged"):
            list(fake().stream(camera()))

    def test_arguments_are_checked_at_once(self):
        for options in ({"batch_size": 0}, {"workers": 0}):
            with pytest.raises(UsageError, match="batch_size and workers are at least 1"):
                fake().stream([], **options)
        with pytest.raises(UsageError, match="one image"):
            fake().stream("camera.jpg")

    def test_batches_are_full_but_for_the_last(self, images):
        session = FakeSession(SCORES)
        classifier = Classifier.with_session(session, labels=ANIMALS, input=INPUT)
        list(classifier.stream(images[:10], batch_size=4))
        assert [len(batch) for batch in session.seen] == [4, 4, 2]


class TestLife:
    def test_threads_may_share_it(self, classifier, images):
        expected = [classifier.predict(image).probabilities for image in images]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda index: classifier.predict(images[index % 40]).probabilities, range(160)))
        for index, probabilities in enumerate(found):
            np.testing.assert_array_equal(probabilities, expected[index % 40])

    def test_closed_is_closed(self, bundles):
        classifier = Classifier(bundles["onnx"].path)
        classifier.warm_up()
        classifier.close()
        classifier.close()
        uses = (
            lambda: classifier.predict(patterns(1, 0)[0]),
            lambda: classifier.predict(b"no image"),
            lambda: classifier.predict_batch([]),
            lambda: classifier.predict_batch([b"no image"], errors="return"),
            lambda: classifier.stream([b"no image"], errors="return"),
            classifier.warm_up,
        )
        for use in uses:
            with pytest.raises(UsageError, match="closed"):
                use()

    def test_closed_within_a_stream_of_unreadable_images(self, bundles):
        classifier = Classifier(bundles["onnx"].path)
        stream = classifier.stream(itertools.repeat(b"no image"), errors="return")
        assert isinstance(next(stream), ImageError)
        classifier.close()
        with pytest.raises(UsageError, match="closed"):
            next(stream)

    def test_its_bundle_and_labels(self, bundles):
        with Classifier(str(bundles["onnx"].path)) as classifier:
            assert classifier.labels == LABELS
            assert isinstance(classifier.bundle, Bundle)
            assert classifier.input == classifier.bundle.input
        session = FakeSession(SCORES)
        with Classifier.with_session(session, labels=ANIMALS, input=INPUT) as classifier:
            assert classifier.bundle is None
            assert not session.closed
        assert session.closed

    def test_warming_up_runs_the_engine_on_its_own_size(self):
        session = FakeSession(SCORES)
        Classifier.with_session(session, labels=ANIMALS, input=INPUT).warm_up()
        assert {batch.shape for batch in session.seen} == {(1, SIZE, SIZE, 3)}

    def test_the_engine_s_failure_is_named(self):
        class Broken(FakeSession):
            def run(self, pixels):
                from runtimes.errors import EngineError

                raise EngineError("out of memory")

        classifier = Classifier.with_session(Broken(SCORES), labels=ANIMALS, input=INPUT)
        with pytest.raises(EngineError, match="out of memory"):
            classifier.predict(patterns(1, 0)[0])

    @pytest.mark.parametrize("threads", [0, -1])
    def test_threads_are_counted_from_one(self, bundles, threads):
        with pytest.raises(UsageError, match=f"threads={threads}: at least 1"):
            Classifier(bundles["onnx"].path, threads=threads)

    def test_a_bundle_that_is_missing(self, tmp_path):
        with pytest.raises(BundleError, match="no bundle"):
            Classifier(tmp_path)
