"""The teachers' answers: computed once, stored, replayed."""

from .precompute import check, fill
from .store import Header, LogitStore

__all__ = ["Header", "LogitStore", "check", "fill"]
