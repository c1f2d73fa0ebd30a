"""Fréchet inception distance (FID) between generated and real images."""

from torch import Tensor

from bench.contract import Undefined, metric
from bench.ops import check_axes, check_finite
from metrics._moments import frechet_distance


@metric(
    unit="fid",
    better="lower",
    per="set",
    bounds=(None, None),  # rounding may leave it a little below 0; it is not clipped
    tracks=("inversion", "visualization"),
    replicates=40,  # each decomposes a matrix of up to 2048 × 2048
    decimals=2,
    id="fid_inception2048_tf",
)
def frechet_inception(*, inception_features: Tensor, real_inception_features: Tensor) -> Tensor | Undefined:
    """‖μ₁ − μ₂‖² + tr(S₁ + S₂ − 2 (S₁ S₂)^½) over the 2048 pooled features of TensorFlow's Inception of 2015.

    μ and S are means and unbiased covariances, in float64. Images are rounded to 8 bits and brought to 299 px by
    TensorFlow 1's bilinear resize, as torch-fidelity does; grey is shown as three equal channels.
    Source: Heusel et al. 2017, equation 6, arXiv:1706.08500; torch-fidelity 0.4 gives the same number.
    Beware: it is biased upwards for few images and its covariances are singular below 2048 of them: then read
    ``kernel_inception``, and compare equal numbers of images only. Inception was trained on photographs: on digits or
    noise its features mean little, and small changes of resizing or compression move them.

    Args:
        inception_features: (N, 2048) of the generated images.
        real_inception_features: (M, 2048) of the reference images.

    Returns:
        () float64; ``Undefined`` when either side has fewer than 2 images, or the sums overflow.

    Raises:
        ShapeError: other axes, or features that are not finite.
    """
    check_axes(inception_features=(inception_features, "N D"), real_inception_features=(real_inception_features, "M D"))
    check_finite(inception_features=inception_features, real_inception_features=real_inception_features)
    return frechet_distance(generated=inception_features, real=real_inception_features)
