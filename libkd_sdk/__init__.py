"""The public names of `sdk` again, for programs that should not import a package with the name `sdk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdk import *  # noqa: F403


def __getattr__(name: str) -> object:
    import sdk

    if name in sdk.__all__:
        return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
