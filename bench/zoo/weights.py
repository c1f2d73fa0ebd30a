"""Trained weights: the public files this project knows by name, timm's and torchvision's by tag, and our own.

Listing names and facts loads nothing heavy. A public network is a function marked ``@public`` that turns the tensors
of its file into a network; everything else about it stands in its card. A file is used only when it has the checksum
in its card, and is read without unpickling objects.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.contract import SetupError, Unsupported
from bench.zoo.datasets import EvalTransform
from bench.zoo.datasets.files import data_root
from bench.zoo.networks import Shape, from_torchvision, network_card, private_random, tagged_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.zoo.architectures import Normalised
    from bench.zoo.classifier import Classifier

Stored = Mapping[str, "Tensor"]
Read = Callable[[Stored], "nn.Module"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """How well a network must do on clean images before anything is measured on it.

    Args:
        accuracy: what was measured when the network was taken up, a fraction.
        dataset, split, count: where: the first ``count`` images of the split.
        kind: "top1" of the logits, or "linear_probe": see ``linear_probe``.
        slack: how much below ``accuracy`` still passes.
    """

    accuracy: float
    dataset: str
    split: str
    count: int
    kind: Literal["top1", "linear_probe"] = "top1"
    slack: float = 0.002

    @property
    def lowest(self) -> float:
        """The smallest accuracy that passes; half an image in ten thousand is left to rounding."""
        return self.accuracy - self.slack - 5e-5


@dataclass(frozen=True, kw_only=True)
class PublicCard:
    """A trained network that somebody published.

    Args:
        name: architecture and origin, joined by a dot.
        dataset: what it was trained on.
        family: see ``bench.zoo.networks.NetworkCard``.
        path: its file, relative to the data folder; without its ending for networks known by their tag.
        sha256: of that file; empty when any file of the right shapes will do.
        image_shape: (C, H, W) it takes.
        num_classes: K; 0 when it has no logits.
        mean, std: one number a channel, in intensities.
        transform: how pictures of other sizes become this size; None leaves it to the data set.
        gate: None when nobody has measured it here.
        read: turns the tensors of the file into the network; None for networks known by their tag.
    """

    name: str
    dataset: str
    family: str
    path: str
    sha256: str = ""
    image_shape: Shape
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    source: str
    transform: EvalTransform | None = None
    gate: Gate | None = None
    read: Read | None = field(default=None, repr=False)


_CARDS: dict[str, PublicCard] = {}


def public(**facts: Any) -> Callable[[Read], Read]:
    """Mark a function (stored tensors) → network as what reads one public file; ``facts`` are its card's."""

    def mark(read: Read) -> Read:
        card = PublicCard(read=read, **facts)
        _CARDS[card.name] = card
        return read

    return mark


def public_names() -> list[str]:
    """Every public file known by name; networks known by their tag are too many to list."""
    return sorted(_CARDS)


def public_card(name: str) -> PublicCard:
    """The card of a public file, or of one of timm's or torchvision's networks by its full tag (loads the library).

    Raises:
        SetupError: no such name, with the nearest ones.
    """
    if name in _CARDS:
        return _CARDS[name]
    if name in tagged_names():
        return _torchvision_card(name) if from_torchvision(name) else _timm_card(name)
    near = difflib.get_close_matches(name, [*_CARDS, *(tagged_names() if "." in name else ())])
    meant = f". Did you mean {' or '.join(repr(one) for one in near)}?" if near else ""
    raise SetupError(
        f"no trained network named {name!r}{meant}",
        f"there are: {', '.join(public_names())}; and those of timm and torchvision by their full tag",
    )


def load_public(name: str, root: Path | None = None) -> Classifier:
    """The trained network as a subject, on the CPU.

    Args:
        root: the data folder; None for the one that GLASSBENCH_DATA names.

    Raises:
        SetupError: no such name; its file is missing, damaged, or of another network.
        Unsupported: a network known by its tag has no file here and cannot be downloaded.
    """
    from bench.zoo.architectures import Normalised
    from bench.zoo.networks import wrap

    card = public_card(name)
    root = data_root(root)
    with private_random(0):  # first weights are drawn before they are overwritten
        network = card.read(_stored(card, root)) if card.read else _tagged(card, root)
    normalised = Normalised(network, card.mean, card.std)
    return wrap(normalised, name=name, num_classes=card.num_classes, image_shape=card.image_shape)


