"""Fréchet distance between generated and real images in DINOv2's features."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._moments import frechet_distance


@metric(
    unit="squared feature distance",
    better="lower",
    per="set",
    bounds=(None, None),  # rounding may leave it a little below 0; it is not clipped
    tracks=("inversion", "visualization"),
    replicates=40,
    decimals=2,
    id="frechet_dinov2_vitb14",
)
def frechet_dinov2(*, dinov2_features: Tensor, real_dinov2_features: Tensor) -> Tensor | Undefined:
    """‖μ₁ − μ₂‖² + tr(S₁ + S₂ − 2 (S₁ S₂)^½) over the class token of DINOv2 ViT-B/14.

    μ and S are means and unbiased covariances, in float64. Images are rounded to 8 bits and brought to 224 px by
    TensorFlow 1's bilinear resize, as torch-fidelity does; grey is shown as three equal channels.
    Source: Stein et al. 2023, section 3, arXiv:2306.04675, who use ViT-L/14: the numbers are not theirs.
    Beware: it is biased upwards for few images and its covariances are singular below 768 of them: then read
    ``kernel_dinov2``, and compare equal numbers of images only. The features follow objects more than texture: images
    can be visibly unreal and still near.

    Args:
        dinov2_features: (N, 768) of the generated images.
        real_dinov2_features: (M, 768) of the reference images.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, or the sums overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_axes(dinov2_features=(dinov2_features, "N D"), real_dinov2_features=(real_dinov2_features, "M D"))
    check_finite(dinov2_features=dinov2_features, real_dinov2_features=real_dinov2_features)
    return frechet_distance(generated=dinov2_features, real=real_dinov2_features)
