"""The networks that are written here; timm and torchvision bring the rest.

Each is a module that takes normalised (B, C, H, W) images and returns (B, K) logits; ``Normalised`` goes around it.
Names of parts are those of the public weight files, where there are any, and those that ``bench.zoo.taps`` looks for.
timm and torchvision are loaded by those that need them: they take seconds that a small network need not wait for.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]


class Normalised(nn.Module):
    """A network with its normalisation: what is trained, and what weights are kept for.

    Args:
        inner: the bare network, takes (images − mean) / std.
        mean, std: one number a channel, in intensities.
    """

    def __init__(self, inner: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32 intensities in [0, 1] → (B, K) logits."""
        logits: Tensor = self.inner((images - self.mean) / self.std)
        return logits


def stack(**parts: nn.Module) -> nn.Sequential:
    """The parts one after the other, under their names."""
    return nn.Sequential(OrderedDict(parts))


# ---- plain networks ------------------------------------------------------------------------------------------------


def mlp(image_shape: Shape, num_classes: int) -> nn.Module:
    """P–512–256–K: batch norm, leaky ReLU 0.2 and dropout 0.4 after each hidden layer."""
    widths = (prod(image_shape), 512, 256)
    hidden = {
        f"hidden{place}": nn.Sequential(
            nn.Linear(fan_in, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2), nn.Dropout(0.4)
        )
        for place, (fan_in, width) in enumerate(pairwise(widths), start=1)
    }
    return stack(flatten=nn.Flatten(), **hidden, head=nn.Linear(widths[-1], num_classes))


def cnn(image_shape: Shape, num_classes: int) -> nn.Module:
    """Three blocks of 32, 64, 128 channels, each halving the picture, then 256 hidden units."""
    channels, height, width = image_shape
    blocks = {
        f"block{place}": nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, padding=1),
            nn.BatchNorm2d(fan_out),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.25),
        )
        for place, (fan_in, fan_out) in enumerate(pairwise((channels, 32, 64, 128)), start=1)
    }
    flat = 128 * (height // 8) * (width // 8)
    hidden = nn.Sequential(nn.Linear(flat, 256), nn.BatchNorm1d(256), nn.LeakyReLU(0.2), nn.Dropout(0.4))
    return stack(**blocks, flatten=nn.Flatten(), hidden1=hidden, head=nn.Linear(256, num_classes))


VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_bn(image_shape: Shape, num_classes: int) -> nn.Module:
    """Thirteen 3×3 convolutions with batch norm in five stages, each ended by a pool; one linear layer."""
    stages = {}
    fan_in = image_shape[0]
    for place, widths in enumerate(VGG16, start=1):
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Conv2d(fan_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            fan_in = width
        stages[f"stage{place}"] = nn.Sequential(*layers, nn.MaxPool2d(2))
    return he_start(
        stack(**stages, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(fan_in, num_classes))
    )


VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


def vgg19_bn(image_shape: Shape, num_classes: int) -> nn.Module:
    """Sixteen 3×3 convolutions with batch norm in five stages, a pool between two; mean over positions, one linear."""
    stages = {}
    fan_in = image_shape[0]
    for place, widths in enumerate(VGG19, start=1):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if place > 1 else []
        for width in widths:
            layers.append(conv_norm_relu(fan_in, width, 3))
            fan_in = width
        stages[f"stage{place}"] = nn.Sequential(*layers)
    return he_start(
        stack(**stages, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(fan_in, num_classes))
    )


def conv_norm_relu(fan_in: int, fan_out: int, size: int) -> nn.Module:
    """A convolution that keeps the picture's size, without the bias that batch norm would take away again."""
    conv = nn.Conv2d(fan_in, fan_out, size, padding=size // 2, bias=False)
    return stack(conv=conv, norm=nn.BatchNorm2d(fan_out), act=nn.ReLU())


def he_start(network: nn.Module) -> nn.Module:
    """Kernels from N(0, 2 / fan-out), so that ReLUs keep the size of gradients (He et al. 2015, section 2.2)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


# ---- residual networks for small images ----------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a way around them (He et al. 2016, figure 2).

    Args:
        projection: where the shape changes, go around by a 1×1 convolution with batch norm (option B);
            otherwise by every second pixel and channels of zeros, without parameters (option A).
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or fan_in != fan_out:
            self.shortcut = (
                nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))
                if projection
                else PaddedShortcut(fan_out - fan_in, stride)
            )

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, H, W) → (B, D', H / stride, W / stride), rounded up."""
        inside = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(features)))))
        return F.relu(inside + self.shortcut(features))


