"""RedNet (Li et al., CVPR 2021): ResNet with involutions instead of 3x3 convolutions, registered with timm."""

from __future__ import annotations

from typing import Any, cast

from timm.layers import get_act_layer, get_norm_layer
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from .involution import Involution

DEPTHS = {26: (1, 2, 4, 1), 38: (2, 3, 5, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class InvolutionBottleneck(Bottleneck):
    """The bottleneck of ResNet, with an involution as its middle layer."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1, *args: Any, kernel_size: int = 7, **kwargs: Any):
        super().__init__(inplanes, planes, stride, *args, **kwargs)
        if self.dilation != 1:
            raise ValueError("involution has no dilation: RedNet has only output stride 32")
        involution = Involution(self.conv2.out_channels, kernel_size, stride)
        self.conv2 = involution  # type: ignore[assignment]  # timm types its layers by what it puts there itself


class RedNet(ResNet):
    """RedNet, `[B, in_chans, H, W] -> [B, num_classes]`.

    Args:
        kernel_size: the size of the involutions in the bottlenecks; 7 as published, 3 or 5 for small images.
        stem_stride: 2 as published; 1 keeps the resolution of small images.
        stem_pool: whether max-pooling follows the stem.
        **kwargs: arguments of timm's ResNet (`layers`, `channels`, `num_classes`, `drop_path_rate`, ...).
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        in_chans: int = 3,
        kernel_size: int = 7,
        stem_stride: int = 2,
        stem_pool: bool = True,
        act_layer: str = "relu",
        norm_layer: str = "batchnorm2d",
        zero_init_last: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            InvolutionBottleneck,  # type: ignore[arg-type]  # timm takes the class, and types it as an instance
            layers,
            in_chans=in_chans,
            block_args={"kernel_size": kernel_size},
            act_layer=act_layer,
            norm_layer=norm_layer,
            **kwargs,
        )
        act, norm, width = get_act_layer(act_layer), get_norm_layer(norm_layer), 32
        stem_width = cast(int, self.bn1.num_features)
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, stem_stride, padding=1, bias=False),
            norm(width),
            act(inplace=True),
            Involution(width, kernel_size=3),
            norm(width),
            act(inplace=True),
            nn.Conv2d(width, stem_width, 3, padding=1, bias=False),
        )
        if not stem_pool:
            self.maxpool = nn.Identity()  # type: ignore[assignment]
        self.init_weights(zero_init_last=zero_init_last)


def create_rednet(variant: str, pretrained: bool, depth: int, **kwargs: Any) -> RedNet:
    """Return a RedNet of one of the published depths, created as timm creates its own nets."""
    kwargs = {"layers": DEPTHS[depth], **kwargs}
    return build_model_with_cfg(RedNet, variant, pretrained, **kwargs)


_cfg = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "conv1.0",
    "classifier": "fc",
}
default_cfgs = generate_default_cfgs({f"rednet{depth}.untrained": _cfg for depth in DEPTHS})


@register_model
def rednet26(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """Return RedNet-26: 9.23 M parameters at 1000 classes."""
    return create_rednet("rednet26", pretrained, 26, **kwargs)


@register_model
def rednet38(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """Return RedNet-38: 12.39 M parameters at 1000 classes."""
    return create_rednet("rednet38", pretrained, 38, **kwargs)


@register_model
def rednet50(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """Return RedNet-50: 15.54 M parameters at 1000 classes."""
    return create_rednet("rednet50", pretrained, 50, **kwargs)


@register_model
def rednet101(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """Return RedNet-101: 25.65 M parameters at 1000 classes."""
    return create_rednet("rednet101", pretrained, 101, **kwargs)


@register_model
def rednet152(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """Return RedNet-152: 33.99 M parameters at 1000 classes."""
    return create_rednet("rednet152", pretrained, 152, **kwargs)
