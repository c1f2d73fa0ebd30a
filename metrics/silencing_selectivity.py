"""Whether a class is lost, and the others are not, when the filters that its paths prefer are taken away."""

import torch
from torch import Tensor

from bench.contract import Classifier, Undefined, metric, seed_for
from bench.gating import gated_layers, paths_of
from bench.gating.silencing import class_filters, random_dynamic_filters
from bench.gating.statistics import ALWAYS_OFF, ALWAYS_ON, class_frequencies
from bench.ops import check_axes, check_images
from metrics._paths import TOO_FEW, halves, predictions_without
from metrics._skipping import UNGATED

CLASSES, MOST_IMAGES = 10, 1000
SHARE = 0.2  # of the layer's filters are silenced
DRAWS = 3  # of random sets, each time one for every class


@metric(unit="fraction", better="higher", per="image", bounds=(-2.0, 2.0), tracks=("training",), partial=True)
def silencing_selectivity(*, real: Tensor, labels: Tensor, target: Classifier) -> Tensor | Undefined:
    """Accuracy lost on a class without its own filters − without those of another class; less the same by chance.

    s_i = mean over c ≠ y_i of [right without D(c)] − [right without D(y_i)], less the mean s_i of three draws of random
    sets in place of the D. D(c) is a fifth of the last gated layer's filters, at most half of those that are on for 1
    to 99 % of the images: of these, the ones with the largest f(c) − mean over the other classes of f, f(c) being how
    often a filter is on for class c. They are forced off for every image, all else stays. f is of one half of the
    images, the other half is judged; both have equally many of each class, so that the mean over images is the mean
    over classes of drop(c) − mean drop of the others. Random sets are as large and of the same filters; their own mean
    is 0 but for chance.
    Source: the definition is ours, for Li et al. 2020 (Interpretable Neural Network Decoupling, arXiv:1906.01166); the
    paper's own is not known.
    Beware: near 0 where classes have no filters of their own, and also where a layer has filters to spare, so that
    nothing is lost. The last layer feeds the classifier: filters of a network without gates are selective there too.
    At most 1 000 images are looked at, of the first ten classes, as many of each as the rarest has. The interval knows
    of images, not of other draws.

    Args:
        real: (N, C, H, W) test images, intensities in [0, 1].
        labels: (N,) int64 their true labels.
        target: the trained network as a subject.

    Returns:
        (N,) float64 in [−2, 2], NaN for images that are not judged; ``Undefined`` for a network without gates, for a
        last layer with fewer than two gates that depend on the image, and with fewer than two classes of two
        images.

    Raises:
        ShapeError: other axes, or intensities outside [0, 1].
        Unsupported: the network cannot be traced.
    """
    check_axes(real=(real, "N C H W"), labels=(labels, "N"))
    check_images(real=real)
    if not gated_layers(target.network):
        return UNGATED
    places = torch.isin(labels, labels.unique()[:CLASSES]).nonzero()[:, 0]
    learned, judged = (places[half] for half in halves(real[places], labels[places], MOST_IMAGES))
    if not len(judged):
        return Undefined(TOO_FEW)
    layer, bits = list(paths_of(target, real[learned]).bits.items())[-1]
    classes, own = labels[learned].unique(return_inverse=True)  # of the judged as well: they have the same classes
    rates = bits.double().mean(0)
    dynamic = (rates <= ALWAYS_ON) & (rates >= ALWAYS_OFF)
    size = min(max(1, round(SHARE * bits.shape[1])), int(dynamic.sum()) // 2)  # more could not differ between sets
    if not size:
        return Undefined(f"fewer than two gates of {layer}, the last with gates, depend on the image")
    generator = torch.Generator().manual_seed(seed_for("silencing"))
    chosen = bits.new_zeros(len(classes), len(dynamic))
    chosen[:, dynamic] = class_filters(class_frequencies(bits[:, dynamic], own, len(classes)), size)
    drawn = random_dynamic_filters(rates, size, DRAWS * len(classes), generator)
    found = predictions_without(target, real[judged], layer, torch.cat([chosen, drawn]))
    right = (found == labels[judged]).double().view(1 + DRAWS, len(classes), len(judged))
    lost = _own_loss(right, own)  # (1 + DRAWS, n)
    values = torch.full((len(real),), torch.nan, dtype=torch.float64, device=real.device)
    return values.index_copy(0, judged, lost[0] - lost[1:].mean(0))


def _own_loss(right: Tensor, own: Tensor) -> Tensor:
    """(S, n) mean over the other classes' sets − the own class's set.

    Args:
        right: (S, K, n) 1 where image i is right without the filters of class c.
        own: (n,) the images' classes.
    """
    mine = right.gather(1, own.expand(len(right), 1, -1))[:, 0]  # (S, n)
    return (right.sum(1) - mine) / (right.shape[1] - 1) - mine
