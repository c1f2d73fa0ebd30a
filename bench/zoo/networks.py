"""The networks by name: which there are, what they need, how one is built, and how it becomes a subject.

Nothing heavy is loaded before a network is built. A network is a function marked ``@network`` that takes
(image_shape, num_classes) and returns a module from normalised (B, C, H, W) images to (B, K) logits; its name is the
function's, its description the first line of its docstring. Besides these, every network of timm and torchvision is
known by its full tag, ``resnet50.tv_in1k`` or ``resnet50.IMAGENET1K_V1`` (torchvision): a name without its tag does
not say which weights and which normalisation are meant.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contract import SetupError

if TYPE_CHECKING:
    from torch import nn

    from bench.zoo.architectures import Normalised
    from bench.zoo.classifier import Classifier

Shape = tuple[int, int, int]  # (C, H, W)
Builder = Callable[[Shape, int], "nn.Module"]


@dataclass(frozen=True, kw_only=True)
class NetworkCard:
    """What is known of a network before it is built.

    Args:
        family: networks of one family share their ways; a referee should come from another one.
        min_size: smallest height and width, in pixels.
        step: height and width must be multiples of this.
        build: (image_shape, num_classes) → the bare network.
    """

    name: str
    family: str
    description: str
    min_size: int
    step: int = 1
    build: Builder = field(repr=False)


_CARDS: dict[str, NetworkCard] = {}


def network(*, family: str, min_size: int, step: int = 1) -> Callable[[Builder], Builder]:
    """Mark a builder as a network; see ``NetworkCard`` for the arguments.

    Raises:
        SetupError: another network has the name already.
    """

    def mark(build: Builder) -> Builder:
        name = build.__name__
        if name in _CARDS:
            raise SetupError(f"there is a network named {name!r} already", "give yours another name")
        description = (build.__doc__ or "").strip().partition("\n")[0]
        _CARDS[name] = NetworkCard(
            name=name, family=family, description=description, min_size=min_size, step=step, build=build
        )
        return build

    return mark


def network_names() -> list[str]:
    """Every marked network; those known by their tag are too many to list."""
    return list(_CARDS)


def network_card(name: str) -> NetworkCard:
    """The card of a marked network, or of one of timm's or torchvision's by its full tag.

    Raises:
        SetupError: no such name, with the nearest ones; or a name without its tag, with the tags there are.
    """
    if name in _CARDS:
        return _CARDS[name]
    tagged = tagged_names()
    if name in tagged:
        return _tagged_card(name)
    tags = sorted(known for known in tagged if known.startswith(f"{name}."))
    if tags:
        raise SetupError(f"{name!r} does not say which weights are meant", f"write one of: {', '.join(tags)}")
    near = difflib.get_close_matches(name, [*_CARDS, *(tagged if "." in name else ())])
    meant = f". Did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
    raise SetupError(
        f"no network named {name!r}{meant}",
        f"there are: {', '.join(_CARDS)}; and those of timm and torchvision by their full tag, as in resnet50.tv_in1k",
    )


# ---- networks by their tag -----------------------------------------------------------------------------------------


@cache
def tagged_names() -> frozenset[str]:
    """``model.tag`` of everything that timm and torchvision have ImageNet-like weights for.

    Read from the libraries' source, because importing them takes seconds and a mistyped name is to be told at once.
    """
    names: set[str] = set()
    for source in _sources("timm"):
        keys = re.findall(r"""^\s+['"](\w+\.\w+)['"]\s*:""", source, re.MULTILINE)
        names.update(key for key in keys if not key.endswith(".untrained"))
    for source in _sources("torchvision"):
        for model, body in re.findall(r"^class (\w+)_Weights\(WeightsEnum\):\n((?:    .*\n|\n)+)", source, re.M):
            tags = re.findall(r"^    (IMAGENET1K_\w+) = ", body, re.MULTILINE)
            names.update(f"{model.lower()}.{tag}" for tag in tags)
    return frozenset(names)


def _sources(library: str) -> Iterator[str]:
    """The text of each file of ``library.models``; none when the library is not installed."""
    found = importlib.util.find_spec(library)
    if found is not None and found.origin is not None:
        for path in sorted((Path(found.origin).parent / "models").glob("*.py")):
            yield path.read_text(encoding="utf-8")


