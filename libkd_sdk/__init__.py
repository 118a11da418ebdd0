"""The public names of `sdk` again, for those who do not want to import a package that is called `sdk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdk import *  # noqa: F403


def __getattr__(name: str) -> object:
    import sdk

    if name in sdk.__all__:
        return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
