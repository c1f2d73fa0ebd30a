"""Share of test images that stay right under the standard attack: 20 steps within 8/255 of each intensity."""

from collections.abc import Callable

import eagerpy
import foolbox
import torch
from foolbox.attacks import LinfProjectedGradientDescentAttack
from torch import Tensor, nn

from bench.contract import metric
from bench.ops import check_axes, check_images, check_logits, label_place, wrong_class_margin

REACH = 8 / 255
STEP = 2 / 255
ROUNDS = (2, 3, 5, 10)  # 20 steps; after each round, images that are wrong already are left alone
BATCH = 128  # images attacked at once: bounds the memory


@metric(unit="fraction", better="higher", per="image", bounds=(0.0, 1.0), tracks=("training",), partial=True)
def accuracy_pgd20_linf_8_255(
    *, target: Callable[[Tensor], Tensor], real: Tensor, labels: Tensor, count: int = 500
) -> Tensor:
    """1 where the network is right on the image and after 2, 5, 10 and 20 steps of the attack, 0 elsewhere.

    x ← clip to [0, 1] and to x₀ ± 8/255 of x + 2/255 · sign(∇ₓ log((1 − p_y)/p_y)), from x₀ itself, so that nothing is
    drawn. Only ``count`` images are attacked, at equal distances in the test split, whose order may be by class.
    Source: Madry et al. 2018, section 2.1, arXiv:1706.06083; steps of foolbox 3.3.
    Differs: no random start; the log-odds' gradient, which is the cross-entropy's direction and does not vanish where
    the network is certain; an image that was fooled on the way counts as fooled.
    Beware: it is an upper bound: a network whose gradients are masked, by saturation, quantisation or noise, looks
    robust and is not. For images of one colour channel, 8/255 is small.

    Args:
        target: the trained network, (B, C, H, W) → (B, K) logits, K ≥ 2.
        real: (N, C, H, W) float, the test images, intensities in [0, 1].
        labels: (N,) int64 their true labels.
        count: images to attack; all when there are fewer.

    Returns:
        (N,) float64 of 0 and 1, NaN for the images that were not attacked.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    check_axes(real=(real, "N C H W"), labels=(labels, "N"))
    check_images(real=real)
    attacked = min(count, len(real))
    chosen = torch.arange(attacked, device=real.device) * len(real) // max(1, attacked)
    values = torch.full((len(real),), torch.nan, dtype=torch.float64, device=real.device)
    for places in chosen.split(BATCH):
        values[places] = _withstood(target, real[places], labels[places]).double()
    return values


def _withstood(target: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """(B,) bool: right on the image itself and after each round of the attack."""
    points, standing = images.clone(), _is_right(target, images, labels)
    for steps in ROUNDS:
        left = standing.nonzero()[:, 0]
        if not len(left):
            break
        points[left] = _one_round(target, points[left], images[left], labels[left], steps)
        standing[left] = _is_right(target, points[left], labels[left])
    return standing


def _is_right(target: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        logits = target(images)
    check_logits(labels, target=logits)
    return label_place(logits, labels) < 1


def _one_round(
    target: Callable[[Tensor], Tensor], points: Tensor, images: Tensor, labels: Tensor, steps: int
) -> Tensor:
    """Go on from ``points`` for some steps around ``images``; foolbox does the steps."""
    attack = LinfProjectedGradientDescentAttack(abs_stepsize=STEP, steps=steps, random_start=True)
    attack.get_random_start = lambda originals, size: eagerpy.astensor(points)  # nothing random: where we are
    attack.get_loss_fn = lambda model, classes: (
        lambda at: eagerpy.astensor(wrong_class_margin(target(at.raw), classes.raw).sum())
    )
    bounds = foolbox.PyTorchModel(nn.Identity().eval(), bounds=(0, 1), device=images.device)  # all that is asked of it
    with torch.enable_grad():
        moved: Tensor = attack.run(bounds, images, foolbox.criteria.Misclassification(labels), epsilon=REACH)
    return moved.detach()