class PaddedShortcut(nn.Module):
    """Every ``stride``-th pixel, with ``extra`` channels of zeros, half of them on either side."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, H, W) → (B, D + extra, H / stride, W / stride), rounded up."""
        before = self.extra // 2
        return F.pad(features[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))


def small_resnet(
    image_shape: Shape, num_classes: int, *, widths: Sequence[int], blocks: int, projection: bool
) -> nn.Module:
    """A 3×3 stem, then one stage of ``blocks`` residual blocks a width, halving the picture from the second on."""
    stages = {}
    fan_in = widths[0]
    for place, width in enumerate(widths, start=1):
        first = ResidualBlock(fan_in, width, 1 if place == 1 else 2, projection)
        rest = [ResidualBlock(width, width, 1, projection) for _ in range(blocks - 1)]
        stages[f"layer{place}"] = nn.Sequential(first, *rest)
        fan_in = width
    stem = nn.Conv2d(image_shape[0], widths[0], 3, padding=1, bias=False)
    network = stack(
        conv1=stem,
        bn1=nn.BatchNorm2d(widths[0]),
        act1=nn.ReLU(),
        **stages,
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(fan_in, num_classes),
    )
    return he_start(network)


# ---- vision transformers -------------------------------------------------------------------------------------------


def small_vit(
    image_shape: Shape, num_classes: int, *, width: int, depth: int, heads: int, **settings: Any
) -> nn.Module:
    """A vision transformer with patches of 4 pixels; ``settings`` go to timm's class."""
    from timm.models.vision_transformer import VisionTransformer

    channels, height, width_of_image = image_shape
    return VisionTransformer(
        img_size=(height, width_of_image),
        patch_size=4,
        in_chans=channels,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        **settings,
    )


class PostNormBlock(nn.Module):
    """A transformer block that normalises after each sum, as in Vaswani et al. 2017, section 3.1, with ReLU."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, norm_layer: type[nn.Module], **unused: Any
    ) -> None:  # timm's class offers more settings than this block has
        from timm.layers.attention import Attention
        from timm.layers.mlp import Mlp

        super().__init__()
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=True)
        self.norm1 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer=nn.ReLU)
        self.norm2 = norm_layer(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, tokens, D) → the same axes."""
        tokens = self.norm1(tokens + self.attn(tokens))
        result: Tensor = self.norm2(tokens + self.mlp(tokens))
        return result


def post_norm_vit() -> nn.Module:
    """The small CIFAR-10 transformer of a public weight file: depth 6, width 128, 8 heads, 32 pixels."""
    norm = partial(nn.LayerNorm, eps=1e-5)
    return small_vit(
        (3, 32, 32), 10, width=128, depth=6, heads=8, mlp_ratio=2.0, norm_layer=norm, block_fn=PostNormBlock
    )


# ---- networks of public ImageNet weights ---------------------------------------------------------------------------


class Inception(nn.Module):
    """Four branches side by side, joined along the channels (Szegedy et al. 2015, figure 2b)."""

    def __init__(self, fan_in: int, one: int, three_in: int, three: int, five_in: int, five: int, pooled: int) -> None:
        super().__init__()
        self.b1 = nn.Conv2d(fan_in, one, 1)
        self.b3r, self.b3 = nn.Conv2d(fan_in, three_in, 1), nn.Conv2d(three_in, three, 3, padding=1)
        self.b5r, self.b5 = nn.Conv2d(fan_in, five_in, 1), nn.Conv2d(five_in, five, 5, padding=2)
        self.pp = nn.Conv2d(fan_in, pooled, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, H, W) → (B, one + three + five + pooled, H, W)."""
        branches = (
            self.b1(features),
            self.b3(F.relu(self.b3r(features))),
            self.b5(F.relu(self.b5r(features))),
            self.pp(F.max_pool2d(features, 3, 1, 1)),
        )
        return F.relu(torch.cat(branches, 1))


class SmallInception(nn.Module):
    """Four branches as in ``Inception``, with batch norm, and two 3×3 convolutions for each 5×5.

    Source: Szegedy et al. 2016, figure 5, arXiv:1512.00567, for the two.
    """

    def __init__(self, fan_in: int, one: int, three_in: int, three: int, five_in: int, five: int, pooled: int) -> None:
        super().__init__()
        self.one = conv_norm_relu(fan_in, one, 1)
        self.three = nn.Sequential(conv_norm_relu(fan_in, three_in, 1), conv_norm_relu(three_in, three, 3))
        self.five = nn.Sequential(
            conv_norm_relu(fan_in, five_in, 1), conv_norm_relu(five_in, five, 3), conv_norm_relu(five, five, 3)
        )
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm_relu(fan_in, pooled, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, H, W) → (B, one + three + five + pooled, H, W)."""
        return torch.cat([branch(features) for branch in (self.one, self.three, self.five, self.pooled)], 1)


