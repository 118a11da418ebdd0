"""The logits of the teachers: computed once, stored, and read again in every epoch."""

from .checking import CheckResult, check
from .cost import Cost, cost
from .fill import FillResult, fill_batch, fill_missing
from .form import Answers, Form
from .store import Header, LogitStore, read_header

__all__ = [
    "Answers",
    "CheckResult",
    "Cost",
    "FillResult",
    "Form",
    "Header",
    "LogitStore",
    "check",
    "cost",
    "fill_batch",
    "fill_missing",
    "read_header",
]
