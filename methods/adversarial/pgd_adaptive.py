"""Projected gradient descent that knows what a detector looks at: it fools, and takes the path of a clean image."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.contract import AdversarialTask, Classifier, method
from bench.gating import FixedGate, gated_layers, straight_through, watched
from bench.ops import finite, within_bound, wrong_class_margin
from methods.adversarial import _foolbox

BATCH = 64  # references in one forward pass
FEATURES = "penultimate"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What each image is pulled to.

    Args:
        classes: (B,) the runner-up.
        code: layer → (B, C) scores, or the tap → (B, D) features, of a clean image of that class.
        exists: (B,) bool; where False there is no such image and nothing pulls.
    """

    classes: Tensor
    code: Mapping[str, Tensor]
    exists: Tensor


@dataclass(frozen=True, kw_only=True)
class Known:
    """What ``fit`` learns of the cell's references.

    Args:
        right: (R,) bool, which of them the subject gets right.
        code: of each, as in ``Aim``.
        passes: that this cost an image of the cell.
    """

    right: Tensor
    code: Mapping[str, Tensor]
    passes: int


@method(
    source="Madry et al. 2018, section 2.1, arXiv:1706.06083 (PGD); a penalty on what the detector sees after Carlini &"
    " Wagner 2017, arXiv:1705.07263; matching a clean image's features after Sabour et al. 2016, arXiv:1511.05122;"
    " straight-through gates after Athalye et al. 2018, arXiv:1802.00420",
    differs="their combination on calculation paths is ours [ours]; the penalty counts only where the image already"
    " fools; of all steps that fool the one with the least penalty is kept; the runner-up among classes that have a"
    " reference which the subject gets right",
    variants={
        "straight_through": {"weight": 0.0},
        "strongest": {"weight": 0.0, "strongest": True},
    },
)
@dataclass(frozen=True, kw_only=True)
class PGDAdaptive:
    """Steps of travel · ε / steps down the sign (l2: the direction) of the gradient of CE(x′, t) + [x′ fools] λ P(x′).

    t: the runner-up of the clean image; r: a clean training image of class t, drawn for the image. Where gates depend
    on the image, P is the mean over layers of the binary cross-entropy between σ(z(x′)) and r's bits, and bits pass the
    gradient of the sigmoid on. Elsewhere P = ‖f(x′) − f(r)‖² / ‖f(r)‖², f the penultimate features. With λ = 0 nothing
    is aimed at: the log-odds of a wrong answer grow, as in ``pgd``, and the step with the largest is kept.
    """

    weight: float = 100.0  # λ [ours]; of 0.1, 1, 10 and 100 what hid digits best from a forest on paths [measured]
    travel: float = 2.5  # length of all steps together, in bounds; above 2 it can cross the whole ball
    match: Literal["auto", "path", "features"] = "auto"  # what is pulled; auto takes the path where there is one
    strongest: bool = False  # half of the steps with straight-through gates, half with gates held; the better of both

    def why_not(self, task: AdversarialTask) -> str | None:
        """Needs a bound, gates where it is about gates, and the passes of ``fit``, the aim and one step."""
        name = task.model.name
        if (self.match == "path" or self.strongest or not self.weight) and not _deciding(task.model):
            return f"needs gates that depend on the image, {name} has none"
        if self.weight and task.model.num_classes < 2:
            return f"needs a wrong class, {name} has {task.model.num_classes} classes"
        fixed = _share_of_references(task) + 1 if self.weight else 0
        return _foolbox.why_not(task, passes=fixed + 3 * len(self._ways()))

    @torch.no_grad()
    def fit(self, task: AdversarialTask) -> Known | None:
        """Look at each reference once; shared by the cell's images."""
        if not self.weight:
            return None
        parts = [self._look(task.model, part) for part in task.references.split(BATCH)]
        right = torch.cat([logits for logits, _ in parts]).argmax(1) == task.reference_labels
        code = {key: torch.cat([code[key] for _, code in parts]) for key in parts[0][1]}
        return Known(right=right, code=code, passes=_share_of_references(task))

    def attack(self, task: AdversarialTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1] within ``task.bound``; 2 passes a step and 1 at the end.

        An image that no step fools comes out as the last step left it.
        """
        known: Known | None = task.fitted
        aim = self._aim(task, known) if known else None
        left = task.budget - known.passes - 1 if known else task.budget
        (images, cost), *others = [
            self._descend(task, aim, (left // len(self._ways()) - 1) // 2, soft) for soft in self._ways()
        ]
        for other, its_cost in others:
            images = _where(its_cost < cost, other, images)
        return finite(images)

    # -- parts -------------------------------------------------------------------------------------------------------

    def _ways(self) -> tuple[bool, ...]:
        """For each descent, whether gates pass gradients on."""
        return (True, False) if self.strongest else (True,)

    def _look(self, model: Classifier, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and what is to be matched: scores of the gates by layer, or features."""
        layers = _deciding(model) if self.match != "features" else []
        if not layers:
            seen = model.observe(images, (FEATURES,))
            return seen.logits, {FEATURES: seen.features[FEATURES]}
        with watched(model.network) as shown:
            logits = model(images)
        return logits, {layer: shown[layer].scores[: len(images)] for layer in layers}  # the rest fills the batch

    @torch.no_grad()
    def _aim(self, task: AdversarialTask, known: Known) -> Aim:
        """The runner-up of each image, and one of the references of that class that the subject gets right."""
        logits = task.model(task.images)
        wrong = F.one_hot(task.labels, logits.shape[1]) == 0  # (B, K)
        present = F.one_hot(task.reference_labels[known.right], logits.shape[1]).any(0)  # (K,)
        exists = (wrong & present).any(1)
        open_to = torch.where(exists[:, None], wrong & present, wrong)
        classes = logits.masked_fill(~open_to, -torch.inf).argmax(1)
        fits = known.right & (task.reference_labels == classes[:, None])  # (B, R)
        drawn = task.draws("target", len(task.references), law="uniform").masked_fill(~fits, -1.0).argmax(1)
        return Aim(classes=classes, code={key: code[drawn] for key, code in known.code.items()}, exists=exists)

    def _descend(self, task: AdversarialTask, aim: Aim | None, steps: int, soft: bool) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) images and the (B,) cost that was least among those that fool, infinite where none does."""
        length = self.travel * task.bound.size / steps
        images = within_bound(task.images + task.bound.size * _start(task), task.images, task.bound)
        best, least = images, torch.full_like(images[:, 0, 0, 0], torch.inf)
        with straight_through(task.model.network) if soft else nullcontext():
            for step in range(steps + 1):
                last = step == steps
                images.requires_grad_(not last)
                loss, cost = self._judge(task, aim, images)
                better = cost.detach() < least
                found = images.detach()
                best, least = _where(better | least.isinf(), found, best), torch.where(better, cost.detach(), least)
                if not last:
                    (slope,) = torch.autograd.grad(loss.sum(), images)  # sum: images do not depend on each other
                    images = within_bound(found - length * _direction(slope, task), task.images, task.bound)
        return best, least

    def _judge(self, task: AdversarialTask, aim: Aim | None, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) what a step lowers, and (B,) the cost by which images are chosen: infinite where one does not fool."""
        logits, code = self._look(task.model, images)
        fools = logits.argmax(1) != task.labels
        if aim is None:
            loss = cost = -wrong_class_margin(logits, task.labels)
        else:
            cost = aim.exists * _distance(code, aim.code)
            loss = F.cross_entropy(logits, aim.classes, reduction="none") + fools * self.weight * cost
        return loss, cost.masked_fill(~fools, torch.inf)


