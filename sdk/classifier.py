"""The classifier: images in, predictions out, for one image, a batch or a stream.

What only a constructor or a stream needs is imported there. So `from sdk import Classifier` takes little longer than
numpy and Pillow, which every program with images imports.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeGuard, TypeVar, cast, overload

import numpy as np
from PIL.Image import Image

from runtimes.base import Session, Signature
from runtimes.checked import CheckedSession
from runtimes.cores import usable_cores

from .errors import ImageError, UsageError
from .images import ImageSource, Input, Pixels, is_ready, pixels, source_name
from .prediction import Choice, Prediction
from .sharing import SharedSession

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .bundle import Bundle
    from .bundle.keys import Key

_BATCH = 32

_T = TypeVar("_T")


class Classifier:
    """A loaded bundle. Several threads may share it, and it is a context manager.

    Another process opens the bundle again: one that gets the classifier pickled, from the same path, and one that is
    forked, when it predicts for the first time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        top_k: int = 5,
        score_threshold: float = 0.0,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
        self_test: bool = False,
        trusted: Key | Iterable[Key] | None = None,
    ) -> None:
        """Load the bundle in the folder `path`.

        A bundle is trusted like code: its files run in this process. Give `trusted`, or verify it first.

        Args:
            path: the folder that `export` wrote.
            threads: number of threads that the engine computes with; by default, the cores that this process may use.
            top_k: largest number of (label, score) pairs in a prediction.
            score_threshold: labels with a lower score are not listed; between 0.0 and 1.0.
            allow: only these labels are listed.
            deny: these labels are not listed.
            self_test: check the golden answers on this machine first, in a child process before they are checked here.
            trusted: the public key that must have signed the bundle, or several of which one must have: paths of PEM
                files, or their bytes. No engine sees a byte of another bundle.

        Raises:
            UsageError: an argument makes no sense.
            BundleError: the bundle is missing, damaged, foreign, or written by a newer version.
            SignatureError: no trusted key signed it.
            EngineMissing, EngineError: the engine is not installed, or can't load the file.
            ProofError: the self-test failed.
        """
        from .bundle import Bundle

        allow, deny, trusted = _kept(allow), _kept(deny), _kept(trusted)
        bundle = Bundle.open(path, trusted=trusted)
        choice = Choice(bundle.labels, top_k, score_threshold, allow, deny)
        if self_test:
            if bundle.golden() is None:
                raise UsageError(f"{bundle.path}: has no golden images for a self-test; export again and include some")
            from .bundle.trial import Limits, try_in_child

            try_in_child(bundle, threads, Limits())
        session = bundle.session(threads)
        try:
            if self_test:
                bundle.self_test(session)
        except BaseException:
            session.close()
            raise
        self._arguments: dict[str, Any] | None = {
            "path": bundle.path.absolute(),  # another process may stand in another folder
            "threads": threads,
            "top_k": top_k,
            "score_threshold": score_threshold,
            "allow": allow,
            "deny": deny,
            "self_test": self_test,
            "trusted": trusted,
        }
        bundle = bundle.without_contents()
        reopen = partial(replace(bundle, path=bundle.path.absolute()).session, threads)
        self._set_up(SharedSession(session, reopen), bundle.input, choice, bundle)

    @classmethod
    def with_session(
        cls,
        session: Session,
        *,
        labels: Sequence[str],
        input: Input,
        top_k: int = 5,
        score_threshold: float = 0.0,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] | None = None,
    ) -> Self:
        """Return a classifier on a session of your own: an engine that is unknown here, or a fake in a test.

        Its `bundle` is None. The other arguments are those of the constructor.

        Raises:
            UsageError: an argument makes no sense.
        """
        classifier = cls.__new__(cls)
        choice = Choice(labels, top_k, score_threshold, allow, deny)
        signature = Signature(input.height, input.width, len(choice.labels))
        classifier._arguments = None
        checked = CheckedSession(session, signature, "this session")
        classifier._set_up(SharedSession(checked, None), input, choice, None)
        return classifier

    def _set_up(self, session: SharedSession, input: Input, choice: Choice, bundle: Bundle | None) -> None:
        self._session = session
        self._input = input
        self._choice = choice
        self._bundle = bundle

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of `Prediction.probabilities`."""
        return self._choice.labels

    @property
    def input(self) -> Input:
        """The pixels that the model takes, and how an image becomes these pixels."""
        return self._input

    @property
    def bundle(self) -> Bundle | None:
        """The loaded bundle; None for a classifier that was made by `with_session`."""
        return self._bundle

    def predict(self, image: ImageSource) -> Prediction:
        """Classify one image.

        Args:
            image: a path, bytes, a binary file, a PIL image, or a uint8 array [height, width, 3]. An array of exactly
                the model's height and width is used as it is, without resize and crop.

        Raises:
            ImageError: the image can't be read.
            EngineError: the engine failed.
            UsageError: the classifier is closed.
        """
        self._session.check_open()
        return self._choice.prediction(self._session.run(pixels(image, self._input)[None])[0], source_name(image))

    @overload
    def predict_batch(self, images: Iterable[ImageSource], *, errors: Literal["raise"] = ...) -> list[Prediction]: ...
    @overload
    def predict_batch(
        self, images: Iterable[ImageSource], *, errors: Literal["return"]
    ) -> list[Prediction | ImageError]: ...
    def predict_batch(
        self, images: Iterable[ImageSource], *, errors: Literal["raise", "return"] = "raise"
    ) -> Sequence[Prediction | ImageError]:
        """Classify several images and return the predictions in the same order.

        With `errors="return"`, an image that can't be read has its `ImageError` in its place.

        Raises:
            ImageError: an image can't be read, with `errors="raise"`.
            EngineError: the engine failed.
            UsageError: the classifier is closed.
        """
        return list(self._stream(images, _BATCH, None, errors))

    @overload
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = ...,
        workers: int | None = ...,
        errors: Literal["raise"] = ...,
    ) -> Iterator[Prediction]: ...
    @overload
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = ...,
        workers: int | None = ...,
        errors: Literal["return"],
    ) -> Iterator[Prediction | ImageError]: ...
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        batch_size: int = 1,
        workers: int | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[Prediction | ImageError]:
        """Yield predictions for images that keep coming, in the same order, and decode ahead while the engine runs.

        Args:
            images: any iterable, even an endless one. At most `batch_size + max(batch_size, workers)` images are held
                at a time, and the first prediction comes after that many were taken. For a live camera, `workers=1`
                limits the delay to one image. An array is not copied: it may be written to again when its prediction is
                there, so a camera needs a new array for each image.
            batch_size: images per call of the engine.
            workers: threads that decode; by default, the usable cores, at most 4.
            errors: with "return", an image that can't be read has its `ImageError` in its place.

        Raises:
            ImageError: an image can't be read, with `errors="raise"`.
            EngineError: the engine failed.
            UsageError: an argument makes no sense, or the classifier is closed.
        """
        return self._stream(images, batch_size, workers, errors)

    def warm_up(self) -> None:
        """Run the engine on a blank image, so that the first prediction is as fast as later ones."""
        blank = np.zeros((1, self._input.height, self._input.width, 3), np.uint8)
        for _ in range(3):
            self._session.run(blank)

    def close(self) -> None:
        """Free the engine when the running calls have their answers. Later calls raise `UsageError`."""
        self._session.close()

    def __reduce__(self) -> tuple[Callable[[], Self], tuple[()]]:
        if self._arguments is None:
            raise UsageError("a classifier of with_session can't be pickled; make it in the other process")
        return partial(type(self), **self._arguments), ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(
        self, images: Iterable[ImageSource], batch_size: int, workers: int | None, errors: str
    ) -> Iterator[Prediction | ImageError]:
        """Check the arguments now and not at the first prediction, as a generator would."""
        self._session.check_open()
        if _is_one_image(images):
            raise UsageError(f"{source_name(images)} is one image; use predict, or give a list")
        if errors not in ("raise", "return"):
            raise UsageError(f'errors={errors!r}: "raise" or "return"')
        if batch_size < 1 or (workers is not None and workers < 1):
            raise UsageError("batch_size and workers are at least 1")
        return self._predictions(images, batch_size, workers or min(4, usable_cores()), errors == "return")

    def _predictions(
        self, images: Iterable[ImageSource], batch_size: int, workers: int, keep_errors: bool
    ) -> Iterator[Prediction | ImageError]:
        from concurrent.futures import ThreadPoolExecutor

        ahead: deque[tuple[str, Pixels | Future[Pixels]]] = deque()
        held = batch_size + max(batch_size, workers)
        process, wait = os.getpid(), True
        decoders = ThreadPoolExecutor(workers, thread_name_prefix="libkd-decode")
        try:
            for image in images:
                decoded = image if is_ready(image, self._input) else decoders.submit(pixels, image, self._input)
                ahead.append((source_name(image), decoded))
                if len(ahead) == held:
                    yield from self._predict_decoded([ahead.popleft() for _ in range(batch_size)], keep_errors)
                    _stay_in(process)
            while ahead:
                batch = [ahead.popleft() for _ in range(min(batch_size, len(ahead)))]
                yield from self._predict_decoded(batch, keep_errors)
                _stay_in(process)
        except GeneratorExit:
            # The garbage collector ends a forgotten stream anywhere: in a thread of this stream, or in one that holds
            # Python's own locks because it just starts or ends. Waiting for another thread there could last for ever.
            wait = False
            raise
        finally:
            decoders.shutdown(wait=wait, cancel_futures=True)

    def _predict_decoded(
        self, batch: list[tuple[str, Pixels | Future[Pixels]]], keep_errors: bool
    ) -> Iterator[Prediction | ImageError]:
        """Yield the outcomes in order. Without `keep_errors`, images before an unreadable one are still predicted."""
        self._session.check_open()
        outcomes: list[Pixels | ImageError] = []
        for _, image in batch:
            if isinstance(image, np.ndarray):
                outcomes.append(image)
                continue
            fault = image.exception()
            if fault is not None and not isinstance(fault, ImageError):
                raise fault
            outcomes.append(fault or image.result())
            if fault is not None and not keep_errors:
                break
        readable = [outcome for outcome in outcomes if not isinstance(outcome, ImageError)]
        answers = iter(self._session.run(np.stack(readable))) if readable else iter(())
        for outcome, (source, _) in zip(outcomes, batch, strict=False):
            if not isinstance(outcome, ImageError):
                yield self._choice.prediction(next(answers), source)
            elif keep_errors:
                yield outcome
            else:
                raise outcome


def _is_one_image(images: object) -> TypeGuard[ImageSource]:
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    return isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Image) or hasattr(images, "read")


def _stay_in(process: int) -> None:
    """Raise `UsageError` in a process that was forked from this one, where the threads that decode are missing."""
    if os.getpid() != process:
        raise UsageError("this stream belongs to the process that it was forked from; begin another one here")


def _kept(given: _T | Iterable[_T] | None) -> _T | tuple[_T, ...] | None:
    """Return one or several names or keys so that they can be read again, even if they come from a generator."""
    if given is None or isinstance(given, str | bytes | os.PathLike):
        return given
    return tuple(cast("Iterable[_T]", given))
