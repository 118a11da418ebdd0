"""The nets of teachers and students.

Importing this package registers nets with timm that timm does not have: RedNet, and nets for small images.
"""

from . import rednet, small
from .involution import Involution, involution
from .nets import check_nets, come_along
from .student import Student, create_student, size_step, student_preprocessing
from .teacher import Teacher, create_teacher
from .weights import classifiers

__all__ = [
    "Involution",
    "Student",
    "Teacher",
    "check_nets",
    "classifiers",
    "come_along",
    "create_student",
    "create_teacher",
    "involution",
    "rednet",
    "size_step",
    "small",
    "student_preprocessing",
]
