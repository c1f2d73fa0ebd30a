"""Where VITAL looks into a network, by family: the stem's convolution, then up to five maps on the way to the head.

Görgün et al. 2025, arXiv:2503.22399: the public code's hooks for ResNet, DenseNet, ConvNeXt and ViT [code]; the rest by
the rule "stem and stage ends" [our choice].
"""

import re
from collections.abc import Callable, Iterator

from torch import nn

Rule = Callable[[nn.Module], list[str]]
OFFICIAL_BLOCKS = {12: (0, 4, 8, 11), 24: (2, 9, 20, 23)}  # depth → blocks, counted from 0 [code]
POOLS = (nn.MaxPool2d, nn.AvgPool2d)
ENDS = (nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear)  # of what still has positions


def taps_of(network: nn.Module) -> dict[str, str]:
    """``stem``, ``s1``, ``s2`` … → path of the module whose output it is; empty when no rule knows the network."""
    paths = next((found for rule in RULES if (found := rule(network))), [])
    return {f"s{place}" if place else "stem": path for place, path in enumerate(paths)}


def resnet(network: nn.Module) -> list[str]:
    """The first convolution, before its norm, and the stages; torchvision's, timm's and those for small images."""
    stages = [name for name, _ in network.named_children() if re.fullmatch(r"layer\d", name)]
    return ["conv1", *stages] if stages and hasattr(network, "conv1") else []


def densenet(network: nn.Module) -> list[str]:
    """The first convolution and the dense blocks, the last one before its norm."""
    children = dict(network.named_children()).get("features", nn.Identity())
    blocks = [f"features.{name}" for name, _ in children.named_children() if re.fullmatch(r"denseblock\d", name)]
    return ["features.conv0", *blocks] if blocks else []


def convnext(network: nn.Module) -> list[str]:
    """The stem with its norm, the convolutions that open stages 2 to 4, and the last block after its sum."""
    if type(network).__name__ != "ConvNeXt":
        return []
    if hasattr(network, "features"):  # torchvision
        return ["features.0", *(f"features.{place}.1" for place in (2, 4, 6)), "features.7"]
    return ["stem", *(f"stages.{place}.downsample.1" for place in (1, 2, 3)), "stages.3"]


def googlenet(network: nn.Module) -> list[str]:
    """The stem's first and last convolution and the last module of each size; torchvision's."""
    ends = ["conv1.conv", "conv3", "inception3b", "inception4e", "inception5b"]
    return ends if hasattr(network, "inception5b") else []


def transformer(network: nn.Module) -> list[str]:
    """The patches' convolution and four blocks: those of the public code for its depths, else the ends of quarters."""
    if hasattr(network, "conv_proj") and hasattr(network, "encoder"):  # torchvision
        stem, blocks = "conv_proj", "encoder.layers"
    elif type(getattr(network, "patch_embed", None)).__name__ == "PatchEmbed" and hasattr(network, "blocks"):  # timm
        stem, blocks = "patch_embed.proj", "blocks"
    else:
        return []
    paths = [f"{blocks}.{name}" for name, _ in network.get_submodule(blocks).named_children()]
    quarters = sorted({-(-len(paths) * quarter // 4) - 1 for quarter in (1, 2, 3, 4)})
    return [stem, *(paths[place] for place in OFFICIAL_BLOCKS.get(len(paths), quarters))]


def convolution_blocks(network: nn.Module) -> list[str]:
    """The convolution that opens each block of a small plain network."""
    blocks = [(name, part) for name, part in network.named_children() if re.fullmatch(r"block\d+", name)]
    opened = [name for name, part in blocks if isinstance(part, nn.Sequential) and isinstance(part[0], nn.Conv2d)]
    return [f"{name}.0" for name in opened] if len(opened) == len(blocks) else []


def stack(network: nn.Module) -> list[str]:
    """The first convolution, the map before each loss of resolution and the last: VGG, GoogLeNet, MobileNetV2 …

    After a strided stem, maps of its own size are left out, as they are in a ResNet.
    """
    inside = getattr(network, "features", network)
    if not isinstance(inside, nn.Sequential):
        return []
    parts = list(_parts(inside, "features." if inside is not network else ""))
    last = next((place for place, (_, part) in enumerate(parts) if isinstance(part, ENDS)), len(parts))
    parts = parts[:last]
    stem = next((place for place, (_, part) in enumerate(parts) if isinstance(part, nn.Conv2d)), None)
    if stem is None:
        return []
    shrinking = [place for place in range(stem + 1, len(parts)) if _shrinks(parts[place][1])]
    ends = [place - 1 for place in shrinking] + ([len(parts) - 1] if len(parts) - 1 not in shrinking else [])
    ends = [place for place in ends if place > stem]
    return [parts[place][0] for place in (stem, *(ends[1:] if _shrinks(parts[stem][1]) else ends))]


RULES: tuple[Rule, ...] = (resnet, densenet, convnext, googlenet, transformer, convolution_blocks, stack)


def _parts(container: nn.Sequential, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of what is done one after the other, looking into sequences."""
    for name, part in container.named_children():
        if isinstance(part, nn.Sequential):
            yield from _parts(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part


def _shrinks(part: nn.Module) -> bool:
    """Whether a convolution or pool inside has a stride above 1."""
    strides = [module.stride for module in part.modules() if isinstance(module, (nn.Conv2d, *POOLS))]
    return any(max(stride) > 1 if isinstance(stride, tuple) else stride > 1 for stride in strides)
