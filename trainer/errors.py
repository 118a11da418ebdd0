"""The errors that the trainer adds to the tree of `sdk.errors`: one line that says what is wrong and how to fix it.

LibkdError
├── DataError       the images can't be used as they are
├── RecipeError     the recipe asks for something that can't be done
├── RunError        a run's folder is missing, incomplete, or belongs to other data or another recipe
├── StoreError      a logit store is damaged, or was made for something else
├── OutOfMemory     a step needs more memory than the device has
├── Stopped         the system asked the process to end; what was done is kept
├── ProcessLost     another process that shares a run ended or hangs
└── Diverged        the loss is no longer a number
"""

from __future__ import annotations

from sdk.errors import LibkdError


class DataError(LibkdError):
    """The images can't be used as they are."""

    code = "data-unusable"


class RecipeError(LibkdError):
    """The recipe asks for something that can't be done, or has an unknown key."""

    code = "recipe-invalid"


class RunError(LibkdError):
    """A run's folder is missing, incomplete, or belongs to other data or another recipe."""

    code = "run-unusable"


class StoreError(LibkdError):
    """A logit store is damaged, or was made for something else."""

    code = "store-unusable"


class OutOfMemory(LibkdError):
    """A step needs more memory than the device has."""

    code = "out-of-memory"


class Stopped(LibkdError):
    """The system asked the process to end. What was done is kept, and the same command continues."""

    code = "stopped"
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


class ProcessLost(LibkdError):
    """Another process that shares a run ended, hangs, or never came."""

    code = "process-lost"
    exit_code = 1


class Diverged(LibkdError):
    """The loss is no longer a number, or has grown too much."""

    code = "diverged"
    exit_code = 1
