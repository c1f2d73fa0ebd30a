"""Whether CLIP, asked in words, sees in an image the class that it should show."""

from torch import Tensor

from bench.contract import metric
from bench.ops import check_logits, label_place


@metric(
    unit="fraction",
    better="higher",
    per="image",
    bounds=(0.0, 1.0),
    tracks=("inversion", "visualization"),
    id="clip_zero_shot_top1_vitb32_a_photo_of",
)
def clip_zero_shot_top1(*, labels: Tensor, clip_logits: Tensor) -> Tensor:
    """1 where the sentence on the class shown is the nearest to the image, 0 elsewhere; only for classes.

    Each class k of the data set has one sentence, "a photo of a {name}", or "a photo of the digit {name}" where the
    name is one digit; the logit is the cosine between the embeddings of image and sentence, times CLIP's own factor.
    OpenAI's ViT-B/32 in float32; images by bicubic resize to 224 px with antialiasing, grey as three equal channels.
    Source: Radford et al. 2021, section 3.1, arXiv:2103.00020, with one sentence a class instead of their 80.
    Beware: CLIP reads: an image of the written word passes. It knows digits and other small pictures poorly, so look at
    what real images reach, and one sentence a class is some points worse than many.

    Args:
        labels: (N,) int64 the classes asked for.
        clip_logits: (N, K) of the generated images.

    Returns:
        (N,) float64 of 0 and 1; equal logits are ordered by class index.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, clip_logits=clip_logits)
    return (label_place(clip_logits, labels) < 1).double()
