"""The teachers' answers: computed once, stored, replayed."""

from .cost import Cost, cost, teachers_rate
from .fill import check, fill, fill_batch
from .store import Answers, Header, LogitStore, answer_bytes

__all__ = [
    "Answers",
    "Cost",
    "Header",
    "LogitStore",
    "answer_bytes",
    "check",
    "cost",
    "fill",
    "fill_batch",
    "teachers_rate",
]
