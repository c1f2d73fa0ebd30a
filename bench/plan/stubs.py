"""The smallest tasks there are, for asking a method whether it could run at all."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from bench.contract import (
    AdversarialTask,
    AttributionTask,
    Bound,
    Classifier,
    DetectionTask,
    InversionTask,
    Recipe,
    ReconstructionTask,
    SetupError,
    Task,
    TrainingTask,
    VisualizationTask,
)
from bench.zoo.datasets import DatasetCard


def check_tap(model: Classifier, tap: str) -> str:
    """The tap's name, when the model has it; otherwise a ``SetupError`` that names those it has."""
    if tap not in model.taps:
        raise SetupError(f"{model.name} has no tap {tap!r}", f"it has: {', '.join(model.taps)}")
    return tap


def _black(model: Classifier) -> torch.Tensor:
    """(1, C, H, W) where the model is."""
    return torch.zeros(1, *model.image_shape, device=next(model.network.parameters()).device)


def channel_count(model: Classifier, tap: str) -> int:
    """How many channels the tap has; of tokens it is their width."""
    with torch.no_grad():
        seen = model.features(_black(model), check_tap(model, tap))
    return seen.shape[2] if seen.ndim == 3 else seen.shape[1]


def check_channels(model: Classifier, tap: str, channels: Iterable[int]) -> None:
    """Raise ``SetupError`` unless the tap has all of these channels."""
    count = channel_count(model, tap)
    for channel in channels:
        if not 0 <= channel < count:
            raise SetupError(f"{model.name}: channel {channel} is out of range", f"{tap} has 0 to {count - 1}")


class Shown(NamedTuple):
    """What a visualization is asked for (its targets) and may learn from (labels of its references)."""

    targets: Sequence[int]
    reference_labels: Sequence[int]


class Learned(NamedTuple):
    """How many images a detector may learn from: clean training images, and pictures of the known attack."""

    clean: int
    known: int


def stub_task(
    track: str,
    model: Classifier,
    condition: str,
    budget: int,
    count: int = 2,
    shown: Shown | None = None,
    learned: Learned | None = None,
) -> Task:
    """A task of ``count`` black images, for ``why_not``; also checks that the condition's tap exists."""
    images = torch.zeros(1, *model.image_shape).expand(count, -1, -1, -1)  # one image's memory
    labels = torch.zeros(count, dtype=torch.int64)
    common: dict[str, Any] = {"model": model, "places": torch.arange(count), "seed": 0, "budget": budget}
    known: dict[str, Any] = {"references": images[:2], "reference_labels": labels[:2]}
    tap: str | None
    match track:
        case "reconstruction":
            tap = check_tap(model, condition)
            with torch.no_grad():
                seen = model.features(images[:1], tap)
            wanted = seen.expand(count, *seen.shape[1:])
            return ReconstructionTask(**common, **known, tap=tap, wanted=wanted, real=images)
        case "inversion":
            return InversionTask(**common, labels=labels, real=images)
        case "visualization":
            is_class = condition == "class"
            tap = None if is_class else check_tap(model, condition.removeprefix("channel_"))
            if shown is not None:
                labels, known_labels = torch.tensor(shown.targets), torch.tensor(shown.reference_labels)
                black = images[:1].expand(len(known_labels), -1, -1, -1)
                known = {"references": black, "reference_labels": known_labels}
            return VisualizationTask(
                **common,
                kind="class" if is_class else "channel",
                tap=tap,
                targets=labels,
                **known,
                real=images,
            )
        case "adversarial":
            return AdversarialTask(**common, **known, images=images, labels=labels, bound=Bound.parse(condition))
        case "detection":
            return DetectionTask(**common, images=images, **_to_learn_from(images[:1], learned or Learned(2, 3)))
        case _:
            return AttributionTask(**common, images=images, labels=labels)


def _to_learn_from(black: torch.Tensor, learned: Learned) -> dict[str, Any]:
    """What a detector learns from: of each known picture three, one of them attacked."""
    known = torch.arange(learned.known)
    return {
        "clean": black.expand(learned.clean, -1, -1, -1),
        "clean_labels": torch.zeros(learned.clean, dtype=torch.int64),
        "known": black.expand(learned.known, -1, -1, -1),
        "known_attacked": known % 3 == 2,
        "known_originals": known // 3,
        "known_labels": torch.zeros_like(known),
    }


def training_stub(network: Any, card: DatasetCard) -> TrainingTask:
    """A training task of two black images."""
    return TrainingTask(
        network=network,
        images=torch.zeros(2, *card.image_shape, dtype=torch.uint8),
        labels=torch.zeros(2, dtype=torch.int64),
        num_classes=card.num_classes,
        recipe=Recipe(epochs=1, batch_size=2),
        seed=0,
        device=torch.device("cpu"),
    )
