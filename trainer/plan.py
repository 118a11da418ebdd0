"""The plan of a run: what it costs on one device, and the least time that it takes on several machines."""

from __future__ import annotations

from typing import NamedTuple

from .arms import own_arm
from .counts import Counts
from .device import device_name, devices_here
from .estimate import Estimate, estimate, store_cost
from .logits import Cost
from .pace import Paces
from .run import Job
from .sharing import most_trainers, refusal


class Plan(NamedTuple):
    """The cost of a run.

    Attributes:
        counts, classes: the images that it is for, and the number of their classes.
        device: the name of the device whose times these are.
        stages: the seconds of each stage on one such device.
        epochs: the seconds of one epoch of each net, and of one view of the store, on one such device.
        store: the cost of the store on one such device; None if nothing is stored.
        processes: the processes on all machines, each with such a device. They fill the store together.
        trainers: how many of them train together.
        limit: why the others don't; "" if all do.
    """

    counts: Counts
    classes: int
    device: str
    stages: Estimate
    epochs: Estimate
    store: Cost | None
    processes: int
    trainers: int
    limit: str

    @property
    def least(self) -> Estimate:
        """The least seconds of each stage, when all processes share the run."""
        return self.stages.shared(self.processes, self.trainers)

    @property
    def pays_from(self) -> int | None:
        """The number of students from which on the store saves time, when all processes share the run."""
        return self.store.shared(self.processes, self.trainers).students if self.store else None


def plan_run(job: Job, counts: Counts, *, nodes: int, seconds: float) -> Plan:
    """Return the plan of the job's run for so many images, of which the job's images are a sample.

    Args:
        nodes: the number of machines like this one.
        seconds: how long the steps of each net are timed; see `Paces`.
    """
    recipe, arm = job.run.recipe, own_arm(job.run.recipe)
    processes = nodes * devices_here(job.device)
    paces = Paces(job, seconds, counts=counts, side_by_side=processes == 1)
    stages, is_streamed = estimate(recipe, [arm], paces), job.data.train.is_streamed
    return Plan(
        counts=counts,
        classes=paces.classes,
        device=device_name(job.device),
        stages=stages,
        epochs=Estimate(
            {name: paces.teacher(name, stages.teachers_at_once).epoch for name in recipe.teachers},
            arm.images(counts) * paces.seconds_to_answer if arm.stored_views else 0.0,
            {arm.stage: paces.student(arm).epoch},
        ),
        store=store_cost(recipe, paces),
        processes=processes,
        trainers=most_trainers(recipe, counts, processes, is_streamed=is_streamed),
        limit=refusal(recipe, counts, processes, is_streamed=is_streamed),
    )