def start_from_public(normalised: Normalised, name: str, image_shape: Shape, root: Path | None = None) -> None:
    """Give an untrained network public weights, with the normalisation that they were trained with.

    Args:
        image_shape: (C, H, W) that the network takes.
        root: as for ``load_public``.

    Raises:
        SetupError: they are of another architecture, or for images of another shape; or as for ``load_public``.
        Unsupported: as for ``load_public``.
    """
    import torch

    card = public_card(name)
    if card.image_shape != image_shape:
        raise SetupError(
            f"{name} takes images of shape {card.image_shape}, a network for {image_shape} cannot start from it",
            "name public weights for images of this shape, or train the start: start: {method: sgd, epochs: …}",
        )
    fill(normalised.inner, load_public(name, root).network.state_dict(), name)
    for own, public in ((normalised.mean, card.mean), (normalised.std, card.std)):
        own.copy_(torch.tensor(public).view_as(own))


def linear_probe(features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor) -> float:
    """Accuracy of a linear classifier on top of frozen features: the gate of a network without logits.

    Multinomial logistic regression on features standardised with the mean and deviation of the training part, L2
    strength C = 10, fitted by L-BFGS to convergence: nothing is drawn.

    Args:
        features, test_features: (N, D) and (M, D) float.
        labels, test_labels: (N,) and (M,) int64.

    Returns:
        the fraction of test features that get their label.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=10, max_iter=5000))
    probe.fit(features.double().cpu().numpy(), labels.cpu().numpy())
    return float(probe.score(test_features.double().cpu().numpy(), test_labels.cpu().numpy()))


# ---- reading files -------------------------------------------------------------------------------------------------


def _stored(card: PublicCard, root: Path | None) -> Stored:
    """The tensors of a public file, once its checksum is right."""
    where = f"{root}/{card.path}" if root else card.path
    advice = f"it comes from {card.source}; expected sha256 {card.sha256}"
    if root is None:
        raise SetupError(
            f"{card.name} needs the file {where} in a data folder, and no data folder is named",
            f"set GLASSBENCH_DATA or give --data DIR; {advice}",
        )
    path = root / card.path
    if not path.is_file():
        raise SetupError(f"{card.name} needs the file {where}, which is not there", f"put it there; {advice}")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise SetupError(
            f"{where} should have sha256 {card.sha256}, has {found}",
            f"the file is damaged or another one: get it again from {card.source}",
        )
    return _state_dict(content, path.suffix)


def _state_dict(content: bytes, ending: str) -> Stored:
    """Tensor by name from a safetensors file or one saved by torch, which may hold it among other things."""
    if ending == ".safetensors":
        from safetensors.torch import load

        return load(content)
    import torch

    stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return {name.removeprefix("module."): tensor for name, tensor in stored.get("state_dict", stored).items()}


def fill(network: nn.Module, state: Stored, where: str) -> None:
    """Copy ``state`` into the network's parameters and buffers, all of them and nothing else.

    Raises:
        SetupError: naming the first tensor that is missing, unknown, or of another shape.
    """
    wanted = network.state_dict()
    advice = "the file is of another network, or of another version of it"
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state and name.endswith("num_batches_tracked"):
            continue  # a counter that old files lack and that no trained network reads
        if name not in state:
            raise SetupError(f"{where} has no {name}, expected {tuple(wanted[name].shape)}", advice)
        if name not in wanted:
            raise SetupError(f"{where} has {name} {tuple(state[name].shape)}, which the network has not", advice)
        if state[name].shape != wanted[name].shape:
            raise SetupError(
                f"{where}: {name} should be {tuple(wanted[name].shape)}, got {tuple(state[name].shape)}", advice
            )
    network.load_state_dict(dict(state), strict=False)


# ---- our own weights -----------------------------------------------------------------------------------------------


def save_weights(normalised: nn.Module, path: Path) -> None:
    """Write all parameters and buffers as safetensors, whole or not at all."""
    from safetensors.torch import save

    content = save({name: tensor.detach().cpu().clone() for name, tensor in normalised.state_dict().items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def load_weights(normalised: nn.Module, path: Path) -> None:
    """Read what ``save_weights`` wrote into a network of the same architecture.

    Raises:
        SetupError: no such file, not a safetensors file, a tensor of another shape, or another normalisation.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.is_file():
        raise SetupError(f"weights file {path} is not there", "train the network again")
    try:
        state = load(path.read_bytes())
    except SafetensorError as error:
        raise SetupError(f"{path} is not a whole safetensors file: {error}", "delete it and train again") from error
    own = normalised.state_dict()
    for name in ("mean", "std"):
        if name in state and name in own and state[name].tolist() != own[name].tolist():
            raise SetupError(
                f"{path}: {name} is {state[name].flatten().tolist()}, expected {own[name].flatten().tolist()}",
                "these weights were trained with another normalisation",
            )
    fill(normalised, state, str(path))


# ---- networks of timm and torchvision ------------------------------------------------------------------------------

FILE_ENDINGS = (".safetensors", ".pth")


