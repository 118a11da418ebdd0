"""The logits of the teachers: computed once, stored, and read again in every epoch."""

from .cost import Cost, cost, teachers_rate
from .fill import CheckResult, FillResult, check, fill_batch, fill_missing
from .store import Answers, Header, LogitStore, answer_bytes

__all__ = [
    "Answers",
    "CheckResult",
    "Cost",
    "FillResult",
    "Header",
    "LogitStore",
    "answer_bytes",
    "check",
    "cost",
    "fill_batch",
    "fill_missing",
    "teachers_rate",
]
