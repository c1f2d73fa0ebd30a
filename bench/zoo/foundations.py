"""Published judge networks: what they are, where their files come from, and how they look at images.

A distance "in Inception's features" means one particular file of weights, one way of resizing and one layer; other
files give other numbers under the same name. Each judge is therefore a card (file, checksum, origin) and a function
that builds the network from the checked bytes. The architectures are the libraries' own; nothing here downloads by
itself, and a judge without its file or library is ``Unsupported`` with what to do.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contract import SetupError, Unsupported
from bench.zoo.datasets.card import DataFile, DatasetCard
from bench.zoo.datasets.fetch import download
from bench.zoo.datasets.files import ROOT_VARIABLE, data_root
from bench.zoo.networks import private_random

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FOLDER = "weights/judges"
BATCH = 32  # images in one forward pass: bounds the memory at 299 px; no value depends on it
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

IMAGENET_LABELLED = ("imagenet", "imagenette", "nips17")  # data sets whose class k is ImageNet's

Look = Callable[..., "Tensor"]
Build = Callable[[bytes], "tuple[nn.Module, Look]"]


@dataclass(frozen=True, kw_only=True)
class JudgeCard:
    """What is known of a judge before its file is opened.

    Args:
        shows: what one call gives.
        file: where it lies below the data root, and its checksum: the whole sha256, or its first digits where the
            publisher gives no more (in the file's name).
        address: where the publisher serves it.
        checksum_from: who says that this is the checksum.
        mebibytes: about how large it is.
        library: the package that knows the architecture, by its name on the package index.
        build: bytes of the file → the network, and how to show it (B, 3, H, W) float32 intensities in [0, 1].
    """

    name: str
    shows: str
    file: DataFile
    address: str
    checksum_from: str
    mebibytes: int
    licence: str
    source: str
    library: str
    build: Build = field(repr=False)


class Judge:
    """A published network that looks at images.

    Args:
        digest: sha256 of the file that it was built from.
        network, look: what ``JudgeCard.build`` made.
    """

    def __init__(self, card: JudgeCard, digest: str, network: nn.Module, look: Look) -> None:
        self.card, self.digest, self.look = card, digest, look
        self.network: Any = network  # with the methods that its library gave it

    def to(self, device: torch.device) -> Judge:
        """The same judge on another device."""
        self.network.to(device)
        return self

    def __call__(self, *images: Tensor) -> Tensor:
        """What the network shows, (B, …) float32 without a graph; in batches.

        Args:
            images: (B, 3, H, W) or (B, 1, H, W) floating point intensities in [0, 1]; grey is shown as three equal
                channels. LPIPS takes two of them, the others one.

        Raises:
            ShapeError: other axes, another number of channels, or intensities outside [0, 1].
        """
        import torch

        from bench.ops import check_images

        check_images(**{f"images {place}": batch for place, batch in enumerate(images)})
        batches = zip(*(_in_colour(batch).float().split(BATCH) for batch in images), strict=True)
        with torch.no_grad():
            return torch.cat([self.look(*part) for part in batches])


def _in_colour(images: Tensor) -> Tensor:
    from bench.contract import ShapeError

    if images.shape[1] not in (1, 3):
        raise ShapeError(f"images should have 1 or 3 channels, got {images.shape[1]}")
    return images.expand(-1, 3, -1, -1)


_CARDS: dict[str, JudgeCard] = {}


def judge(*, path: str, checksum: str, **facts: Any) -> Callable[[Build], Build]:
    """Mark a function bytes → network as the builder of the judge of its name; the rest are its card's fields."""

    def mark(build: Build) -> Build:
        file = DataFile(path=f"{FOLDER}/{path}", checksum=f"sha256:{checksum}")
        _CARDS[build.__name__] = JudgeCard(name=build.__name__, file=file, build=build, **facts)
        return build

    return mark


def judge_names() -> list[str]:
    """Every judge known."""
    return sorted(_CARDS)


def judge_card(name: str) -> JudgeCard:
    """The card of ``name``.

    Raises:
        SetupError: no such judge, with the nearest name.
    """
    if name not in _CARDS:
        near = difflib.get_close_matches(name, _CARDS, n=1)
        guess = f". Did you mean {near[0]!r}?" if near else ""
        raise SetupError(f"no judge network named {name!r}{guess}", f"there are: {', '.join(judge_names())}")
    return _CARDS[name]


# ---- files ---------------------------------------------------------------------------------------------------------


def load_judge(name: str, root: Path | None = None) -> Judge:
    """The judge, on the CPU, built from its file once that has the right checksum.

    Args:
        root: the data root; None reads GLASSBENCH_DATA.

    Raises:
        Unsupported: its file or the library that knows its architecture is not here.
        SetupError: no such judge, or the file is not the published one.
    """
    card = judge_card(name)
    content = _content(card, data_root(root))
    try:
        with private_random(0):  # first weights are drawn before they are overwritten
            network, look = card.build(content)
    except ImportError as error:
        raise Unsupported(f"needs {card.library}") from error
    return Judge(card, hashlib.sha256(content).hexdigest(), network.eval().requires_grad_(False), look)


def _content(card: JudgeCard, root: Path | None) -> bytes:
    path = root / card.file.path if root is not None else None
    if path is None or not path.is_file():
        raise Unsupported(f"needs {card.file.path}, fetch with: run_bench.py fetch {card.name}")
    content = path.read_bytes()
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if not found.startswith(card.file.checksum):
        raise SetupError(
            f"{path} should have {card.file.checksum}, has {found}",
            f"the file is damaged or another one: delete it, then run: run_bench.py fetch {card.name}",
        )
    return content


def fetch_judge(name: str, root: Path | None = None, progress: bool = True) -> tuple[Path, str]:
    """Bring a judge's file below the data root; one that is there and right is left alone.

    Args:
        root: the data root, made when it does not exist; None reads GLASSBENCH_DATA.

    Returns:
        Its path and its sha256.

    Raises:
        SetupError: no such judge or no data root, the address does not answer, or what came has another checksum.
    """
    card = judge_card(name)
    if root is not None:
        root.mkdir(parents=True, exist_ok=True)
    root = data_root(root)
    if root is None:
        raise SetupError("fetch needs a data root", f"use --data DIR or {ROOT_VARIABLE}; {by_hand(card, None)}")
    try:
        _content(card, root)
    except (Unsupported, SetupError):
        try:
            download(card.file, root, [card.address], progress)
        except SetupError as error:
            raise SetupError(f"{name}: {error}", by_hand(card, root)) from error
    return root / card.file.path, hashlib.sha256(_content(card, root)).hexdigest()


def by_hand(card: JudgeCard, root: Path | None) -> str:
    """How to get the file without this program."""
    return (
        f"or get {card.address} ({card.mebibytes} MiB, {card.licence}) elsewhere and put it at"
        f" {root or 'the data root'}/{card.file.path}; expected {card.file.checksum} ({card.checksum_from})"
    )


def _tensors(content: bytes) -> Mapping[str, Tensor]:
    import torch

    stored: Mapping[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return stored


# ---- Inception -----------------------------------------------------------------------------------------------------


@judge(
    path="weights-inception-2015-12-05-6726825d.pth",
    checksum="6726825d",
    address="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    checksum_from="first digits, in the publisher's file name",
    mebibytes=91,
    licence="Apache-2.0",
    source="TensorFlow's Inception of 2015-12-05, on which FID is defined, converted by torch-fidelity",
    library="torch-fidelity",
    shows="(B, 2048) pooled features, what FID and KID are defined on",
)
def inception(content: bytes) -> tuple[nn.Module, Look]:
    """torch-fidelity's ``inception-v3-compat``: 8-bit input, TensorFlow 1 bilinear resize to 299 px, max pooling."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # The library unpickles whatever it is given: it gets tensors that were read safely and written again.
    clean = io.BytesIO()
    torch.save(dict(_tensors(content)), clean)
    clean.seek(0)
    extractor = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=clean)
    return extractor, lambda images: extractor(_eight_bits(images))[0]


# ---- DINOv2 --------------------------------------------------------------------------------------------------------


@judge(
    path="dinov2_vitb14_pretrain.pth",
    checksum="0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    address="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
    checksum_from="as finegrain-ai/refiners pins it; the publisher gives none",
    mebibytes=330,
    licence="Apache-2.0",
    source="facebookresearch/dinov2 (Oquab et al. 2023, arXiv:2304.07193), ViT-B/14 without registers, LVD-142M",
    library="torch-fidelity",
    shows="(B, 768) class token behind the last layer norm",
)
def dinov2(content: bytes) -> tuple[nn.Module, Look]:
    """DINOv2 ViT-B/14 at 224 px as torch-fidelity shows it images; timm's network, which is the same architecture.

    torch-fidelity's own loader runs code from a repository that it downloads. 8-bit input and TensorFlow 1 bilinear
    resize are its protocol, the positions of 37 × 37 patches brought to 16 × 16 are the authors'.
    """
    import timm
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

    state = dict(_tensors(content))
    state.pop("mask_token", None)  # for training only
    network = timm.create_model("vit_base_patch14_dinov2", pretrained=False, img_size=224, num_classes=0)
    state["pos_embed"] = _positions(state["pos_embed"], 16)
    network.load_state_dict(state)

    def look(images: Tensor) -> Tensor:
        resized = resize(_eight_bits(images).float(), size=(224, 224), align_corners=False) / 255
        features: Tensor = network(_normalised(resized, IMAGENET_MEAN, IMAGENET_STD))
        return features

    return network, look


def _positions(stored: Tensor, side: int) -> Tensor:
    """(1, 1 + S², D) position embeddings → (1, 1 + side², D), by the authors' bicubic interpolation.

    They scale by (side + 0.1)/S and not by side/S, which moves every position a little; the features follow.
    """
    import torch
    from torch.nn import functional as F

    token, patches = stored[:, :1], stored[:, 1:]
    known = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(1, (known, known)).permute(0, 3, 1, 2)  # (1, D, S, S)
    grid = F.interpolate(grid, scale_factor=(side + 0.1) / known, mode="bicubic")  # (1, D, side, side)
    return torch.cat([token, grid.flatten(2).transpose(1, 2)], dim=1)


# ---- CLIP ----------------------------------------------------------------------------------------------------------


@judge(
    path="ViT-B-32.pt",
    checksum="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    address="https://openaipublic.azureedge.net/clip/models/"
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    checksum_from="in the publisher's address",
    mebibytes=338,
    licence="MIT",
    source="openai/CLIP (Radford et al. 2021, arXiv:2103.00020), ViT-B/32",
    library="open_clip_torch",
    shows="(B, 512) image embeddings of length 1",
)
def clip(content: bytes) -> tuple[nn.Module, Look]:
    """CLIP ViT-B/32 in float32: bicubic resize of the shorter side to 224 px with antialiasing, centre crop.

    The file is TorchScript, which ``weights_only`` cannot read; its whole checksum was compared before. Only its
    tensors are taken out, the code in it is not called.
    """
    import torch
    from open_clip.model import build_model_from_openai_state_dict
    from torchvision.transforms import functional as T

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is out of date, but the publisher's format is not ours to choose
        archive = torch.jit.load(io.BytesIO(content), map_location="cpu")
    network = build_model_from_openai_state_dict(dict(archive.state_dict())).float()
    side = network.visual.image_size[0]

    def look(images: Tensor) -> Tensor:
        shown = T.resize(images, side, interpolation=T.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
        shown = _normalised(T.center_crop(shown, side), CLIP_MEAN, CLIP_STD)
        features: Tensor = network.encode_image(shown, normalize=True)
        return features

    return network, look


def clip_directions(judge: Judge, names: Sequence[str]) -> Tensor:
    """(K, 512) what image embeddings are multiplied with for CLIP's logits: a sentence on each class, times its factor.

    Args:
        judge: the CLIP judge that makes the image embeddings.
        names: of the classes, see ``sentence``.
    """
    import torch
    from open_clip import get_tokenizer

    network = judge.network
    words = get_tokenizer("ViT-B-32")([sentence(name) for name in names]).to(network.logit_scale.device)
    with torch.no_grad():
        seen = torch.cat([network.encode_text(part, normalize=True) for part in words.split(BATCH)])
        directions: Tensor = network.logit_scale.exp() * seen
    return directions


def class_names(card: DatasetCard) -> Sequence[str] | None:
    """Names of the data set's classes, those of ImageNet as torchvision writes them; None where it has no names."""
    if card.class_names is None and card.name in IMAGENET_LABELLED:
        from torchvision.models import ResNet18_Weights

        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return card.class_names


def sentence(name: str) -> str:
    """What CLIP is asked about a class: "a photo of a cat", "a photo of the digit 3"."""
    return f"a photo of the digit {name}" if re.fullmatch(r"\d", name) else f"a photo of a {name}"


# ---- LPIPS ---------------------------------------------------------------------------------------------------------


@judge(
    path="alexnet-owt-7be5be79.pth",
    checksum="7be5be79",
    address="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    checksum_from="first digits, in the publisher's file name",
    mebibytes=233,
    licence="BSD-3-Clause; LPIPS itself BSD-2-Clause",
    source="torchvision's AlexNet (IMAGENET1K_V1) below the linear layers of lpips 0.1 (Zhang et al. 2018)",
    library="lpips",
    shows="(B,) LPIPS 0.1 between two batches",
)
def lpips_alex(content: bytes) -> tuple[nn.Module, Look]:
    """LPIPS 0.1 with AlexNet."""
    return _lpips("alex", _tensors(content))


@judge(
    path="vgg16-397923af.pth",
    checksum="397923af",
    address="https://download.pytorch.org/models/vgg16-397923af.pth",
    checksum_from="first digits, in the publisher's file name",
    mebibytes=528,
    licence="BSD-3-Clause; LPIPS itself BSD-2-Clause",
    source="torchvision's VGG-16 (IMAGENET1K_V1) below the linear layers of lpips 0.1 (Zhang et al. 2018)",
    library="lpips",
    shows="(B,) LPIPS 0.1 between two batches",
)
def lpips_vgg(content: bytes) -> tuple[nn.Module, Look]:
    """LPIPS 0.1 with VGG-16."""
    return _lpips("vgg", _tensors(content))


def _lpips(name: str, state: Mapping[str, Tensor]) -> tuple[nn.Module, Look]:
    """The linear layers come with the library; below them it keeps torchvision's layers under their own numbers."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision in a way that is out of date
        network = lpips.LPIPS(net=name, version="0.1", pnet_rand=True, verbose=False)
    own = network.net.state_dict()  # "slice2.3.weight" is torchvision's "features.3.weight"
    network.net.load_state_dict({key: state[f"features.{key.partition('.')[2]}"] for key in own})
    return network, lambda first, second: network(2 * first - 1, 2 * second - 1).flatten()


# ---- what they share -----------------------------------------------------------------------------------------------


def _eight_bits(images: Tensor) -> Tensor:
    """Intensities → the nearest of 256 levels, uint8: exact for images that were stored as bytes."""
    import torch

    return (images * 255).round().to(torch.uint8)


def _normalised(images: Tensor, mean: Iterable[float], std: Iterable[float]) -> Tensor:
    middle, spread = (images.new_tensor(list(numbers))[:, None, None] for numbers in (mean, std))
    return (images - middle) / spread
