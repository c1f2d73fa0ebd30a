"""What the path through the last layer with gates says of an image's class."""

import math
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from bench.contract import Classifier, Undefined, metric
from bench.gating import gated_layers, paths_of
from bench.gating.statistics import PROBE
from bench.ops import check_axes, check_images
from metrics._paths import TOO_FEW, halves
from metrics._skipping import UNGATED

MOST_IMAGES = 2000


@metric(unit="bit", better="higher", per="image", bounds=(None, None), tracks=("training",), partial=True)
def path_class_information(*, real: Tensor, labels: Tensor, target: Classifier) -> Tensor | Undefined:
    """log2 K + log2 q(y | a), a the bits of the last gated layer: its mean bounds I(a; y) from below.

    q is a fresh linear probe (softmax regression with an L2 penalty of strength 10) on the bits of one half of the
    images; the other half is judged. Both have equally many images of each of the K classes, so that the entropy of
    the class is log2 K. Where the mean is below 0 the probe is worse than no answer: q = 1/K then, and all values are
    0. log2 K, 3.32 for ten classes, is the most.
    Source: the bound of Barber & Agakov 2003 (The IM Algorithm); that it is read from gates by a fresh probe is ours,
    for Li et al. 2020 (Interpretable Neural Network Decoupling, arXiv:1906.01166).
    Beware: the predicted class written in bits would have log2 K as well: a high number alone does not make a path an
    explanation. What a linear probe cannot read does not count. The penalty costs most where classes are many and
    images few: of ten classes with 100 images each to learn from and one filter of its own, 2.84 bits are found, with
    six filters 3.22; of 100 classes with 10 images, 1.40 and 5.10 of 6.64. At most 2 000 images are looked at, as many
    of each class as the rarest has.

    Args:
        real: (N, C, H, W) test images, intensities in [0, 1].
        labels: (N,) int64 their true labels.
        target: the trained network as a subject.

    Returns:
        (N,) float64, NaN for images that are not judged; ``Undefined`` for a network without gates, and with fewer than
        two classes of two images.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
    """
    check_axes(real=(real, "N C H W"), labels=(labels, "N"))
    check_images(real=real)
    if not gated_layers(target.network):
        return UNGATED
    learned, judged = halves(real, labels, MOST_IMAGES)
    if not len(judged):
        return Undefined(TOO_FEW)
    bits = list(paths_of(target, torch.cat([real[learned], real[judged]])).bits.values())[-1]
    known, unseen = bits.chunk(2)
    found = _log2_chances(known, labels[learned], unseen, labels[judged]) + math.log2(len(labels[learned].unique()))
    values = torch.full((len(real),), torch.nan, dtype=torch.float64, device=real.device)
    return values.index_copy(0, judged, found if found.mean() > 0 else torch.zeros_like(found))


def _log2_chances(bits: Tensor, labels: Tensor, unseen: Tensor, answers: Tensor) -> Tensor:
    """(n,) float64 log2 of what a probe of (N, C) bits and (N,) labels gives to the answers for unseen bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # any probe gives a bound
        probe = LogisticRegression(C=PROBE, max_iter=200).fit(bits.double().cpu().numpy(), labels.cpu().numpy())
    logs = torch.from_numpy(probe.predict_log_proba(unseen.double().cpu().numpy())).to(bits.device)  # (n, K)
    columns = torch.searchsorted(torch.from_numpy(probe.classes_).to(answers), answers)
    return logs.gather(1, columns[:, None])[:, 0] / math.log(2)
