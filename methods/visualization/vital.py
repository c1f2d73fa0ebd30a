"""Give each image, tap by tap, the feature distributions of real images on which its neuron is active."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.contract import Diverged, SetupError, Unsupported, VisualizationTask, method
from bench.ops import check_axes, finite, step_factor
from bench.relevance import Flow, Kind, why_no_relevance
from methods.visualization._distributions import Eye, RelevantFeatures, Seen, WholeFeatures, relevance_passes
from methods.visualization._learning import (
    NOISE_IMAGES,
    balanced,
    means_of,
    natural,
    noise_losses,
    noise_of,
    tap_losses,
)
from methods.visualization._patches import best_patches, grid_of, largest_activations
from methods.visualization._tap_rules import taps_of
from methods.visualization._transforms import mirrored_where, neighbour_lengths, rolled, whole_shifts
from methods.visualization._units import intensities, limits
from methods.visualization._watched import Watched, positions, shapes_until, usable

SIDE = 224  # pixels; jitter, patches and priors are given for pictures of this side [code]
LOWER = "lower references, or allow_fewer"  # what can be done about too few
CLEAREST = 0.98  # quantile at which the transparency map is cut [code]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What ``fit`` learns of the cell's references.

    Args:
        eye: looks at images.
        kinds: (K',) int64, ascending: the classes or channels that the cell asks for.
        counts: (K',) how many references each has.
        targets: tap → (K', C, D) mean of the references' sorted features.
        importance: tap → (K', C) mean of what the eye says of the references; empty when all channels matter alike.
        weights: (K', taps) of the taps' losses.
        passes: that this cost an image of the cell.
        scores: (K', n) mean activation of each patch; empty for classes.
        difference: largest relative difference of the loss on noise that precision and memory format make.
        alpha: (N, H, W) each image's transparency map, filled by ``visualize``.
    """

    eye: Eye
    kinds: Tensor
    counts: Sequence[int]
    targets: Mapping[str, Tensor]
    importance: Mapping[str, Tensor]
    weights: Tensor
    passes: int
    scores: Sequence[Sequence[float]]
    difference: float | None
    alpha: Tensor


