"""An image is suspicious when the filters it switches on are those that attacked images switch on."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import DetectionTask, Skip, method
from bench.gating import Paths, gated_layers, paths_of
from methods.detection import _learned
from methods.detection._activations import BATCH, observed

MAJORITY = 0.5  # a filter is on the path of a class when more than this share of its pictures use it [ours]


class Fitted(NamedTuple):
    """What one cell has learned."""

    class_paths: dict[str, Tensor]  # layer → (K, C) bool; empty where the features do not ask for them
    learned: _learned.Learned


@method(
    source="Li et al. 2020, abstract (that paths reveal adversarial samples), arXiv:1906.01166; a classifier on the"
    " bits as in Wang et al. 2018, Interpret Neural Networks by Identifying Critical Data Routing Paths, CVPR",
    differs="the paper's body could not be read, and no release has detection code: features, classifiers and protocol"
    " are [ours]",
    variants={
        "scores": {"features": "scores"},
        "late": {"late": True},
        "hamming": {"features": "hamming"},
        "adaboost": {"classifier": "adaboost"},
        "gradient_boosting": {"classifier": "gradient_boosting"},
        "logistic_regression": {"classifier": "logistic_regression"},
        "logits": {"features": "logits"},
    },
)
@dataclass(frozen=True, kw_only=True)
class PathEncoding:
    """A classifier that learns from known attacks, on the calculation path: the bits of all gates, in eval mode.

    Instead of the bits it may look at the gates' ``scores`` before they become bits; at the share of each layer's bits
    that differ from the path of the predicted class (``hamming``: the filters that most clean training pictures of that
    class use, of those that get their label right); or, as the control that must be beaten, at the ``logits``, for
    which a network needs no gates. Paths may carry nothing but the class, and then it is one classifier against
    another.
    """

    features: Literal["bits", "scores", "hamming", "logits"] = "bits"
    late: bool = False  # the last third of the gated layers alone
    classifier: _learned.Kind = "random_forest"
    originals_per_class: int | None = None  # of the known pictures, to learn from; None takes all

    def why_not(self, task: DetectionTask) -> str | None:
        """Needs gates but for the logits; it looks once at all it learns from, and once at each image."""
        if self.features != "logits" and not gated_layers(task.model.network):
            return f"needs gates, {task.model.name} has none"
        clean = len(task.clean) if self.features == "hamming" else 0
        return _learned.too_dear(task, scoring=1, learning=clean + len(task.known))

    def fit(self, task: DetectionTask) -> Fitted:
        """Learn which features attacked pictures have, and before that, for ``hamming``, the paths of the classes."""
        examples = _learned.examples_of(task, self.originals_per_class)
        class_paths = {}
        if self.features == "hamming":
            class_paths = class_paths_of(paths_of(task.model, task.clean, BATCH), task.clean_labels)
        features = self.encoded(task, class_paths, examples.images)
        return Fitted(class_paths, _learned.learned(self.classifier, features, examples.attacked, task))

    def score(self, task: DetectionTask) -> Tensor:
        """Return (B,) float32 probabilities or log-odds of an attack; costs 1 pass an image."""
        return task.fitted.learned.scores(self.encoded(task, task.fitted.class_paths, task.images))

    def encoded(self, task: DetectionTask, class_paths: dict[str, Tensor], images: Tensor) -> Tensor:
        """(B, F) the features of images; with ``hamming``, one a layer."""
        if self.features == "logits":
            return observed(task.model, images, (), lambda tap, part: part).logits
        paths = paths_of(task.model, images, BATCH)
        layers = list(paths.bits)
        if self.late:
            layers = layers[-max(1, len(layers) // 3) :]
        if self.features == "hamming":
            usual = {layer: class_paths[layer][paths.logits.argmax(1)] for layer in layers}  # (B, C) each
            return torch.stack([(paths.bits[layer] ^ usual[layer]).float().mean(1) for layer in layers], 1)
        kept = paths.scores if self.features == "scores" else paths.bits
        return torch.cat([kept[layer].float() for layer in layers], 1)


def class_paths_of(paths: Paths, labels: Tensor) -> dict[str, Tensor]:
    """Layer → (K, C) bool: the filters that most pictures of a class use, of those that get their label right.

    A class without such a picture gets the filters that most of all these pictures use.

    Raises:
        Skip: no picture gets its label right.
    """
    right = paths.logits.argmax(1) == labels
    if not right.any():
        raise Skip(f"learns the paths of classes from clean pictures that are told right, has 0 of {len(labels)}")
    members = F.one_hot(labels[right], paths.logits.shape[1]).double()  # (R, K)
    members = torch.where(members.any(0), members, 1.0)
    return {
        layer: members.T @ bits[right].double() / members.sum(0)[:, None] > MAJORITY
        for layer, bits in paths.bits.items()
    }
