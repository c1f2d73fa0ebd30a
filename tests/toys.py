"""A small world for the laws: one classifier, one task a track, one set of roles for metrics. All from fixed seeds."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import TRACKS, Bound, PassCounter, Recipe, Task, TrainingTask
from bench.gating import ControllingModule, attach
from bench.zoo.classifier import Classifier

CLASSES, SHAPE = 10, (3, 32, 32)
CONDITIONS = {
    "reconstruction": ("block1", "penultimate"),
    "visualization": ("class", "channel"),
    "adversarial": ("linf_8_255", "l2_1_2", "none"),
    "detection": ("dense", "gated"),  # the subject
}
PER_IMAGE = ("places", "wanted", "labels", "real", "targets", "images")  # fields of a task with one row an image


class ToyNetwork(nn.Module):
    """Two convolutions with BatchNorm, a hidden layer, ten logits."""

    def __init__(self, channels: int = SHAPE[0]) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(12 * 16, 24), nn.ReLU())
        self.head = nn.Linear(24, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(self.block2(self.block1(images))))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_images(count: int, seed: int, side: int = SHAPE[1]) -> Tensor:
    """(count, C, H, W) float32 in [0, 1], each a soft random picture."""
    coarse = torch.rand(count, SHAPE[0], 5, 5, generator=generator(seed))
    return nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)


def toy_network(seed: int = 0) -> ToyNetwork:
    """Random weights, running statistics from real activations, logits spread far enough to have a favourite."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ToyNetwork()
    for norm in (network.block1[1], network.block2[1]):
        norm.momentum = None  # a plain mean over what it sees
    with torch.no_grad():
        network.train()(smooth_images(64, seed) * 2 - 1)
        network.head.weight *= 8
    return network


def toy_classifier(seed: int = 0, *, gated: bool = False) -> Classifier:
    """With gates where asked: of the second convolution, some filters always off, some for some images."""
    network = toy_network(seed)
    if gated:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            attach(network, _toy_gate)
    return Classifier(
        network,
        name="toy",
        image_shape=SHAPE,
        num_classes=CLASSES,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        taps={"block1": "block1", "block2": "block2"},
    )


def _toy_gate(path: str, conv: nn.Conv2d) -> ControllingModule:
    gate = ControllingModule(conv.in_channels, conv.out_channels)
    nn.init.normal_(gate.reduce.weight, std=3.0)  # so that it depends on the image
    return gate


# ---- tasks ---------------------------------------------------------------------------------------------------------


def toy_task(
    track: str, condition: str = "", *, count: int = 4, seed: int = 0, budget: int = 60, reference: bool = False
) -> Task:
    """One cell of ``track`` with ``count`` images; the counter starts at nothing and stops at the cell's budget."""
    model, images = toy_classifier(gated=condition == "gated"), smooth_images(count, 1)
    with torch.no_grad():
        labels = model(images).argmax(1)
        own = _own_fields(track, condition, model, images, labels, images if reference else None)
    model.passes = PassCounter(limit=budget * count)
    return TRACKS[track].task(model=model, places=torch.arange(count), seed=seed, budget=budget, **own)


def _own_fields(
    track: str, condition: str, model: Classifier, images: Tensor, labels: Tensor, real: Tensor | None
) -> dict[str, Any]:
    pictures = smooth_images(12, 2)
    known = {"references": pictures, "reference_labels": model(pictures).argmax(1)}
    if track == "reconstruction":
        return {"tap": condition, "wanted": model.features(images, condition), "real": real} | known
    if track == "inversion":
        return {"labels": torch.arange(len(images)) % CLASSES, "real": real}
    if track == "visualization":
        many, few = torch.arange(200) % 4, torch.arange(12) % CLASSES
        return {
            "references": smooth_images(212, 2),
            "reference_labels": torch.cat([many, few]),  # fifty of the first classes, some of each
            "kind": condition,
            "tap": "block2" if condition == "channel" else None,
            "targets": torch.arange(len(images)),
            "real": real,
        }
    if track == "adversarial":
        return {"images": images, "labels": labels, "bound": Bound.parse(condition)} | known
    if track == "detection":
        clean, known = smooth_images(24, 3), torch.arange(24) // 3  # originals
        few = smooth_images(8, 4)
        return {
            "images": images,
            "clean": clean,
            "clean_labels": model(clean).argmax(1),
            "known": (few[known] + 0.1 * (torch.arange(24) % 3)[:, None, None, None]).clamp(0, 1),
            "known_attacked": torch.arange(24) % 3 == 2,
            "known_originals": known,
            "known_labels": model(few).argmax(1)[known],
        }
    return {"images": images, "labels": labels}


def only(task: Task, image: int) -> Task:
    """The same cell's task with one of its images."""
    rows = {name: getattr(task, name) for name in PER_IMAGE if hasattr(task, name)}
    return task.replace(**{name: rows[name][image : image + 1] for name in rows if rows[name] is not None})


def tensors_of(task: Any) -> dict[str, Tensor]:
    values = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def toy_training_task(seed: int = 0, epochs: int = 4) -> TrainingTask:
    """Tell dark from bright: 96 pictures, two of the ten classes in use."""
    labels = torch.arange(96) % 2
    pictures = smooth_images(96, 4) * 0.5 + 0.5 * labels[:, None, None, None]
    return TrainingTask(
        network=toy_network(seed),
        images=(pictures * 255).to(torch.uint8),
        labels=labels,
        num_classes=CLASSES,
        recipe=Recipe(epochs=epochs, batch_size=16),
        seed=seed,
        device=torch.device("cpu"),
    )


# ---- roles of metrics ----------------------------------------------------------------------------------------------

