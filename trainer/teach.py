"""One teacher, trained on labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .data import Dataset
from .evaluate import judge
from .loop import Plan, fit
from .losses import soft_cross_entropy
from .metrics import training_seconds
from .run import Run, create_teacher, load_teacher
from .views import seed_of
from .watch import Watch


def teach(run: Run, name: str, data: Dataset, device: torch.device, watch: Watch) -> nn.Module:
    """Train the teacher `name` of the run's recipe, unless that is done, and return it in evaluation mode.

    Its views are drawn from a seed of its own, so that it is later asked about views that it has not seen.
    """
    stage = f"teachers/{name}"
    if run.has(stage):
        return load_teacher(run, name).to(device)
    teacher = run.recipe.teachers[name]
    seed = seed_of(run.recipe.seed, "teach", name)
    torch.manual_seed(seed)
    model = create_teacher(teacher, len(data.labels))

    def objective(logits: Tensor, targets: Tensor, places: Tensor) -> dict[str, Tensor]:
        return {"labels": soft_cross_entropy(logits, targets)}

    model = fit(
        model,
        data,
        teacher.training,
        lambda epoch: Plan(epoch, objective),
        spec=teacher.views,
        seed=seed,
        run=run.folder,
        stage=stage,
        device=device,
        watch=watch,
    )
    config = {
        "model": teacher.model,
        "args": teacher.args,
        "classes": len(data.labels),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": training_seconds(run.folder, stage),
        "results": judge(model, data, device),
    }
    run.keep(stage, model, config)
    return model
