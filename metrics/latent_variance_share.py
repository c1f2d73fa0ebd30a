"""How much of the diversity within a class comes from the method's latent."""

import torch
from torch import Tensor

from bench.contract import ShapeError, Undefined, metric
from bench.ops import check_axes, check_finite


@metric(
    unit="fraction",
    better="neither",
    per="class",
    bounds=(0.0, 1.0),
    tracks=("inversion",),
    id="latent_variance_share_{referee}",
)
def latent_variance_share(*, referee_features: Tensor, latent_groups: Tensor) -> Tensor | Undefined:
    """Variance of the referee's penultimate features while the latent alone varies, over their variance in the class.

    [ Σ_g Σ_{i in g} ‖ψ_i − ψ̄_g‖² / (N − G) ] / [ Σ_i ‖ψ_i − ψ̄‖² / (N − 1) ],  cut at 1
    The G groups hold images made for one and the same condition. Both variances are unbiased, so that the size of the
    groups does not enter; by chance their ratio can then pass 1, the largest share there is. Near 0 the latent is
    ignored and the condition is the only source of diversity; 1 is the reverse.
    Source: this ratio is the definition: the within-group and the total mean square of one-way analysis of variance.
    Beware: a share says nothing of the whole: of two nearly equal images all the variance may come from the latent.
    It is noisy with few groups, and what else is random in a method counts as latent: the same generators (``ni_v1`` on
    MNIST) had 0.12 to 0.20 as they are and 0.81 to 0.96 with dropout while sampling.

    Args:
        referee_features: (N, D) the referee's penultimate layer on the images of one class.
        latent_groups: (N,) int64; images of equal number differ by the latent alone.

    Returns:
        () float64 in [0, 1]; ``Undefined`` when no group has two images, or all features are equal.

    Raises:
        ShapeError: other axes, features that are not finite, or groups that are not whole numbers.
    """
    check_axes(referee_features=(referee_features, "N D"), latent_groups=(latent_groups, "N"))
    check_finite(referee_features=referee_features)
    if latent_groups.is_floating_point():
        raise ShapeError(f"latent_groups should be whole numbers, got {latent_groups.dtype}")
    found, group = latent_groups.unique(return_inverse=True)
    if len(found) == len(latent_groups):
        return Undefined(f"no group of equal conditions has two images among {len(latent_groups)}")
    features = referee_features.double()
    if (features == features[0]).all():
        return Undefined("the features of all images of the class are equal")
    sizes = torch.bincount(group)
    means = torch.zeros(len(found), features.shape[1], dtype=features.dtype, device=features.device)
    means = means.index_add(0, group, features) / sizes[:, None]  # (G, D)
    within = (features - means[group]).square().sum() / (len(features) - len(found))
    return (within / features.var(0).sum()).clamp(max=1)
