"""A bundle: a folder with `bundle.json`, an engine's files and golden images. It can be checked wherever it stands."""

from .folder import Bundle
from .golden import Golden
from .manifest import Manifest
from .signature import Signed

__all__ = ["Bundle", "Golden", "Manifest", "Signed"]