PAIRED = ("training", "reconstruction", "adversarial", "attribution", "detection")  # image n has an original, real[n]
WHOLE = ("target", "bound", "lpips_alex", "lpips_vgg", "cost", "class_subspaces")  # roles without an axis of images
COST = {"wall_s": 2.0, "gpu_s": 2.0, "gpu_peak_mib": 5.0, "forward_passes": 9, "backward_passes": 7, "n_images": 4}
SIDES = {"ms_ssim": 176}  # px, where a metric needs more than the usual ones
GATED = ("gmacs_cut", "gmacs_cut_outputs", "gmacs_spread")  # metrics that say nothing of a network without gates
GATED += ("skip_latency_ms_batch1", "skip_latency_ms_batch64", "skip_speedup_batch1", "skip_speedup_batch64")
GATED += ("skip_speedup_folded_batch1", "mask_speedup_batch1")
GATED += ("dynamic_gates", "path_class_information", "silencing_selectivity")


def toy_roles(
    track: str,
    *,
    count: int = 48,
    references: int = 30,
    one_class: bool = False,
    side: int = SHAPE[1],
    gated: bool = False,
) -> dict[str, Any]:
    """Everything a metric may ask for, as an ordinary cell of ``track`` would have it."""
    references = count if track in PAIRED else references
    draw = generator(5)
    labels = torch.arange(count) % (1 if one_class else 4)
    real_labels = torch.arange(references) % (1 if one_class else 4)
    real = smooth_images(references, 6, side)
    bound = Bound.parse("linf_8_255")
    shift = bound.size * (2 * torch.rand(count, SHAPE[0], side, side, generator=draw) - 1)
    generated = (real + shift).clamp(0, 1) if track in PAIRED else smooth_images(count, 7, side)
    attacked = torch.arange(count) % 2 == 1
    wanted = torch.randn(count, 12, 4, 4, generator=draw).relu()
    return {
        "generated": generated,
        "real": real,
        "labels": labels,
        "real_labels": real_labels,
        "target_logits": _logits(labels, draw),
        "referee_logits": _logits(labels, draw),
        "clean_logits": _logits(labels, draw, favour=6.0),
        "clean_referee_logits": _logits(labels, draw, favour=6.0),
        "wanted_features": wanted,
        "generated_features": wanted + 0.1 * torch.randn(wanted.shape, generator=draw),
        "training": smooth_images(references, 8, side),
        "training_labels": real_labels,
        "target_features": torch.randn(count, 12, generator=generator(9)) + labels[:, None],
        "referee_features": torch.randn(count, 12, generator=draw) + labels[:, None],
        "real_referee_features": torch.randn(references, 12, generator=draw) + real_labels[:, None],
        "real_target_features": torch.randn(references, 12, generator=generator(10)) + real_labels[:, None],
        "reference_referee_features": torch.randn(references, 12, generator=generator(11)) + real_labels[:, None],
        "reference_labels": real_labels,
        "panel_logits": torch.stack([_logits(labels, generator(seed)) for seed in (12, 13, 14)], 1),
        "latent_groups": torch.arange(count) // 4,
        "target_labels": (labels + 1) % CLASSES,
        "perturbation_referee_logits": _logits((labels + 1) % CLASSES, draw),
        "class_subspaces": subspaces(SHAPE[0] * side * side, draw),
        "activation": torch.randn(count, generator=draw),
        "real_activation": 1 + torch.rand(count, generator=generator(15)),
        "scores": torch.randn(count, generator=draw) + attacked,
        "attacked": attacked,
        "noisy": torch.arange(count) % 4 == 2,
        "maps": torch.rand(count, *SHAPE[1:], generator=draw),
        "randomised_maps": torch.rand(count, *SHAPE[1:], generator=draw),
        "wanted_distribution": torch.rand(count, CLASSES, generator=draw).softmax(1),
        "inception_features": torch.randn(count, 12, generator=draw),
        "real_inception_features": torch.randn(references, 12, generator=draw),
        "dinov2_features": torch.randn(count, 12, generator=draw),
        "real_dinov2_features": torch.randn(references, 12, generator=draw),
        "clip_logits": _logits(labels, draw),
        "lpips_alex": toy_lpips,
        "lpips_vgg": toy_lpips,
        "target": toy_classifier(gated=gated),
        "bound": bound,
        "cost": COST,
    }


def subspaces(pixels: int, draw: torch.Generator) -> dict[int, Tensor]:
    """Class → two orthonormal rows."""
    return {label: torch.linalg.qr(torch.randn(pixels, 2, generator=draw)).Q.T for label in range(CLASSES)}


def toy_lpips(first: Tensor, second: Tensor) -> Tensor:
    """(B,) how far apart two batches are."""
    return (first - second).square().flatten(1).mean(1)


def _logits(labels: Tensor, draw: torch.Generator, favour: float = 2.0) -> Tensor:
    """(N, K): right for most images, wrong for some."""
    return 2 * torch.randn(len(labels), CLASSES, generator=draw) + favour * nn.functional.one_hot(labels, CLASSES)


def of_references(role: str, track: str) -> bool:
    """Whether the role's first axis counts reference images."""
    own = ("real", "real_labels", "real_referee_features", "real_inception_features", "real_dinov2_features")
    own += ("training", "training_labels", "real_target_features", "reference_referee_features", "reference_labels")
    return role in own and track not in PAIRED


def rows(roles: dict[str, Any], track: str, chosen: Tensor, *, references: bool = False) -> dict[str, Any]:
    """The roles with only the ``chosen`` images, in that order; or the chosen reference images."""
    picked = {}
    for role, value in roles.items():
        moved = role not in WHOLE and of_references(role, track) == references
        picked[role] = value[chosen] if moved else value
    return picked