def from_torchvision(name: str) -> bool:
    """Whether a tagged name is torchvision's; it is timm's otherwise."""
    return ".IMAGENET1K_" in name


def _tagged_card(name: str) -> NetworkCard:
    library, build = ("torchvision", _torchvision) if from_torchvision(name) else ("timm", _timm)
    family = re.match(r"[a-z]+", name)
    return NetworkCard(
        name=name,
        family=family[0] if family else name,
        description=f"{library}'s {name.partition('.')[0]}",
        min_size=32,
        build=partial(build, name),
    )


def _timm(name: str, image_shape: Shape, num_classes: int) -> nn.Module:
    import timm

    channels, *size = image_shape
    settings = timm.get_pretrained_cfg(name)
    assert settings is not None  # the name has been checked
    options: dict[str, Any] = {"in_chans": channels, "num_classes": num_classes}
    if settings.fixed_input_size and tuple(settings.input_size[1:]) != tuple(size):
        options["img_size"] = tuple(size)
    built: nn.Module = timm.create_model(name, pretrained=False, **options)
    return built


def _torchvision(name: str, image_shape: Shape, num_classes: int) -> nn.Module:
    from torchvision.models import get_model

    if image_shape[0] != 3:
        raise SetupError(f"{name} takes images of 3 channels, got {image_shape[0]}", "timm's networks take any number")
    built: nn.Module = get_model(name.partition(".")[0], weights=None, num_classes=num_classes)
    return built


# ---- our own networks ----------------------------------------------------------------------------------------------


@network(family="mlp", min_size=1)
def mlp(image_shape: Shape, num_classes: int) -> nn.Module:
    """Two hidden layers, 512 and 256, with batch norm, leaky ReLU and dropout."""
    from bench.zoo import architectures

    return architectures.mlp(image_shape, num_classes)


@network(family="cnn", min_size=8)
def cnn(image_shape: Shape, num_classes: int) -> nn.Module:
    """Three convolutions with batch norm, leaky ReLU, pool and channel dropout; 256 hidden units."""
    from bench.zoo import architectures

    return architectures.cnn(image_shape, num_classes)


@network(family="vgg", min_size=32)
def vgg16_bn(image_shape: Shape, num_classes: int) -> nn.Module:
    """VGG-16 with batch norm and one linear layer, for 32 pixels."""
    from bench.zoo import architectures

    return architectures.vgg16_bn(image_shape, num_classes)


@network(family="vgg", min_size=16)
def vgg19_bn(image_shape: Shape, num_classes: int) -> nn.Module:
    """VGG-19 with batch norm, a mean over positions for the last pool and one linear layer, for small images."""
    from bench.zoo import architectures

    return architectures.vgg19_bn(image_shape, num_classes)


@network(family="googlenet", min_size=8)
def googlenet_small(image_shape: Shape, num_classes: int) -> nn.Module:
    """GoogLeNet with batch norm and a 3×3 stem, two 3×3 convolutions for each 5×5, for small images."""
    from bench.zoo import architectures

    return architectures.googlenet_small(image_shape, num_classes)


@network(family="resnet", min_size=4)
def resnet_mini(image_shape: Shape, num_classes: int) -> nn.Module:
    """Three residual blocks of 20, 40 and 80 channels: a small referee of another family than cnn."""
    from bench.zoo.architectures import small_resnet

    return small_resnet(image_shape, num_classes, widths=(20, 40, 80), blocks=1, projection=True)


