"""Networks that timm lacks, registered with it by import: RedNet and small-picture nets. The student, and teachers."""

from . import rednet, small
from .involution import Involution, involution
from .student import Student
from .teacher import Teacher, create_teacher

__all__ = ["Involution", "Student", "Teacher", "create_teacher", "involution", "rednet", "small"]
