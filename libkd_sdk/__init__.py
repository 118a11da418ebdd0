"""The public names of `sdk` again, for those who do not want to import a package that is called `sdk`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sdk

if TYPE_CHECKING:
    from sdk import *  # noqa: F403

__all__ = sdk.__all__


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
