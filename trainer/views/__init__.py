"""Views: augmented images that are pure functions of (seed, sample, view number, spec), so that they can be replayed.

The same key gives the same pixels in any batch, order, process and epoch. So everything that is stored about a view,
such as the answer of a teacher, stays valid.
"""

from .keys import Keys, order, seed_of
from .spec import ExtraSpec, ViewSpec
from .view import View, enhance, render

__all__ = ["ExtraSpec", "Keys", "View", "ViewSpec", "enhance", "order", "render", "seed_of"]