def _share_of_references(task: AdversarialTask) -> int:
    """Passes that ``fit`` costs an image of the cell, rounded up."""
    return -(-len(task.references) // max(1, len(task)))


def _deciding(model: Classifier) -> list[str]:
    """The gated layers whose bits depend on the image."""
    layers = gated_layers(model.network).items()
    return [name for name, layer in layers if layer.gate.binary and not isinstance(layer.gate, FixedGate)]


def _distance(code: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
    """(B,) how far two codes are apart."""
    if FEATURES in code:
        scale = wanted[FEATURES].square().sum(1).clamp(min=torch.finfo(torch.float32).tiny)
        return (code[FEATURES] - wanted[FEATURES]).square().sum(1) / scale
    parts = [
        F.binary_cross_entropy_with_logits(scores, (wanted[layer] > 0).to(scores), reduction="none").mean(1)
        for layer, scores in code.items()
    ]
    return torch.stack(parts).mean(0)


def _start(task: AdversarialTask) -> Tensor:
    """(B, C, H, W) at random in the cube of the bound's norm, or on its sphere, in bounds."""
    if task.bound.norm == "linf":
        return 2 * task.draws("start", *task.model.image_shape, law="uniform") - 1
    return _unit(task.noise())


def _direction(slope: Tensor, task: AdversarialTask) -> Tensor:
    """(B, C, H, W) the way up: signs for linf, length 1 for l2."""
    return slope.sign() if task.bound.norm == "linf" else _unit(slope)


def _unit(tensor: Tensor) -> Tensor:
    """(B, C, H, W) each image's numbers over their L2 norm; 0 where all are."""
    length = torch.linalg.vector_norm(tensor, dim=(1, 2, 3), keepdim=True)
    return tensor / length.clamp(min=torch.finfo(tensor.dtype).tiny)


def _where(chosen: Tensor, these: Tensor, others: Tensor) -> Tensor:
    """(B, C, H, W) images of the one batch or the other, by (B,) bool."""
    return torch.where(chosen[:, None, None, None], these, others)
