"""Teachers for images of 28 to 64 pixels, registered with timm: RedNet, ResNet and MLP-Mixer."""

from __future__ import annotations

from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from .rednet import RedNet, create_rednet


class SmallResNet(ResNet):
    """ResNet whose stem is one 3x3 convolution without pooling, `[B, in_chans, H, W] -> [B, num_classes]`.

    Args:
        stem_stride: 1 keeps the resolution.
        channels: the widths of the four stages; the stem has 64 channels.
        **kwargs: arguments of timm's ResNet.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        in_chans: int = 3,
        stem_stride: int = 1,
        channels: tuple[int, ...] = (64, 128, 256, 512),
        zero_init_last: bool = True,
        **kwargs: Any,
    ) -> None:
        # timm types the block as an instance although it takes the class, and its layers by what it puts there itself.
        super().__init__(BasicBlock, layers, in_chans=in_chans, channels=channels, **kwargs)  # type: ignore[arg-type]
        stem_width = cast(int, self.bn1.num_features)
        self.conv1 = nn.Conv2d(in_chans, stem_width, 3, stem_stride, padding=1, bias=False)  # type: ignore[assignment]
        self.maxpool = nn.Identity()  # type: ignore[assignment]
        self.init_weights(zero_init_last=zero_init_last)


_cfg = {
    "num_classes": 1000,
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "classifier": "fc",
}
default_cfgs = generate_default_cfgs(
    {
        "resnet18_small.untrained": {**_cfg, "first_conv": "conv1"},
        "rednet26_small_k3.untrained": {**_cfg, "first_conv": "conv1.0"},
        "rednet26_small_k5.untrained": {**_cfg, "first_conv": "conv1.0"},
        "mixer_small.untrained": {**_cfg, "first_conv": "stem.proj", "classifier": "head"},
    }
)


@register_model
def resnet18_small(pretrained: bool = False, **kwargs: Any) -> SmallResNet:
    """Return ResNet-18 for small images: 11.17 M parameters at 10 classes."""
    kwargs = {"layers": (2, 2, 2, 2), **kwargs}
    return build_model_with_cfg(SmallResNet, "resnet18_small", pretrained, **kwargs)


@register_model
def rednet26_small_k3(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """Return RedNet-26 with kernel 3 and a stride-1 stem without pooling: 6.85 M parameters at 10 classes."""
    kwargs = {"kernel_size": 3, "stem_stride": 1, "stem_pool": False, **kwargs}
    return create_rednet("rednet26_small_k3", pretrained, 26, **kwargs)


@register_model
def rednet26_small_k5(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """Return RedNet-26 with kernel 5 and a stride-1 stem without pooling: 6.99 M parameters at 10 classes."""
    kwargs = {"kernel_size": 5, "stem_stride": 1, "stem_pool": False, **kwargs}
    return create_rednet("rednet26_small_k5", pretrained, 26, **kwargs)


@register_model
def mixer_small(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """Return MLP-Mixer (Tolstikhin et al., 2021) with 4-pixel patches, for images of `img_size` (32) pixels.

    It has 2.48 M parameters at 10 classes. Its bias is neither that of convolution nor that of involution: one learned
    matrix mixes the places, the same for all channels and images.
    """
    kwargs = {"img_size": 32, "patch_size": 4, "embed_dim": 192, "num_blocks": 8, **kwargs}
    return build_model_with_cfg(MlpMixer, "mixer_small", pretrained, **kwargs)