def googlenet_small(image_shape: Shape, num_classes: int) -> nn.Module:
    """The nine inception modules of Szegedy et al. 2015, table 1, behind one 3×3 convolution to 192 channels."""
    network = stack(
        stem=conv_norm_relu(image_shape[0], 192, 3),
        inc3a=SmallInception(192, 64, 96, 128, 16, 32, 32),
        inc3b=SmallInception(256, 128, 128, 192, 32, 96, 64),
        pool3=nn.MaxPool2d(3, 2, 1),
        inc4a=SmallInception(480, 192, 96, 208, 16, 48, 64),
        inc4b=SmallInception(512, 160, 112, 224, 24, 64, 64),
        inc4c=SmallInception(512, 128, 128, 256, 24, 64, 64),
        inc4d=SmallInception(512, 112, 144, 288, 32, 64, 64),
        inc4e=SmallInception(528, 256, 160, 320, 32, 128, 128),
        pool4=nn.MaxPool2d(3, 2, 1),
        inc5a=SmallInception(832, 256, 160, 320, 32, 128, 128),
        inc5b=SmallInception(832, 384, 192, 384, 48, 128, 128),
        pool5=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        head=nn.Linear(1024, num_classes),
    )
    return he_start(network)


def googlenet() -> nn.Module:
    """GoogLeNet as Caffe trained it: response normalisation instead of batch norm, pools rounded up.

    Source: Szegedy et al. 2015, table 1.
    """

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    def response_norm() -> nn.Module:
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)

    return stack(
        conv1=nn.Conv2d(3, 64, 7, 2, 3),
        relu1=nn.ReLU(),
        pool1=pool(),
        norm1=response_norm(),
        conv2r=nn.Conv2d(64, 64, 1),
        relu2r=nn.ReLU(),
        conv2=nn.Conv2d(64, 192, 3, padding=1),
        stem=nn.ReLU(),
        norm2=response_norm(),
        pool2=pool(),
        inc3a=Inception(192, 64, 96, 128, 16, 32, 32),
        inc3b=Inception(256, 128, 128, 192, 32, 96, 64),
        pool3=pool(),
        inc4a=Inception(480, 192, 96, 208, 16, 48, 64),
        inc4b=Inception(512, 160, 112, 224, 24, 64, 64),
        inc4c=Inception(512, 128, 128, 256, 24, 64, 64),
        inc4d=Inception(512, 112, 144, 288, 32, 64, 64),
        inc4e=Inception(528, 256, 160, 320, 32, 128, 128),
        pool4=pool(),
        inc5a=Inception(832, 256, 160, 320, 32, 128, 128),
        inc5b=Inception(832, 384, 192, 384, 48, 128, 128),
        pool5=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(1024, 1000),
    )


def squeezenet1_1() -> nn.Module:
    """SqueezeNet 1.1 as torchvision has it."""
    from torchvision.models import squeezenet1_1 as build

    network: nn.Module = build(weights=None)
    return network


def mobilenet_v2_tensorflow() -> nn.Module:
    """MobileNetV2 as torchvision has it, but padded as in TensorFlow: a stride of 2 pads right and below."""
    from timm.layers.conv2d_same import Conv2dSame
    from torchvision.models import mobilenet_v2 as build

    network: nn.Module = build(weights=None)
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            same = Conv2dSame(module.in_channels, module.out_channels, 3, stride=2, groups=module.groups, bias=False)
            network.set_submodule(path, same)
    return network


def resnet18_trunk() -> nn.Module:
    """ResNet-18 as torchvision has it, from the stem to layer3, then the mean over positions: (B, 256), no logits."""
    from torchvision.models import resnet18 as build

    whole = build(weights=None)
    kept = {name: getattr(whole, name) for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")}
    return stack(**kept, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())


def without_batch_norm(network: nn.Module) -> nn.Module:
    """Move each batch norm into the convolution before it.

    For weights whose batch norm was folded by whoever published them: the layers left in the file hold no statistics
    of any data, and a method that looks for statistics should find none.
    """
    before: tuple[str, nn.Conv2d] | None = None
    for path, module in list(network.eval().named_modules()):
        if isinstance(module, nn.Conv2d):
            before = (path, module)
        elif isinstance(module, nn.BatchNorm2d) and before is not None:
            network.set_submodule(before[0], nn.utils.fuse_conv_bn_eval(before[1], module))
            network.set_submodule(path, nn.Identity())
    return network