def _tagged(card: PublicCard, root: Path | None) -> nn.Module:
    """The trained network from a file in the data folder, else by its library's own way, which needs a connection."""
    load = _load_torchvision if from_torchvision(card.name) else _load_timm
    files = [root / f"{card.path}{ending}" for ending in FILE_ENDINGS] if root else []
    local = next((file for file in files if file.is_file()), None)
    if local is not None:
        try:
            return load(card.name, local)
        except SetupError:
            raise
        except Exception as error:  # a damaged file shows itself in many ways
            raise SetupError(
                f"{local} does not give {card.name}: {' '.join(str(error).split())[:300]}",
                "replace it by the state dict of exactly this network, as safetensors or saved by torch",
            ) from error
    try:
        return load(card.name, None)
    except Exception as error:  # what goes wrong without a connection differs from library to library
        names = " or ".join(f"{card.path}{ending}" for ending in FILE_ENDINGS)
        raise Unsupported(
            f"needs the weights of {card.name}: no {names} in {root or 'a data folder (set GLASSBENCH_DATA)'}, and no "
            f"download ({type(error).__name__}); put the file there, or run once with a connection"
        ) from error


def _load_timm(name: str, local: Path | None) -> nn.Module:
    import timm

    overlay = {"file": str(local)} if local else None
    network: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    return network


def _load_torchvision(name: str, local: Path | None) -> nn.Module:
    from torchvision.models import get_model

    model, _, tag = name.partition(".")
    network: nn.Module = get_model(model, weights=None if local else tag)
    if local:
        fill(network, _state_dict(local.read_bytes(), local.suffix), str(local))
    return network


