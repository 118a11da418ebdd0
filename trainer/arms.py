"""The arms of a run: its own student, and the students that it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from .data import Dataset, Split
from .losses import Teaching
from .recipe import Recipe
from .records import ArmRecord
from .run import PLAIN, STUDENT
from .views import ViewSpec

NO_VIEWS = ViewSpec()
"""The unchanged image: what mode `clean` shows and stores."""


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Attributes:
        stage: the folder in the run where the student is kept.
        teachers: the teachers that it learns from, in the recipe's order. Without any, the same net with the same
            initial weights learns from labels alone. As no store limits it then, it sees a new view in every epoch.
        recipe: the run's recipe, except for `views` and `student`.
        unlabelled: whether it also learns from images without labels. Without teachers it never does.
    """

    stage: str
    teachers: tuple[str, ...]
    recipe: Recipe
    unlabelled: bool = True

    def split(self, data: Dataset) -> Split:
        """Return the images that the student learns from."""
        return data.students if self.teachers and self.unlabelled else data.train

    def images(self, data: Dataset) -> int:
        """Return the number of images that the student learns from."""
        more = data.unlabelled if self.teachers and self.unlabelled else None
        return len(data.train) + (len(more) if more else 0)

    @property
    def spec(self) -> ViewSpec:
        """The specification of the views that the student sees."""
        is_clean = self.teachers and self.recipe.views.mode == "clean"  # without teachers, no store asks for that
        return NO_VIEWS if is_clean else self.recipe.views.spec

    @property
    def stored_views(self) -> int:
        """The number of views that it needs from a store: 0 if nothing is stored, and never more than it has epochs."""
        mode, epochs = self.recipe.views.mode, self.recipe.student.training.epochs
        counts = {"online": 0, "clean": 1, "exact": epochs, "replay": min(self.recipe.views.count, epochs)}
        return counts[mode] if self.teachers else 0

    def record(self) -> ArmRecord:
        """Return everything that tells this arm from the other arms of its run."""
        return ArmRecord(
            teachers=self.teachers,
            unlabelled=self.unlabelled,
            views=self.recipe.views,
            student=self.recipe.student,
        )

    def teaching(self) -> Teaching:
        """Return the recipe's loss for the teachers of this arm.

        Raises:
            ValueError: the recipe asks for something that its loss does not have.
        """
        student, teachers = self.recipe.student, [self.recipe.teachers[name] for name in self.teachers]
        return Teaching(
            names=self.teachers,
            weights=[teacher.weight for teacher in teachers],
            temperatures=[teacher.temperature for teacher in teachers],
            label_weight=student.label_weight,
            loss=student.loss,
            loss_args=student.loss_args,
            standardize=student.standardize,
            ensemble=student.ensemble,
        )


def own_arm(recipe: Recipe) -> Arm:
    """Return the arm of the run's own student, which learns from all teachers."""
    return Arm(STUDENT, tuple(recipe.teachers), recipe)


def plain_arm(recipe: Recipe) -> Arm:
    """Return the arm of the same student without teachers."""
    return Arm(PLAIN, (), recipe)