@method(
    source="Görgün, Schiele & Fischer 2025, arXiv:2503.22399 [paper: abstract, introduction], with the loop, taps and"
    " loss of its public code [code]",
    differs="taps weigh the inverse of their loss on noise where the code has weights chosen by hand [our choice];"
    " steps are what the budget pays, and warm-up is the code's share of them; references go through the subject's own"
    " preprocessing, and the list is fixed; images are independent of each other and rounded by nobody; total variation"
    " and length are of the picture as shifted; of inner neurons, references are the best patches of distinct images"
    " [paper: note] found in one way, relevance has rules for more networks than ResNet-50, targets lie in any stage,"
    " and an image without relevance is compared as it is",
    variants={
        "equal_weights": {"weights": "equal"},  # official for ResNet-50
        "official_densenet121": {"weights": "1 1 1 1 100"},
        "official_convnext_base": {"weights": "10 1 1 1 1"},
        "official_vit_l16": {"weights": "equal", "smoothness": 0.003, "length": 0.003},
        "official_vit_l32": {"weights": "1 1 1 1 0.1", "smoothness": 0.0003, "length": 0.0003},
        "official_setting_2": {"weights": "equal", "momentum": 0.9, "second_momentum": 0.999, "clip": False},
        "official_inner": {"weights": "0.1 1 1 1", "reference": "image", "smoothness": 3e-7, "length": 3e-7},
        "inner_restricted": {"relevance": "restricted"},
        "inner_guided": {"relevance": "guided"},
        "inner_without_relevance": {"relevance": "none"},
        "inner_images": {"reference": "image"},  # as in the public code
        "natural_weights": {"weights": "natural"},
        # for 224 pixels in about a hundred steps, networks without an official setting: chosen on four of Imagenette's
        # classes by the taps' own losses and by looks; what other networks recognised was in sight [our choice]
        "few_steps": {"weights": "natural", "step_size": 0.5, "smoothness": 5e-4},
        "paper_ends": {"taps": "ends"},  # its ablation: the first and the last block suffice [note]
        "patches_only": {"prefix_tokens": False},
        "smoothed": {"smoothness": 0.0003},  # calmer pictures of 32 pixels in some tens of steps [our choice]
    },
)
@dataclass(frozen=True, kw_only=True)
class Vital:
    """Minimise Σ_k w_k · L_k(τx) + smoothness · TV(τx) + length · ‖τx‖ over pixels x in the network's units.

    L_k = mean_c v_kc · mean_i (sort(F_k ⊙ M_k)_ci − T_kci)², F_k the (C, D) features of tap k, sorted along D; T_k is
    the mean of the sorted F_k ⊙ M_k of the references (``bench.sort_matching``). Of a class the references are real
    images of it, and M_k and v_k are 1. Of a channel they are the patches that drive it most, and M_k and v_k say what
    in F_k is relevant to it (``bench.relevance``); only taps before it count. τ shifts x in a circle, anew for each
    step and image. TV is the sum of the lengths of the differences to the right, lower, lower-left and lower-right
    neighbour [code]. Networks that do not divide pixels by a deviation get x in other units (``_units``). Nothing asks
    for the activation itself. After each step x is cut to the intensities [0, 1]. What is learned of references costs
    passes once; what is left of the budget goes into steps.
    """

    # "all" that there is a rule for: the stem and up to five maps behind it, named stem, s1, s2, …; "ends": the first
    # and the last of those behind the stem; or the names of some, or of the subject's own taps, separated by blanks.
    taps: str = "all"
    # of the taps' losses. "balanced": the inverse of what noise loses, scaled to sum to the number of taps. "natural":
    # the inverse of what the references themselves lose, so that they lose 1 on average, the same at each tap, and the
    # priors weigh the same in every network. Or "equal", or a number for each tap.
    weights: str = "balanced"
    prefix_tokens: bool = True  # sort the class token among the patches [code]
    references: int = 50  # real images of each class, its first ones; of a channel, patches
    allow_fewer: bool = False  # go on with fewer than that
    relevance: Literal["lrp", "restricted", "guided", "none"] = "lrp"  # of features to a channel
    reference: Literal["crop", "image"] = "crop"  # of a channel: the best patch, enlarged, or the image it is from
    shortlist: int = 1000  # references whose patches are tried, those with the largest activation
    patch: int = 64  # its side in pictures of 224 pixels; in proportion in others
    smoothness: float = 0.0  # weight of TV in pictures of 224 pixels; 224 / side times as much in others
    length: float = 0.0  # weight of ‖τx‖, likewise
    jitter: int = 30  # largest shift either way in pictures of 224 pixels; in proportion in others, rounded down
    flip: bool = False  # mirror half of the images left to right in each step; wrong for digits
    step_size: float = 1.0  # change of a pixel per step, normalised
    momentum: float = 0.5  # of Adam
    second_momentum: float = 0.9  # its β₂
    warmup: float = 0.05  # share of the steps in which the step size grows; then it falls as a cosine
    clip: bool = True  # to [0, 1] after each step; at the end in any case
    # For a GPU, of classes alone; the report says what difference they make.
    channels_last: bool = False  # the memory format
    autocast: bool = False  # the network in bfloat16; sorting, loss and pixels stay float32
    compiled: bool = False  # the network by torch.compile

    def why_not(self, task: VisualizationTask) -> str | None:
        """Needs enough references, taps with positions, rules for relevance, and a step beside what ``fit`` costs.

        Raises:
            SetupError: a tap or weight that cannot be meant, a target or label that is no class.
        """
        model = task.model
        self._check_settings()
        self._check_targets(task)
        taps = self._taps(task)
        if not taps and task.kind == "channel" and taps_of(model.network):
            return f"needs a tap before {task.tap} of {model.name}, there is none in use"
        if not taps:
            own = ", ".join(model.taps[:-1]) or "none"
            return f"has no tap rule for {model.name}; name some of its own taps: {own}"
        given = self._given_weights(len(taps))
        if given is not None and len(given) != len(taps):
            return f"has {len(given)} weights for the {len(taps)} taps {', '.join(taps)}"
        reason = self._missing_references(task) or (self._no_flow(task, taps) if task.kind == "channel" else None)
        if reason:
            return reason
        needed = self._share_of_learning(task) + self._passes_of_a_step(task)
        return None if task.budget >= needed else f"needs {needed} passes an image, the budget is {task.budget}"

    @torch.no_grad()
    def fit(self, task: VisualizationTask) -> Known:
        """Learn what the references of each target show; shared by all images, seeds and variants that look alike."""
        check_axes(references=(task.references, "R C H W"), reference_labels=(task.reference_labels, "R"))
        taps, kinds = self._taps(task), task.targets.unique()
        plain = self._eye(task, taps, plain=True)
        if task.kind == "class":
            learned = [self._learn_class(task, plain, taps, int(kind)) for kind in kinds]
        else:
            what = f"largest activations of {task.tap}"
            largest = task.remember(what, lambda: {"largest": largest_activations(task)})["largest"]
            learned = [self._learn_channel(task, plain, taps, int(kind), largest) for kind in kinds]
        targets = {tap: torch.stack([one[f"target {tap}"] for one in learned]) for tap in taps}
        importance = {
            tap: torch.stack([one[f"importance {tap}"] for one in learned])
            for tap in taps
            if f"importance {tap}" in learned[0]
        }
        given = self._given_weights(len(taps))
        if given is not None:
            weights = torch.tensor(given, device=task.device).expand(len(kinds), -1)
        elif self.weights == "balanced":
            weights = balanced(noise_losses(task, plain, kinds, targets, importance))
        else:
            weights = natural(torch.stack([torch.stack([one[f"spread {tap}"] for tap in taps]) for one in learned]))
        idle = kinds[(weights <= 0).all(1)]
        if len(idle):
            raise Unsupported(f"the references of {task.kind} {int(idle[0])} ask for nothing at any tap")
        eye = self._eye(task, taps)
        return Known(
            eye=eye,
            kinds=kinds,
            counts=[int(one["count"]) for one in learned],
            targets=targets,
            importance=importance,
            weights=weights,
            passes=self._share_of_learning(task),
            scores=[one["score"].tolist() for one in learned if "score" in one],
            difference=self._difference(task, plain, eye, kinds[:1], targets, weights),
            alpha=torch.zeros(int(task.places.max()) + 1, *task.model.image_shape[1:], device=task.device),
        )

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.targets[b]``.

        Raises:
            Diverged: some image's loss left the finite numbers; the message says when.
        """
        known: Known = task.fitted
        model, steps = task.model, self._steps(task)
        place = torch.searchsorted(known.kinds, task.targets)
        reach = self.jitter * min(model.image_shape[1:]) // SIDE
        moves = task.draws("moves", steps, 3, law="uniform")  # (B, steps, 3): rows, columns, mirrored or not
        shifts, mirrored = whole_shifts(moves[..., :2], reach), (moves[..., 2] < 0.5) & self.flip
        black, white = limits(model)

        pixels = task.noise()  # in units of about one standard deviation of natural pictures
        slopes = torch.zeros_like(pixels)  # sum of their sizes over all steps
        lost = torch.full_like(place, steps)  # the step in which an image's loss was not finite
        optimiser = torch.optim.Adam([pixels], lr=self.step_size, betas=(self.momentum, self.second_momentum))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: step_factor(step, steps, round(self.warmup * steps))
        )
        for step in range(steps):
            shown = mirrored_where(rolled(pixels, shifts[:, step]), mirrored[:, step]).requires_grad_()
            loss = self._loss(shown, known.eye(intensities(model, shown), task.targets), known, place)
            (slope,) = torch.autograd.grad(loss.sum(), shown)  # sum: images do not depend on each other
            lost = torch.where(loss.isfinite(), lost, lost.clamp(max=step))
            pixels.grad = rolled(mirrored_where(slope, mirrored[:, step]), -shifts[:, step])
            slopes += pixels.grad.abs()
            optimiser.step()
            schedule.step()
            if self.clip:
                pixels.clamp_(black, white)
        _check_lost(lost, steps)
        known.alpha[task.places] = transparency(slopes)
        return finite(intensities(model, pixels).clamp(0.0, 1.0))

    def describe(self, task: VisualizationTask) -> dict[str, Tensor]:
        """Return the (B, H, W) transparency maps that ``visualize`` left."""
        return {"transparency": task.fitted.alpha[task.places]}

    def report(self, task: VisualizationTask) -> dict[str, Any]:
        """Return what the record keeps: steps, taps, and by target the number of references and the taps' weights."""
        known: Known = task.fitted
        kinds = [str(kind) for kind in known.kinds.tolist()]
        said = {
            "steps": self._steps(task),
            "taps": self._taps(task),
            "references": dict(zip(kinds, known.counts, strict=True)),
            "weights": dict(zip(kinds, known.weights.tolist(), strict=True)),
        }
        if known.scores:
            said["patch_activations"] = dict(zip(kinds, known.scores, strict=True))
        if known.difference is not None:
            said["relative_difference_of_the_loss"] = known.difference
        return said

    # ---- the loss ----

    def _loss(self, shown: Tensor, seen: Seen, known: Known, place: Tensor) -> Tensor:
        """(B,) of normalised images (B, C, H, W), what they show, and the (B,) places of their targets in ``known``."""
        own = tap_losses(
            seen,
            {tap: targets[place] for tap, targets in known.targets.items()},
            {tap: importance[place] for tap, importance in known.importance.items()},
        )
        loss = (known.weights[place] * own).sum(1)
        scale = SIDE / min(shown.shape[2:])
        if self.smoothness:
            loss = loss + self.smoothness * scale * neighbour_lengths(shown)
        if self.length:
            loss = loss + self.length * scale * torch.linalg.vector_norm(shown, dim=(1, 2, 3))
        return loss

    def _steps(self, task: VisualizationTask) -> int:
        known: Known = task.fitted
        return (task.budget - known.passes) // known.eye.passes

    # ---- what the references show ----

    def _learn_class(
        self, task: VisualizationTask, eye: Eye, taps: Mapping[str, str], label: int
    ) -> Mapping[str, Tensor]:
        """Count and targets of a class's first references."""
        chosen = task.references[task.reference_labels == label][: self.references]

        def learn() -> dict[str, Tensor]:
            if (chosen == chosen[:, :, :1, :1]).all():
                raise SetupError(
                    f"all {len(chosen)} references of class {label} are of one colour", "give real pictures"
                )
            return means_of(eye, chosen, label)

        what = f"class {label}: {len(chosen)} references at {taps}, prefix {self.prefix_tokens}"
        return {"count": torch.tensor(len(chosen)), **task.remember(what, learn)}

    def _learn_channel(
        self, task: VisualizationTask, eye: Eye, taps: Mapping[str, str], channel: int, largest: Tensor
    ) -> Mapping[str, Tensor]:
        """Count, targets and importance of the patches that drive a channel most, and their activations."""
        grid = grid_of(task.model, self.patch)
        if (largest[:, channel] <= 0).all():
            raise Unsupported(
                f"channel {channel} of {task.tap} is above 0 on none of {len(largest)} references: a dead neuron"
            )

        def learn() -> dict[str, Tensor]:
            best = best_patches(task, channel, largest, grid, self.shortlist)
            best = {name: values[: self.references] for name, values in best.items()}
            images = task.references[best["image"]]
            chosen = images if self.reference == "image" else grid.some_of(images, best["patch"])
            return best | means_of(eye, chosen, channel)

        what = (
            f"channel {channel} of {task.tap}: {self.references} times {self.reference} of {self.shortlist} in {grid},"
            f" {self.relevance} at {taps}, prefix {self.prefix_tokens}"
        )
        learned = task.remember(what, learn)
        return {"count": torch.tensor(len(learned["score"])), **learned}

    @property
    def _is_plain(self) -> bool:
        return not (self.channels_last or self.autocast or self.compiled)

    def _difference(
        self,
        task: VisualizationTask,
        plain: Eye,
        fast: Eye,
        kind: Tensor,
        targets: Mapping[str, Tensor],
        weights: Tensor,
    ) -> float | None:
        """Largest relative difference between both of the first target's loss on noise; None where they are one."""
        if self._is_plain or task.kind == "channel":
            return None
        noise = noise_of(task)
        wanted = {tap: of_all[:1].expand(NOISE_IMAGES, -1, -1) for tap, of_all in targets.items()}
        one, other = ((weights[:1] * tap_losses(eye(noise, kind), wanted, {})).sum(1) for eye in (plain, fast))
        return float(((other - one) / one).abs().max())

    def _share_of_learning(self, task: VisualizationTask) -> int:
        """Passes that ``fit`` costs an image of the cell, rounded up."""
        kinds, noise = task.targets.unique(), NOISE_IMAGES * (self.weights == "balanced")
        if task.kind == "class":
            noise += 2 * NOISE_IMAGES * (not self._is_plain)
            counts = [int((task.reference_labels == kind).sum()) for kind in kinds]
            passes = sum(min(count, self.references) for count in counts) + noise
        else:
            tried = min(self.shortlist, len(task.references))
            looked_at = min(tried, self.references) + noise
            a_look = self._passes_of_a_step(task) - 1  # without the way back
            passes = len(task.references) + len(kinds) * (
                tried * grid_of(task.model, self.patch).count + looked_at * a_look
            )
        return -(-passes // max(1, len(task)))

    # ---- where it looks ----

    def _eye(self, task: VisualizationTask, taps: Mapping[str, str], *, plain: bool = False) -> Eye:
        """What looks at images; ``plain`` without what makes it faster on a GPU."""
        if task.kind == "channel" and self.relevance != "none":
            return RelevantFeatures(_flow(task, taps, self.relevance), self.relevance, taps)
        options = {name: getattr(self, name) and not plain for name in ("channels_last", "autocast", "compiled")}
        watched = Watched(task.model, list(taps.values()), **options)
        return WholeFeatures(watched, taps, self._prefixes(task, taps))

    def _passes_of_a_step(self, task: VisualizationTask) -> int:
        if task.kind == "class" or self.relevance == "none":
            return WholeFeatures.passes
        return 2 + relevance_passes(self.relevance)

    def _taps(self, task: VisualizationTask) -> dict[str, str]:
        """Names of the taps in use, from shallow to deep → paths of their modules; empty when there is no rule.

        Raises:
            SetupError: no such tap, one without positions, or one that does not lie before the channel asked for.
        """
        model, rule = task.model, taps_of(task.model.network)
        there_are = list(usable(task))
        if self.taps in ("all", "ends"):
            there = {name: path for name, path in rule.items() if path in there_are}
            behind = [name for name in there if name != "stem"]
            return there if self.taps == "all" else {name: there[name] for name in behind[:1] + behind[1:][-1:]}
        found: dict[str, str] = {}
        for name in self.taps.split():
            if name not in rule and name not in model.taps:
                near = difflib.get_close_matches(name, [*rule, *model.taps], n=3, cutoff=0.0)
                raise SetupError(
                    f"tap {name!r} of {model.name} does not exist", f"nearest: {', '.join(near) or 'none'}"
                )
            found[name] = rule.get(name) or list(shapes_until(model, name))[-1]
            if found[name] not in there_are:
                where = "" if task.kind == "class" else f", or does not lie before {task.tap}"
                raise SetupError(
                    f"tap {name!r} of {model.name} is flat: it has no distribution{where}",
                    f"there are: {', '.join(one for one, path in rule.items() if path in there_are) or 'none'}",
                )
        return dict(sorted(found.items(), key=lambda item: there_are.index(item[1])))

    def _prefixes(self, task: VisualizationTask, taps: Mapping[str, str]) -> dict[str, int]:
        """Tap → how many of its first tokens are left out: those beside the patches, of which the stem has no more."""
        shapes = usable(task)
        patches = min(positions(shapes[path]) for path in taps.values())
        return {
            tap: positions(shapes[path]) - patches if len(shapes[path]) == 3 and not self.prefix_tokens else 0
            for tap, path in taps.items()
        }

    def _given_weights(self, taps: int) -> list[float] | None:
        """The weights that the settings say, None for those that are measured."""
        if self.weights in ("natural", "balanced"):
            return None
        if self.weights == "equal":
            return [1.0] * taps
        try:
            return [float(number) for number in self.weights.split()]
        except ValueError:
            raise SetupError(
                f"weights should be natural, balanced, equal or a number for each tap, got {self.weights!r}",
                "separate numbers by blanks",
            ) from None

    # ---- what a task may lack ----

    def _check_settings(self) -> None:
        """Raise ``SetupError`` for a number that cannot be meant."""
        limits: dict[str, tuple[float, float]] = {
            **dict.fromkeys(("references", "shortlist"), (1, math.inf)),
            "patch": (1, SIDE),
            **dict.fromkeys(("smoothness", "length", "jitter", "step_size"), (0, math.inf)),
            **dict.fromkeys(("momentum", "second_momentum", "warmup"), (0, 1)),
        }
        for name, (low, high) in limits.items():
            found = getattr(self, name)
            if not low <= found <= high:
                meant = f"{low} or more" if high == math.inf else f"{low} to {high}"
                raise SetupError(f"{name} should be {meant}, got {found}", "give another number")

    def _check_targets(self, task: VisualizationTask) -> None:
        """Targets exist, and so do the classes that the references are said to be of.

        Raises:
            SetupError: it is not so.
        """
        model, asked = task.model, task.targets.unique().tolist()
        if task.kind == "class":
            _check_range(f"{model.name} has no class", asked, model.num_classes)
            _check_range(
                f"references are labelled, and {model.name} has no class", task.reference_labels, model.num_classes
            )
        else:
            assert task.tap is not None
            shape = list(shapes_until(model, task.tap).values())[-1]
            _check_range(f"{task.tap} of {model.name} has no channel", asked, shape[2 if len(shape) == 3 else 1])

    def _missing_references(self, task: VisualizationTask) -> str | None:
        """Why there are too few references."""
        fewest = 2 if self.weights == "natural" else 1  # one reference loses nothing against itself
        if self.references < fewest:
            raise SetupError("natural weights need 2 references or more", "set references, or other weights")
        needed = fewest if self.allow_fewer else max(fewest, self.references)
        if task.kind == "channel":
            count = min(len(task.references), self.shortlist)
            return None if count >= needed else f"needs {needed} references, there are {count}: {LOWER}"
        for kind in task.targets.unique().tolist():
            count = int((task.reference_labels == kind).sum())
            if count < needed:
                some = "a reference" if needed == 1 else f"{needed} references"
                return f"needs {some} of each class, there are {count} of class {kind}: show it more, {LOWER}"
        return None

    def _no_flow(self, task: VisualizationTask, taps: Mapping[str, str]) -> str | None:
        """Why relevance cannot be had."""
        if not self._is_plain:
            return "has channels_last, autocast and compiled for classes alone"
        if self.relevance == "none":
            return None
        assert task.tap is not None
        path = list(shapes_until(task.model, task.tap))[-1]
        return why_no_relevance(task.model.network, target=path, at=list(taps.values()))


def _check_range(what: str, numbers: Tensor | Sequence[int], count: int) -> None:
    found = torch.as_tensor(numbers)
    outside = found[(found < 0) | (found >= count)]
    if len(outside):
        raise SetupError(f"{what} {int(outside[0])}", f"it has 0 to {count - 1}")


def _flow(task: VisualizationTask, taps: Mapping[str, str], kind: Kind) -> Flow:
    assert task.tap is not None
    return Flow(task.model, target=list(shapes_until(task.model, task.tap))[-1], at=list(taps.values()), kind=kind)


def transparency(slopes: Tensor) -> Tensor:
    """(B, H, W) in [0, 1] of summed gradient sizes (B, C, H, W): the mean over channels, cut at its 98th percentile."""
    alpha = slopes.mean(1)
    highest = alpha.flatten(1).quantile(CLEAREST, dim=1)[:, None, None]
    return alpha.clamp(max=highest) / highest.clamp_min(torch.finfo(alpha.dtype).tiny)


def _check_lost(lost: Tensor, steps: int) -> None:
    """Raise ``Diverged`` when some (B,) images have a step, below ``steps``, in which their loss was not finite."""
    count = int((lost < steps).sum())
    if count:
        raise Diverged(f"the loss of {count} of {len(lost)} images is not finite, first in step {int(lost.min())}")
