"""The graph of a bundle as a torch module: pixels in, probabilities out. Callers do not normalise by hand."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..images import Pixels, Preprocessing


class Deployed(nn.Module):
    """A module that maps uint8 [batch, height, width, 3] to float32 [batch, classes]: normalise, classify, softmax.

    It computes in the dtype of its parameters; the softmax is in float32.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, classifier: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.classifier = classifier
        # (x / 255 - mean) / std in two operators, because engines do not merge the four. They work on whole rows of
        # pixels: ONNX Runtime is thirty times as slow with a factor that repeats after three numbers.
        width = preprocessing.input.width
        mean, std = (torch.tensor(values).repeat(width) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.logits(pixels).float().softmax(-1)

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the logits of the classifier, unchanged."""
        rows = pixels.to(self.scale.dtype).flatten(2) * self.scale + self.shift
        logits: torch.Tensor = self.classifier(rows.reshape(pixels.shape).permute(0, 3, 1, 2))
        return logits


class Reference:
    """A `Deployed` module with the interface of a session: lowered models are compared with it."""

    def __init__(self, module: Deployed) -> None:
        self._module = module

    @torch.inference_mode()
    def run(self, pixels: Pixels, /) -> NDArray[np.float32]:
        """Return the probabilities [batch, classes] that PyTorch computes."""
        probabilities: NDArray[np.float32] = self._module(torch.from_numpy(pixels)).numpy()
        return probabilities

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
