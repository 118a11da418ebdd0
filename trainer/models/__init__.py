"""The nets of teachers and students.

Importing this package registers nets with timm that timm does not have: RedNet, and nets for small images.
"""

from . import rednet, small
from .involution import Involution, involution
from .student import Student, create_student
from .teacher import Teacher, create_teacher

__all__ = ["Involution", "Student", "Teacher", "create_student", "create_teacher", "involution", "rednet", "small"]
