"""One teacher, trained on labels."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from .data import Dataset
from .evaluate import judge
from .loop import Batch, Plan, fit
from .losses import soft_cross_entropy
from .metrics import training_seconds
from .models import Teacher, create_teacher
from .run import Run, load_teacher
from .views import seed_of
from .watch import Watch


def teach(run: Run, name: str, data: Dataset, device: torch.device, watch: Watch) -> Teacher:
    """Train the teacher `name` of the run's recipe, unless that is done, and return it in evaluation mode.

    Its views are drawn from a seed of its own, so that it is later asked about views that it has not seen.
    """
    stage = f"teachers/{name}"
    if run.has(stage):
        return load_teacher(run, name).to(device)
    recipe = run.recipe.teachers[name]
    seed = seed_of(run.recipe.seed, "teach", name)
    torch.manual_seed(seed)
    untrained = create_teacher(recipe, len(data.labels), data.preprocessing)
    net = fit(
        untrained.net,
        data.train,
        data,
        recipe.training,
        lambda epoch: Plan(epoch, _labels),
        preprocessing=untrained.preprocessing,
        spec=recipe.views,
        seed=seed,
        run=run.folder,
        stage=stage,
        device=device,
        watch=watch,
    )
    config = {
        "model": recipe.model,
        "args": recipe.args,
        "classes": len(data.labels),
        "preprocessing": msgspec.to_builtins(untrained.preprocessing),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "seconds": training_seconds(run.folder, stage),
        "results": judge(net, data, untrained.preprocessing),
    }
    run.keep(stage, net, config)
    return untrained._replace(net=net)


def _labels(logits: Tensor, targets: Tensor, batch: Batch) -> dict[str, Tensor]:
    return {"labels": soft_cross_entropy(logits, targets)}
