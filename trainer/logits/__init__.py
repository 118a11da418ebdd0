"""The logits of the teachers: computed once, stored, and read again in every epoch."""

from .checking import CheckResult, check
from .cost import Cost, cost
from .fill import FillResult, fill_batch, fill_missing
from .store import Answers, Header, LogitStore, answer_bytes, read_header

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
    "read_header",
]
