"""Views: augmented pictures that are pure functions of (seed, sample, view number, spec), so that they can be replayed.

Whatever is stored about a view, a teacher's answer above all, stays true: the same key gives the same pixels in any
batch, order, process and epoch.
"""

from .keys import Keys, order, seed_of
from .spec import ExtraSpec, ViewSpec
from .view import View, enhance, render

__all__ = ["ExtraSpec", "Keys", "View", "ViewSpec", "enhance", "order", "render", "seed_of"]
