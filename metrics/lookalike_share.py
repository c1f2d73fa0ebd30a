"""Share of pairs of images that look alike though the subject gives each its own class."""

import torch
from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_images, check_logits
from metrics._adversarial import is_seen_as
from metrics._pairs import choose_pairs, own_order
from metrics._ssim import ssim_of_pairs, too_small

BLOCK = 2**22  # intensities of one side at once


@metric(
    unit="fraction",
    better="higher",
    per="set",
    bounds=(0.0, 1.0),
    tracks=("adversarial",),
    replicates=100,
    id="lookalike_share_ssim0.9_rmse8_2000pairs",
)
def lookalike_share(
    *,
    generated: Tensor,
    target_logits: Tensor,
    target_labels: Tensor,
    pairs: int = 2000,
    ssim: float = 0.9,
    rmse: float = 8 / 255,
) -> Tensor | Undefined:
    """Of the pairs aimed at two classes, the share that got both and is nearly one picture.

    #{i < j, t_i ≠ t_j : argmax f(x_i) = t_i, argmax f(x_j) = t_j, RMSE(x_i, x_j) ≤ 8/255, SSIM(x_i, x_j) ≥ 0.9}
    over #{i < j, t_i ≠ t_j},  t the class aimed at, RMSE over all pixels, SSIM as in ``ssim_gauss11_s15``.
    All pairs of the cell up to 63 images, whichever latent or original they come from. Of more, ordered by sha256 of
    their bytes (so the order they come in moves nothing), image i with image i + s, counted round, at ``pairs // N``
    strides s, one at least, spread up to N/2; those of two classes are what counts.
    Source: this share is the definition; SSIM of Wang et al. 2004, doi:10.1109/TIP.2003.819861.
    Beware: it asks for one picture throughout a cell, so attacks that stay near their originals score about 0 at any
    strength. Of an attack that names no class, t is the wrong class that the subject favours. A picture and a slightly
    brighter one have an SSIM near 1: the distance is what is hard on plain pictures, the SSIM on textured ones.

    Args:
        generated: (N, C, H, W) float, intensities in [0, 1].
        target_logits: (N, K) of the subject on them.
        target_labels: (N,) int64 the class that each was made for.
        pairs: about how many pairs to compare at most.
        ssim: the least SSIM of a pair that looks alike.
        rmse: the largest root-mean-square distance of such a pair, in intensities.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when no two images were made for different classes, or an image has a side
        below 11 px.

    Raises:
        ShapeError: other axes, intensities outside [0, 1], logits that are not finite, labels outside [0, K).
    """
    check_images(generated=generated)
    check_axes(generated=(generated, "N C H W"), target_logits=(target_logits, "N K"))
    check_logits(target_labels, target_logits=target_logits)
    if not (target_labels != target_labels[:1]).any():
        return Undefined("no two images were made for different classes")
    small = too_small(generated)
    if small:
        return small
    first, second = _cross_class_pairs(generated, target_labels, pairs)
    right = is_seen_as(target_logits, target_labels) > 0
    alike = right[first] & right[second]
    alike[alike.clone()] = _distance(generated, first[alike], second[alike]) <= rmse
    if alike.any():  # only of these few the costlier SSIM
        alike[alike.clone()] = ssim_of_pairs(generated, generated, first[alike], second[alike]) >= ssim
    return alike.double().mean()


def _cross_class_pairs(images: Tensor, labels: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Two (L,) int64: the fixed choice of pairs, without those of one class."""
    by_class = labels.argsort(stable=True)  # equal images of two classes have an order, too
    order = by_class[own_order(images[by_class])]
    first, second = (order[side] for side in choose_pairs(len(images), most, images.device))
    cross = labels[first] != labels[second]
    return first[cross], second[cross]


def _distance(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(L,) float64 root-mean-square distance of each pair."""
    size = max(1, BLOCK // images[0].numel())
    parts = zip(rows.split(size), columns.split(size), strict=True)
    return torch.cat([(images[i].double() - images[j].double()).square().flatten(1).mean(1).sqrt() for i, j in parts])
