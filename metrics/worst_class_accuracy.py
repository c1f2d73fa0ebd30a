"""How often the subject recognises its images of the class for which inversion works worst."""

from torch import Tensor
from torch.nn import functional as F

from bench.contract import Undefined, metric
from bench.ops import check_logits, label_place


@metric(unit="fraction", better="higher", per="set", bounds=(0.0, 1.0), tracks=("inversion",))
def worst_class_accuracy(*, target_logits: Tensor, labels: Tensor) -> Tensor | Undefined:
    """The smallest share, over the classes asked for, of images that the subject gives the class asked for.

    min over classes c of mean over {i : y_i = c} of [argmax_k s_k(x_i) = c]
    Source: this minimum is the definition; no paper to match.
    Beware: the least of several noisy shares is below the least share, the more so the fewer images a class has; its
    bootstrap interval is shifted down once more and may lie wholly below the value. Compare rows of equal n only. An
    adversarial example reaches 1 as well.

    Args:
        target_logits: (N, K) of the subject on the generated images.
        labels: (N,) int64 the classes asked for.

    Returns:
        () float64 in [0, 1]; of equal logits the lowest class index counts as largest; ``Undefined`` without images.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_logits(labels, target_logits=target_logits)
    if not len(labels):
        return Undefined("no class was asked for")
    right = (label_place(target_logits, labels) < 1).double()
    members = F.one_hot(labels, target_logits.shape[1]).double()  # (N, K)
    images = members.sum(0)
    asked = images > 0
    return ((right @ members)[asked] / images[asked]).min()