@network(family="resnet", min_size=8)
def resnet18(image_shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-18 with a 3×3 stem and no first pool, for small images."""
    from bench.zoo.architectures import small_resnet

    return small_resnet(image_shape, num_classes, widths=(64, 128, 256, 512), blocks=2, projection=True)


@network(family="resnet", min_size=32)
def resnet18_224(image_shape: Shape, num_classes: int) -> nn.Module:
    """ResNet-18 as torchvision has it, with the 7×7 stem and first pool of ImageNet."""
    return _torchvision("resnet18", image_shape, num_classes)


def _cifar_resnet(image_shape: Shape, num_classes: int, blocks: int) -> nn.Module:
    """He et al. 2016, section 4.2: widths 16, 32, 64 and shortcuts without parameters."""
    from bench.zoo.architectures import small_resnet

    return small_resnet(image_shape, num_classes, widths=(16, 32, 64), blocks=blocks, projection=False)


@network(family="resnet", min_size=4)
def resnet20(image_shape: Shape, num_classes: int) -> nn.Module:
    """CIFAR ResNet of 20 layers, shortcuts without parameters."""
    return _cifar_resnet(image_shape, num_classes, 3)


@network(family="resnet", min_size=4)
def resnet32(image_shape: Shape, num_classes: int) -> nn.Module:
    """CIFAR ResNet of 32 layers, shortcuts without parameters."""
    return _cifar_resnet(image_shape, num_classes, 5)


@network(family="resnet", min_size=4)
def resnet44(image_shape: Shape, num_classes: int) -> nn.Module:
    """CIFAR ResNet of 44 layers, shortcuts without parameters."""
    return _cifar_resnet(image_shape, num_classes, 7)


@network(family="resnet", min_size=4)
def resnet56(image_shape: Shape, num_classes: int) -> nn.Module:
    """CIFAR ResNet of 56 layers, shortcuts without parameters."""
    return _cifar_resnet(image_shape, num_classes, 9)


@network(family="vit", min_size=8, step=4)
def deit_pico(image_shape: Shape, num_classes: int) -> nn.Module:
    """Vision transformer of width 96, depth 6, 3 heads, patches of 4 pixels: trains in minutes on a CPU."""
    from bench.zoo.architectures import small_vit

    return small_vit(image_shape, num_classes, width=96, depth=6, heads=3)


@network(family="vit", min_size=8, step=4)
def deit_tiny(image_shape: Shape, num_classes: int) -> nn.Module:
    """Vision transformer of width 192, depth 12, 3 heads, patches of 4 pixels (Touvron et al. 2021, table 1)."""
    from bench.zoo.architectures import small_vit

    return small_vit(image_shape, num_classes, width=192, depth=12, heads=3)


# ---- from a name to a subject --------------------------------------------------------------------------------------


@contextmanager
def private_random(seed: int) -> Iterator[None]:
    """Inside, torch's generator on the CPU starts from ``seed``; afterwards it is as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def untrained(
    name: str,
    *,
    num_classes: int,
    image_shape: Shape,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> Normalised:
    """The network with its first weights: takes float32 intensities in [0, 1], returns (B, K) logits.

    Args:
        image_shape: (C, H, W).
        mean, std: one number a channel, in intensities.
        seed: decides the first weights; the global generator is left as it was.

    Raises:
        SetupError: no such network, or not for images of this shape.
    """
    card = network_card(name)
    channels, *size = image_shape
    if min(size) < card.min_size:
        raise SetupError(
            f"{name} takes images of at least {card.min_size} x {card.min_size} pixels, got {size[0]} x {size[1]}",
            "choose another network, or a data set of larger images",
        )
    if any(length % card.step for length in size):
        raise SetupError(
            f"{name} takes images whose sides are multiples of {card.step} pixels, got {size[0]} x {size[1]}",
            "choose another network or data set",
        )
    if not len(mean) == len(std) == channels:
        raise SetupError(
            f"{name}: mean and std have {len(mean)} and {len(std)} numbers for {channels} channels",
            "give one number a channel",
        )
    from bench.zoo.architectures import Normalised

    with private_random(seed):
        return Normalised(card.build(image_shape, num_classes), mean, std)


def wrap(normalised: Normalised, *, name: str, num_classes: int, image_shape: Shape) -> Classifier:
    """The subject around a network: frozen and in eval mode from here on, with the taps its family has.

    Args:
        name: how records call it.
        num_classes: K; 0 when the network has no logits.
    """
    from bench.zoo.classifier import Classifier
    from bench.zoo.taps import taps_of

    for module in normalised.inner.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # or a layer behind a tap would change what was tapped
    classifier = Classifier(
        normalised.inner,
        name=name,
        image_shape=image_shape,
        num_classes=num_classes,
        mean=normalised.mean.flatten().tolist(),
        std=normalised.std.flatten().tolist(),
        taps=taps_of(normalised.inner),
    )
    return classifier.to(normalised.mean.device)
