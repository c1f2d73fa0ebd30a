"""Where one can look inside a network: named places from shallow to deep, found by one rule per family."""

import re
from collections.abc import Callable, Mapping

from torch import nn

Rule = Callable[[nn.Module], Mapping[str, str]]


def taps_of(network: nn.Module) -> dict[str, str]:
    """Tap name → path of the module whose output it is; empty when no rule knows the network.

    Outputs are (B, D), (B, D, H', W') or (B, tokens, D). The first rule that finds anything decides.
    """
    for rule in RULES:
        found = dict(rule(network))
        if found:
            return found
    return {}


def resnet(network: nn.Module) -> Mapping[str, str]:
    """The stem's activation, then the stages: ``stem``, ``layer1`` …; ours, timm's and torchvision's ResNets."""
    stages = {name: name for name, _ in network.named_children() if re.fullmatch(r"layer\d", name)}
    stem = next((name for name in ("act1", "relu") if hasattr(network, name)), None)
    return {"stem": stem, **stages} if stages and stem else {}


def transformer(network: nn.Module) -> Mapping[str, str]:
    """The patches (``stem``), then the block that ends each quarter: ``block6`` is the output of the sixth block.

    Quarters of a depth that is no multiple of 4 are rounded up: depth 6 gives blocks 2, 3, 5, 6.
    """
    if type(getattr(network, "patch_embed", None)).__name__ == "PatchEmbed" and hasattr(network, "blocks"):  # timm
        stem, blocks = "patch_embed", "blocks"
    elif hasattr(network, "conv_proj") and hasattr(network, "encoder"):  # torchvision
        stem, blocks = "conv_proj", "encoder.layers"
    else:
        return {}
    paths = [f"{blocks}.{name}" for name, _ in network.get_submodule(blocks).named_children()]
    ends = sorted({-(-len(paths) * quarter // 4) for quarter in (1, 2, 3, 4)})
    return {"stem": stem} | {f"block{end}": paths[end - 1] for end in ends}


def timm_stages(network: nn.Module) -> Mapping[str, str]:
    """What timm calls the ends of a network's stages, as ``stage1``, ``stage2`` …

    Networks whose channels come last are left out: their maps would be taken for something else.
    """
    stages = getattr(network, "feature_info", None)
    if stages is None or getattr(network, "output_fmt", "NCHW") != "NCHW":
        return {}
    known = {path for path, _ in network.named_modules()}
    paths = [str(stage["module"]) for stage in stages if stage.get("module") in known]
    return {f"stage{place}": path for place, path in enumerate(paths, start=1)}


def named(network: nn.Module) -> Mapping[str, str]:
    """Parts that say by their name that they are a place to look at: ``hidden1``, ``block2``, ``stage3``, ``inc4a``."""
    names = [name for name, _ in network.named_children()]
    numbered = [name for name in names if re.fullmatch(r"(hidden|block|stage|inc|inception)\d+[a-z]?", name)]
    stem = ["stem"] if "stem" in names else []
    return {name: name for name in stem + numbered} if numbered else {}


def downsampled_stack(network: nn.Module) -> Mapping[str, str]:
    """What a stack called ``features`` has just before each loss of resolution, and at its end.

    torchvision's VGG (the usual relu1_2, relu2_2 …), SqueezeNet, MobileNet, DenseNet, EfficientNet, ConvNeXt. A batch
    norm does not count as an end: torchvision's DenseNet changes its output in place.
    """
    features = getattr(network, "features", None)
    if not isinstance(features, nn.Sequential):
        return {}
    parts = [(name, part) for name, part in features.named_children() if not isinstance(part, nn.BatchNorm2d)]
    ends = [parts[place - 1][0] for place in range(1, len(parts)) if _shrinks(parts[place][1])]
    if not ends:
        return {}
    if not _shrinks(parts[-1][1]):
        ends.append(parts[-1][0])
    return {f"stage{place}": f"features.{name}" for place, name in enumerate(ends, start=1)}


def _shrinks(part: nn.Module) -> bool:
    """Whether a convolution or pool inside has a stride above 1."""
    strided = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
    strides = [module.stride for module in part.modules() if isinstance(module, strided)]
    return any(max(stride) > 1 if isinstance(stride, tuple) else stride > 1 for stride in strides)


RULES: tuple[Rule, ...] = (resnet, transformer, timm_stages, named, downsampled_stack)
