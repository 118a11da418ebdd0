"""What the trainer raises on purpose: one line that names the thing and the mend."""

from __future__ import annotations


class TrainerError(Exception):
    """Root of the family. `exit_code` is what the command line returns: 2 where the user can mend it, else 1."""

    exit_code = 2


class DataError(TrainerError):
    """The pictures can't be used as they are."""


class RecipeError(TrainerError):
    """The recipe says something that can't be done, or that nobody understands."""


class RunError(TrainerError):
    """A run folder is missing, incomplete, or belongs to other data or another recipe."""


class StoreError(TrainerError):
    """A logit store is damaged, or was made for something else."""


class OutOfMemory(TrainerError):
    """A step needs more memory than the device has."""


class Diverged(TrainerError):
    """The loss is no longer a number."""

    exit_code = 1
