"""Files of random weights in the form in which each judge network is published."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from bench.zoo import foundations
from bench.zoo.datasets.card import DataFile

DINOV2_DEPTH = 2  # blocks, for 12 of the real one
CLIP_SIDE = 64  # px, for 224


@contextlib.contextmanager
def with_random_weights(root: Path) -> Iterator[Path]:
    """Inside, the cards have the checksums of files below ``root``, and DINOv2 is less deep."""
    build = timm.create_model
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(timm, "create_model", functools.partial(build, depth=DINOV2_DEPTH))
        for name, write in WRITERS.items():
            card = foundations.judge_card(name)
            path = root / card.file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            file = DataFile(path=card.file.path, checksum=f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
            patch.setitem(foundations._CARDS, name, dataclasses.replace(card, file=file))
        yield root


def _lively(shape: torch.Size) -> Tensor:
    """Weights with which the signal neither dies nor grows through the layers."""
    return torch.randn(shape) * math.sqrt(2 / math.prod(shape[1:]))


def _inception(path: Path) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    class Untrained(theirs.FeatureExtractorInceptionV3):
        def load_state_dict(self, state: object) -> None:
            """Keep the first weights."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda address, progress: {})
        state = Untrained("inception-v3-compat", ["2048"]).state_dict()
    torch.save({name: _lively(part.shape) if part.ndim == 4 else part for name, part in state.items()}, path)


def _dinov2(path: Path) -> None:
    state = timm.create_model("vit_base_patch14_dinov2", num_classes=0).state_dict()  # at 518 px, as published
    state = {name: _lively(part.shape) if part.ndim in (2, 4) else part for name, part in state.items()}
    first = {name: torch.randn(state[name].shape) for name in ("cls_token", "pos_embed")}
    scales = {name: torch.rand(768) for name in state if name.endswith("gamma")}
    torch.save(state | first | scales | {"mask_token": torch.zeros(1, 768)}, path)


def _clip(path: Path) -> None:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    network = CLIP(
        16,
        CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=CLIP_SIDE),
        CLIPTextCfg(width=64, heads=1, layers=1),
        quick_gelu=True,
    ).eval()
    mask = network.attn_mask
    del network.attn_mask  # a buffer that the published archive does not have
    network.attn_mask = mask
    example = torch.zeros(1, 3, CLIP_SIDE, CLIP_SIDE), torch.zeros(1, 77, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tracing
        torch.jit.trace(network.half().float(), example, check_trace=False).save(path)


def backbone(name: str) -> nn.Module:
    """torchvision's convolutional layers of AlexNet ("alex") or VGG-16 ("vgg"), without the large linear ones."""
    from torchvision.models import alexnet
    from torchvision.models.vgg import cfgs, make_layers

    return alexnet().features if name == "alex" else make_layers(cfgs["D"])


def _backbone(path: Path, name: str) -> None:
    state = {f"features.{key}": part for key, part in backbone(name).state_dict().items()}
    state = {key: _lively(part.shape) if part.ndim == 4 else part for key, part in state.items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, path)


WRITERS = {
    "inception": _inception,
    "dinov2": _dinov2,
    "clip": _clip,
    "lpips_alex": functools.partial(_backbone, name="alex"),
    "lpips_vgg": functools.partial(_backbone, name="vgg"),
}
