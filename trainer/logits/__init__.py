"""The teachers' answers: computed once, stored, replayed."""

from .cost import Cost, cost, teachers_rate
from .precompute import FILL_BATCH, check, fill
from .store import Answers, Header, LogitStore, answer_bytes

__all__ = [
    "FILL_BATCH",
    "Answers",
    "Cost",
    "Header",
    "LogitStore",
    "answer_bytes",
    "check",
    "cost",
    "fill",
    "teachers_rate",
]
