"""Give each image, tap by tap, the feature distributions of real images of its class."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.back_projection import denormalised
from bench.contract import Classifier, SetupError, VisualizationTask, method
from bench.ops import check_axes, finite, step_factor
from bench.sort_matching import Tap, distributions, sort_matching_loss, sorted_mean, spread_taps
from methods.visualization._transforms import rolled, whole_shifts

BATCH = 32  # references in one forward pass
NOISE_IMAGES = 8  # on which taps are weighed against each other
SIDE = 224  # pixels; jitter and priors are given for pictures of this side [code]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What ``fit`` learns of the cell's references.

    Args:
        prefixes: tap → tokens to leave out at its beginning, for the taps in use from shallow to deep.
        classes: (K',) int64, ascending: those that the cell asks for.
        counts: (K',) how many references each has.
        targets: tap → (K', C, D) mean of the references' sorted features.
        weights: (K', taps) of the taps' losses.
        passes: that this cost an image of the cell.
    """

    prefixes: Mapping[str, int]
    classes: Tensor
    counts: Sequence[int]
    targets: Mapping[str, Tensor]
    weights: Tensor
    passes: int


@method(
    source="Görgün, Schiele & Fischer 2025, arXiv:2503.22399, class neurons [paper: abstract, introduction], with the"
    " loop of its public code [code]",
    differs="taps are those the project's wrapper has, so ResNets show their stem behind its norm and ReLU, and"
    " ConvNeXt and transformers the ends of their quarters [our choice]; they weigh the inverse of their loss on noise"
    " where the code has weights chosen by hand [our choice]; steps are what the budget pays, and warm-up is the"
    " code's share of them; references go through the subject's own preprocessing, and the list is fixed; images are"
    " independent of each other and rounded by nobody; total variation and length are of the picture as shifted",
    variants={
        "official_weights": {"weights": "equal"},
        "official_weights_densenet121": {"weights": "1 1 1 1 100"},
        "official_vit_l16": {"weights": "equal", "smoothness": 0.003, "length": 0.003},
        "official_vit_l32": {"weights": "1 1 1 1 0.1", "smoothness": 0.0003, "length": 0.0003},
        "official_setting_2": {"weights": "equal", "momentum": 0.9, "second_momentum": 0.999, "clip": False},
        "paper_ends": {"taps": "ends"},  # its ablation: the first and the last tap suffice [note]
        "patches_only": {"prefix_tokens": False},
        "smoothed": {"smoothness": 0.0003},  # calmer pictures of 32 pixels in some tens of steps [our choice]
    },
)
@dataclass(frozen=True, kw_only=True)
class Vital:
    """Minimise Σ_k w_k · mean (sort F_k(τx) − T_k)² + smoothness · TV(τx) + length · ‖τx‖ over the normalised pixels x.

    F_k are the (C, D) features of tap k, sorted along D; T_k is the mean of the sorted features of real images of the
    class (``bench.sort_matching``); τ shifts x in a circle, anew for each step and image. TV is the sum of the lengths
    of the differences to the right, lower, lower-left and lower-right neighbour [code]. Nothing asks for the logit.
    After each step x is cut to the intensities [0, 1]. The references cost a forward pass each, once; what is left of
    the budget goes into steps of two passes.
    """

    # "stages": the first tap, and the deepest of each size of map; all with tokens. "ends": the first and the last of
    # these. "all", or the names of some, separated by blanks. Never one without positions.
    taps: str = "stages"
    # of the taps' losses: "balanced", "equal", or a number for each tap. Balanced weights are the inverse of the loss
    # against the class on noise, scaled to sum to the number of taps.
    weights: str = "balanced"
    prefix_tokens: bool = True  # sort the class token among the patches [code]
    per_class: int = 50  # most references of a class; its first ones
    smoothness: float = 0.0  # weight of TV in pictures of 224 pixels; 224 / side times as much in others
    length: float = 0.0  # weight of ‖τx‖, likewise
    jitter: int = 30  # largest shift either way in pictures of 224 pixels; in proportion in others, rounded down
    flip: bool = False  # mirror half of the images left to right in each step; wrong for digits
    step_size: float = 1.0  # change of a pixel per step, normalised
    momentum: float = 0.5  # of Adam
    second_momentum: float = 0.9
    warmup: float = 0.05  # share of the steps in which the step size grows; then it falls as a cosine
    clip: bool = True  # to [0, 1] after each step; at the end in any case

    def why_not(self, task: VisualizationTask) -> str | None:
        """Needs a class with references, taps with positions, and a step beside the passes of ``fit``.

        Raises:
            SetupError: a tap or weight that cannot be meant, or a target that is no class.
        """
        model = task.model
        if task.kind == "channel":
            return "shows classes only, inner neurons are not there yet"
        outside = [label for label in task.targets.unique().tolist() if not 0 <= label < model.num_classes]
        if outside:
            raise SetupError(f"{model.name} has no class {outside[0]}", f"it has 0 to {model.num_classes - 1}")
        taps = self._taps(task)
        if not taps:
            return f"needs taps with positions, all of {model.name} are flat"
        given = self._given_weights(len(taps))
        if given is not None and len(given) != len(taps):
            return f"has {len(given)} weights for the {len(taps)} taps {', '.join(taps)}"
        missing = sorted(set(task.targets.tolist()) - set(task.reference_labels.tolist()))
        if missing:
            return f"needs references of each class, there are none of {_named(missing)}"
        needed = self._share_of_learning(task) + 2
        return None if task.budget >= needed else f"needs {needed} passes an image, the budget is {task.budget}"

    @torch.no_grad()
    def fit(self, task: VisualizationTask) -> Known:
        """Average the sorted features of each class's references; one forward pass each, for all images of the cell."""
        check_axes(references=(task.references, "R C H W"), reference_labels=(task.reference_labels, "R"))
        taps, classes = self._taps(task), task.targets.unique()
        chosen = [task.references[task.reference_labels == label][: self.per_class] for label in classes]
        means = [_sorted_means(task.model, references, taps) for references in chosen]
        targets = {tap: torch.stack([of_class[tap] for of_class in means]) for tap in taps}
        given = self._given_weights(len(taps))
        if given is None:
            weights = _balanced(task, taps, targets)
        else:
            weights = torch.tensor(given, device=task.device).expand(len(classes), -1)
        return Known(
            prefixes=taps,
            classes=classes,
            counts=[*map(len, chosen)],
            targets=targets,
            weights=weights,
            passes=self._share_of_learning(task),
        )

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.targets[b]``."""
        known: Known = task.fitted
        model, steps = task.model, _steps(task)
        place = torch.searchsorted(known.classes, task.targets)
        targets, weights = {tap: known.targets[tap][place] for tap in known.targets}, known.weights[place]
        reach = self.jitter * min(model.image_shape[1:]) // SIDE
        moves = task.draws("moves", steps, 3, law="uniform")  # (B, steps, 3): rows, columns, mirrored or not
        shifts, mirrored = whole_shifts(moves[..., :2], reach), (moves[..., 2] < 0.5) & self.flip
        black = model.normalise(torch.zeros(1, *model.image_shape, device=task.device))
        white = model.normalise(torch.ones(1, *model.image_shape, device=task.device))

        pixels = task.noise()  # normalised
        optimiser = torch.optim.Adam([pixels], lr=self.step_size, betas=(self.momentum, self.second_momentum))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: step_factor(step, steps, round(self.warmup * steps))
        )
        for step in range(steps):
            shown = _mirrored(rolled(pixels, shifts[:, step]), mirrored[:, step]).requires_grad_()
            features = _observed(model, denormalised(model, shown), known.prefixes)
            loss = self._loss(shown, features, targets, weights)
            (slope,) = torch.autograd.grad(loss.sum(), shown)  # sum: images do not depend on each other
            pixels.grad = rolled(_mirrored(slope, mirrored[:, step]), -shifts[:, step])
            optimiser.step()
            schedule.step()
            if self.clip:
                pixels.clamp_(black, white)
        return finite(denormalised(model, pixels).clamp(0.0, 1.0))

    def report(self, task: VisualizationTask) -> dict[str, Any]:
        """Return what the record keeps: steps, taps, and by class the number of references and the taps' weights."""
        known: Known = task.fitted
        classes = [str(label) for label in known.classes.tolist()]
        return {
            "steps": _steps(task),
            "taps": list(known.prefixes),
            "references": dict(zip(classes, known.counts, strict=True)),
            "weights": dict(zip(classes, known.weights.tolist(), strict=True)),
        }

    def _loss(
        self, shown: Tensor, features: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Tensor
    ) -> Tensor:
        """(B,) of normalised images (B, C, H, W), with (B, C', D) features and targets by tap and (B, taps) weights."""
        own = torch.stack([sort_matching_loss(features[tap], targets[tap]) for tap in targets], dim=1)  # (B, taps)
        loss = (weights * own).sum(1)
        scale = SIDE / min(shown.shape[2:])
        if self.smoothness:
            loss = loss + self.smoothness * scale * neighbour_lengths(shown)
        if self.length:
            loss = loss + self.length * scale * torch.linalg.vector_norm(shown, dim=(1, 2, 3))
        return loss

    def _taps(self, task: VisualizationTask) -> dict[str, int]:
        """Names of the taps in use, from shallow to deep → how many of their first tokens are left out.

        Raises:
            SetupError: no such tap, or one without positions.
        """
        there = spread_taps(task.model, task.device)
        patches = min((tap.positions for tap in there), default=0)  # what a transformer's stem has, without prefix
        chosen = self._chosen(there, task.model)
        leave_out = not self.prefix_tokens
        return {tap.name: (tap.positions - patches) * (tap.is_tokens and leave_out) for tap in chosen}

    def _chosen(self, there: Sequence[Tap], model: Classifier) -> list[Tap]:
        if self.taps == "all":
            return list(there)
        if self.taps in ("stages", "ends"):
            deepest = {tap.positions: tap for tap in there}
            stages = [
                tap for place, tap in enumerate(there) if place == 0 or tap.is_tokens or deepest[tap.positions] is tap
            ]
            return stages if self.taps == "stages" else [*stages[:1], *stages[1:][-1:]]
        asked, known = self.taps.split(), {tap.name: tap for tap in there}
        for name in asked:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
                found = "is flat: it has no distribution" if name in model.taps else "does not exist"
                raise SetupError(f"tap {name!r} of {model.name} {found}", f"nearest: {', '.join(near) or 'none'}")
        return [tap for tap in there if tap.name in asked]

    def _given_weights(self, taps: int) -> list[float] | None:
        """The weights that the settings say, None for those that are measured."""
        if self.weights == "balanced":
            return None
        if self.weights == "equal":
            return [1.0] * taps
        try:
            return [float(number) for number in self.weights.split()]
        except ValueError:
            raise SetupError(
                f"weights should be balanced, equal or a number for each tap, got {self.weights!r}",
                "separate numbers by blanks",
            ) from None

    def _share_of_learning(self, task: VisualizationTask) -> int:
        """Passes that ``fit`` costs an image of the cell, rounded up."""
        counts = [int((task.reference_labels == label).sum()) for label in task.targets.unique()]
        passes = sum(min(count, self.per_class) for count in counts) + NOISE_IMAGES * (self.weights == "balanced")
        return -(-passes // max(1, len(task)))


def _steps(task: VisualizationTask) -> int:
    passes: int = task.fitted.passes
    return (task.budget - passes) // 2


def neighbour_lengths(images: Tensor) -> Tensor:
    """(B,) sum of the lengths of the differences to the right, lower, lower-left and lower-right neighbour [code]."""
    upper, lower = images[:, :, :-1], images[:, :, 1:]
    ways = (
        images[..., 1:] - images[..., :-1],
        lower - upper,
        lower[..., :-1] - upper[..., 1:],
        lower[..., 1:] - upper[..., :-1],
    )
    return torch.stack([torch.linalg.vector_norm(way, dim=(1, 2, 3)) for way in ways]).sum(0)


def _mirrored(images: Tensor, chosen: Tensor) -> Tensor:
    """Left to right, the images that (B,) bool says."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def _observed(model: Classifier, images: Tensor, taps: Mapping[str, int]) -> dict[str, Tensor]:
    """Tap → (B, C', D) values of each of its channels."""
    seen = model.observe(images, tuple(taps)).features
    return {tap: distributions(seen[tap], prefix) for tap, prefix in taps.items()}


def _sorted_means(model: Classifier, references: Tensor, taps: Mapping[str, int]) -> dict[str, Tensor]:
    """Tap → (C', D) mean of the references' sorted features."""
    total = dict.fromkeys(taps, torch.zeros((), device=references.device))
    for part in references.split(BATCH):
        features = _observed(model, part, taps)
        total = {tap: total[tap] + sorted_mean(features[tap]) * len(part) for tap in taps}
    return {tap: total[tap] / len(references) for tap in taps}


def _balanced(task: VisualizationTask, taps: Mapping[str, int], targets: Mapping[str, Tensor]) -> Tensor:
    """(K', taps) weights that make all taps count the same on noise; each class has its own, whatever the others are.

    The noise is that of the cell's first place, so it is the same for any number of images.
    """
    first = task.replace(places=torch.zeros_like(task.places[:1]))
    noise = first.draws("balance", NOISE_IMAGES, *task.model.image_shape)[0]
    features = _observed(task.model, denormalised(task.model, noise), taps)
    losses = [
        [sort_matching_loss(features[tap], target.expand_as(features[tap])).mean() for target in targets[tap]]
        for tap in taps
    ]
    own = torch.tensor(losses, device=task.device).T  # (K', taps)
    inverse = torch.where(own > 0, 1 / own, 0.0)  # a dead tap has nothing to say
    return len(taps) * inverse / inverse.sum(1, keepdim=True).clamp(min=torch.finfo(inverse.dtype).tiny)


def _named(labels: Sequence[int], most: int = 5) -> str:
    """The first of these classes, for a message."""
    rest = f" and {len(labels) - most} more" if len(labels) > most else ""
    return f"class {', '.join(map(str, labels[:most]))}{rest}"