def _timm_card(name: str) -> PublicCard:
    import timm
    from timm.data.config import resolve_data_config

    known = timm.get_pretrained_cfg(name)
    assert known is not None  # the name has been checked
    settings: dict[str, Any] = known.to_dict()  # type: ignore[no-untyped-call]
    data = resolve_data_config(pretrained_cfg=settings)  # type: ignore[no-untyped-call]
    return PublicCard(
        name=name,
        dataset="imagenet",
        family=network_card(name).family,
        path=f"weights/{name}",
        image_shape=tuple(data["input_size"]),
        num_classes=settings["num_classes"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        licence=settings.get("license") or "see timm",
        source=f"timm: {name}",
        transform=EvalTransform(
            size=data["input_size"][1],
            crop_pct=data["crop_pct"],
            interpolation=data["interpolation"],
            crop_mode="squash" if data["crop_mode"] == "squash" else "center",
        ),
    )


def _torchvision_card(name: str) -> PublicCard:
    from torchvision.models import get_model_weights

    model, _, tag = name.partition(".")
    weights = get_model_weights(model)[tag]
    transform = weights.transforms()
    size, resized = transform.crop_size[0], transform.resize_size[0]
    return PublicCard(
        name=name,
        dataset="imagenet",
        family=network_card(name).family,
        path=f"weights/{name}",
        image_shape=(3, size, size),
        num_classes=len(weights.meta["categories"]),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        licence="see torchvision",
        source=f"torchvision: {name}",
        transform=EvalTransform(size=size, crop_pct=size / resized, interpolation=transform.interpolation.value),
    )


# ---- the public files ----------------------------------------------------------------------------------------------


def _cifar_gate(accuracy: float) -> Gate:
    return Gate(accuracy=accuracy, dataset="cifar10_exact5k", split="test", count=1000)


def _imagenet_gate(accuracy: float) -> Gate:
    return Gate(accuracy=accuracy, dataset="nips17", split="test", count=1000)


def _cifar_resnet(depth: int, sha256: str, accuracy: float) -> dict[str, Any]:
    """The card of one of the CIFAR-10 ResNets that share an origin."""
    return {
        "name": f"resnet{depth}.akamaster",
        "dataset": "cifar10",
        "family": "resnet",
        "path": f"weights/cifar10/resnet{depth}-{sha256[:8]}.th",
        "sha256": sha256,
        "image_shape": (3, 32, 32),
        "num_classes": 10,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "licence": "BSD-2-Clause",
        "source": "github akamaster/pytorch_resnet_cifar10@d5489e8:pretrained_models",
        "gate": _cifar_gate(accuracy),
    }


@public(**_cifar_resnet(20, "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8", 0.915))
@public(**_cifar_resnet(32, "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850", 0.928))
@public(**_cifar_resnet(44, "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4", 0.933))
@public(**_cifar_resnet(56, "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367", 0.926))
def _akamaster(stored: Stored) -> nn.Module:
    blocks = sum(name.startswith("layer1.") and name.endswith(".conv1.weight") for name in stored)
    network = network_card(f"resnet{6 * blocks + 2}").build((3, 32, 32), 10)
    fill(network, stored, "the file")
    return network


@public(
    name="vit_d6w128p4.smmk47",
    dataset="cifar10",
    family="vit",
    path="weights/cifar10/vit_d6w128p4_smmk47.pth",
    sha256="2d061eb158b8ea126c1b96ee657862bf2217696ed40fff3bdc424007d13f1397",
    image_shape=(3, 32, 32),
    num_classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    licence="none stated",
    source="github smmk47/CIFAR10-Classification@6c007b7:vit_cifar10.pth",
    gate=_cifar_gate(0.705),
)
def _smmk47(stored: Stored) -> nn.Module:
    from bench.zoo.architectures import post_norm_vit

    renamed = {
        "transformer.layers.": "blocks.",
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "mlp_head.0.": "norm.",
        "mlp_head.1.": "head.",
    }
    network = post_norm_vit()
    state = {}
    for name, tensor in stored.items():
        for theirs, timms in renamed.items():
            name = name.replace(theirs, timms)
        state[name] = tensor
    fill(network, state, "the file")
    return network


@public(
    name="googlenet.bvlc_caffe",
    dataset="imagenet",
    family="googlenet",
    path="weights/imagenet/googlenet_bvlc_rgb.pth",
    sha256="3ec8913c325b6254908297c15fc390c9dc717d81b944b5b8688ad3c7b6998b3e",
    image_shape=(3, 224, 224),
    num_classes=1000,
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    licence="unrestricted use",
    source="github chaosmail/convnetjs-samples@dedfd56:examples/models/bvlc_googlenet/weights (joined; BGR to RGB)",
    gate=_imagenet_gate(0.713),
)
def _googlenet(stored: Stored) -> nn.Module:
    from bench.zoo.architectures import googlenet

    network = googlenet()
    fill(network, stored, "the file")
    return network


@public(
    name="squeezenet1_1.caffe",
    dataset="imagenet",
    family="squeezenet",
    path="weights/imagenet/squeezenet1_1_caffe_tvnorm.pth",
    sha256="47cd6033f1f9d9266e8c3053c7111c92e74d9e1c47075fcc344223226c866fa3",
    image_shape=(3, 224, 224),
    num_classes=1000,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    licence="BSD",
    source="github chaosmail/convnetjs-samples@d161d61:models/squeezenet/weights (joined; input scaling folded in)",
    gate=_imagenet_gate(0.531),
)
def _squeezenet(stored: Stored) -> nn.Module:
    from bench.zoo.architectures import squeezenet1_1

    network = squeezenet1_1()
    fill(network, stored, "the file")
    return network


@public(
    name="mobilenet_v2.keras_int8",
    dataset="imagenet",
    family="mobilenet",
    path="weights/imagenet/mobilenet_v2_keras_ptq_int8.pth",
    sha256="48455634c438fe426d1fc7479c18da4f7b9965ec2fd7fb17a4c873aa4b33b47c",
    image_shape=(3, 224, 224),
    num_classes=1000,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    licence="Apache-2.0",
    source="github google-coral/test_data@104342d:tf2_mobilenet_v2_1.0_224_ptq.tflite (kernels int8, as found)",
    gate=_imagenet_gate(0.797),
)
def _mobilenet(stored: Stored) -> nn.Module:
    """Kernels are stored as int8 with one scale an output channel; of each batch norm only the bias is left."""
    from torch import nn

    from bench.zoo.architectures import mobilenet_v2_tensorflow, without_batch_norm

    network = mobilenet_v2_tensorflow()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.fill_(1 - module.eps)  # with weight 1 and mean 0 it only adds its bias
    state = network.state_dict()
    for name, tensor in stored.items():
        scale = stored.get(f"{name.removesuffix('.weight')}.scale")
        if name.endswith(".weight") and scale is not None:
            tensor = tensor.float() * scale.view(-1, *[1] * (tensor.ndim - 1))
        if not name.endswith(".scale"):
            state[name] = tensor
    fill(network, state, "the file")
    return without_batch_norm(network)


@public(
    name="resnet18_trunk.torchvision_layer3",
    dataset="imagenet",
    family="resnet",
    path="weights/imagenet/resnet18_trunk_layer3_bnfolded.pth",
    sha256="746b71ccdd78efddd0b2a582bd176157274bd1c4b104ab9883510123335cffe7",
    image_shape=(3, 224, 224),
    num_classes=0,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    licence="none stated",
    source="github shiyegao/CudaResnet18@85b5947:weights (an export of torchvision's network)",
    gate=Gate(accuracy=0.869, dataset="imagenette", split="test", count=1500, kind="linear_probe", slack=0.005),
)
def _resnet18_trunk(stored: Stored) -> nn.Module:
    from bench.zoo.architectures import resnet18_trunk, without_batch_norm

    network = resnet18_trunk()
    fill(network, stored, "the file")
    return without_batch_norm(network)
