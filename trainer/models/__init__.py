"""Networks that timm lacks, registered with it by import: RedNet and small-picture nets. And the student."""

from . import rednet, small
from .involution import Involution, involution
from .student import Student

__all__ = ["Involution", "Student", "involution", "rednet", "small"]
