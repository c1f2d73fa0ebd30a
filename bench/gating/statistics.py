"""What calculation paths say: numbers of one layer's bits, of the labels and of the predictions, and nothing else.

All formulas are ours [ours] but the spread [code-20]; the paper's own could not be read. **N** images, **C** filters of
one layer, **K** classes. Bits are (N, C) bool from test mode. Nothing here runs a network.
"""

import math
import warnings
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contract import SetupError, ShapeError
from bench.gating.gates import ControllingModule, Gate

ALWAYS_ON, ALWAYS_OFF = 0.99, 0.01  # on-rates beyond which a gate does not depend on the image
CLASS_PATH = 0.5  # a filter is on the path of a class when it is on for more than this share of its images
FROZEN = 5.0  # |z| at which about one gate in 200 still gets a gradient in a step
PROBE = 0.1  # inverse strength of the L2 penalty of a probe: more bits than it has examples for must not hurt it
NAN = math.nan

FEWEST_DYNAMIC, FEWEST_ON, MOST_FROZEN, MOST_STATIC = 0.05, 0.02, 0.5, 0.5  # beyond these a layer gets a warning


def check_bits(bits: Tensor, *labels: Tensor) -> None:
    """Raise ``ShapeError`` unless bits are (N, C) bool and there are N labels of each kind."""
    if bits.ndim != 2 or bits.dtype != torch.bool:
        raise ShapeError(f"bits should be (N, C) bool, got {tuple(bits.shape)} {bits.dtype}")
    for one in labels:
        if tuple(one.shape) != (len(bits),):
            raise ShapeError(f"{len(bits)} paths need as many labels, got {tuple(one.shape)}")


# ---- how gates behave ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shares:
    """Shares of the gates of a layer; they add up to 1."""

    always_on: float
    always_off: float
    dynamic: float


def gate_shares(bits: Tensor) -> Shares:
    """Gates that are on for more than 99 % of the images, for less than 1 %, and the others."""
    rates = _rates(bits)
    on, off = (rates > ALWAYS_ON).double().mean().item(), (rates < ALWAYS_OFF).double().mean().item()
    return Shares(on, off, 1 - on - off)


def gate_entropy(bits: Tensor) -> float:
    """Mean over filters of the binary entropy of the on-rate, in bits."""
    return _binary_entropy(_rates(bits)).mean().item()


def within_class_entropy(bits: Tensor, labels: Tensor) -> float:
    """The same inside each class, averaged over the images: what a gate still varies by once the class is known.

    Near 0 the path is the class written down once more. Gates are taken one by one, so it bounds H(a | y) / C from
    above.
    """
    check_bits(bits, labels)
    counts, on = _counts(bits, labels)
    return (_binary_entropy(on / counts[:, None]).mean(1) * counts).sum().item() / len(bits) if len(bits) else NAN


def spread(bits: Tensor) -> float:
    """Mean over images of the L1 distance between an image's path and the mean path [code-20]."""
    rates = _rates(bits)
    return (bits.double() - rates).abs().sum(1).mean().item()


def hamming(bits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean share of bits in which two images differ: over pairs of one class, and over pairs of two classes.

    NaN where there is no such pair.
    """
    check_bits(bits, labels)
    counts, on = _counts(bits, labels)
    inside = _unequal_pairs(on, counts[:, None])
    every = _unequal_pairs(on.sum(0), counts.sum())
    pairs = (counts * (counts - 1) / 2).sum().item()
    others = len(bits) * (len(bits) - 1) / 2 - pairs
    width = bits.shape[1]
    return (
        inside / (pairs * width) if pairs else NAN,
        (every - inside) / (others * width) if others else NAN,
    )


def _unequal_pairs(ones: Tensor, images: Tensor) -> float:
    """Pairs of images that differ in a filter, over all filters: those with it on times those with it off."""
    return (ones * (images - ones)).sum().item()


def unique_share(bits: Tensor) -> float:
    """Number of unlike paths / number of images. Of one layer only: over a whole network it is always near 1."""
    check_bits(bits)
    return len(bits.unique(dim=0)) / len(bits) if len(bits) else NAN


@dataclass(frozen=True)
class Scores:
    """How far the gates' scores z lie from where they could still change."""

    mean_size: float
    percentile_95: float
    frozen: float  # share with |z| > FROZEN


def score_sizes(scores: Tensor) -> Scores:
    """Mean and 95th percentile of |z| over (N, C) scores, and the share that is frozen."""
    sizes = scores.abs().double().flatten()
    if not len(sizes):
        return Scores(NAN, NAN, NAN)
    percentile = np.quantile(sizes.cpu().numpy(), 0.95).item()
    return Scores(sizes.mean().item(), percentile, (sizes > FROZEN).double().mean().item())


def complaints(layer: str, bits: Tensor, scores: Tensor, gate: Gate) -> list[str]:
    """Signs of collapse in a layer, one plain sentence each.

    That a static mask does not depend on the image is no such sign: ``static_masks`` says it once for the network. A
    large score stops the gradient of a controlling module alone.
    """
    shares, rate, frozen = gate_shares(bits), bits.double().mean().item(), score_sizes(scores).frozen
    static = shares.always_on + shares.always_off
    found = []
    if gate.looks and shares.dynamic < FEWEST_DYNAMIC:
        found.append(f"{layer}: {shares.dynamic:.1%} of the gates depend on the image, nothing is decoupled")
    elif gate.looks and static > MOST_STATIC:
        found.append(f"{layer}: {static:.1%} of the gates are the same for all images, which is ordinary pruning")
    if rate < FEWEST_ON:
        found.append(f"{layer}: {rate:.1%} of the gates are on, the layer is almost switched off")
    if isinstance(gate, ControllingModule) and frozen > MOST_FROZEN:
        found.append(f"{layer}: {frozen:.1%} of the scores lie beyond {FROZEN:g}, these gates no longer learn")
    return found


def static_masks(gates: Collection[Gate]) -> list[str]:
    """One sentence on the layers of a network whose gates never look at the image; none where there are none."""
    static = sum(not gate.looks for gate in gates)
    masks = f"{static} of {len(gates)} gated layers have a static mask"
    return [f"{masks}: the same filters for all images, nothing is decoupled"] if static else []


# ---- paths of classes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frequencies:
    """How often each filter is on for each class.

    Args:
        values: (K, C) float64, NaN in the row of a class without an image.
        counts: (K,) int64 images of each class.
    """

    values: Tensor
    counts: Tensor

    @property
    def paths(self) -> Tensor:
        """(K, C) bool: the path of each class; all off where the class has no image."""
        return self.values > CLASS_PATH

    @property
    def contrast(self) -> Tensor:
        """(K, C) f(c) − mean over classes of f; NaN in the row of a class without an image."""
        return self.values - self.values.nanmean(0)


def class_frequencies(bits: Tensor, labels: Tensor, num_classes: int, counted: Tensor | None = None) -> Frequencies:
    """f(c) over the images of each class.

    Args:
        counted: (N,) bool, the images that count, as those that the network gets right; all by default.

    Raises:
        SetupError: a label is not one of the K classes.
    """
    check_bits(bits, labels, *(() if counted is None else (counted,)))
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise SetupError(
            f"labels should lie in 0 … {num_classes - 1}, got {labels.min().item()} … {labels.max().item()}",
            "paths and labels are of different data, or the number of classes is wrong",
        )
    if counted is not None:
        bits, labels = bits[counted], labels[counted]
    counts, on = _counts(bits, labels, num_classes)
    return Frequencies(on / counts[:, None], counts.long())  # 0 / 0 is NaN


def filter_selectivity(frequencies: Frequencies) -> Tensor:
    """(C,) max over classes of f(c) − mean over classes; NaN when no class has an image."""
    contrast = frequencies.contrast[frequencies.counts > 0]
    return contrast.amax(0) if len(contrast) else frequencies.values.new_full((frequencies.values.shape[1],), NAN)


def similarity(frequencies: Frequencies) -> Tensor:
    """(K, K) cosine of f(c) − m and f(d) − m, m the mean over classes: uncentred, always-on gates make all alike.

    NaN for a class without an image, and where a class does not differ from the mean.
    """
    centred = frequencies.contrast
    sizes = centred.norm(dim=1, keepdim=True)
    directions = centred / torch.where(sizes > 1e-12, sizes, NAN)
    return (directions @ directions.T).clamp(-1, 1)


def jaccard(frequencies: Frequencies) -> Tensor:
    """(K, K) shared filters / filters on either path, of the paths of two classes.

    NaN where both paths are empty, and for a class without an image.
    """
    paths = frequencies.paths.double()
    shared = paths @ paths.T
    sizes = paths.sum(1)
    found = shared / (sizes[:, None] + sizes - shared)  # 0 / 0 is NaN
    missing = frequencies.counts == 0
    found[missing] = found[:, missing] = NAN
    return found


def group_contrast(similarities: Tensor, groups: list[str]) -> float:
    """Mean similarity of two classes of one group − of two groups; NaN where either kind of pair is missing."""
    if len(groups) != len(similarities):
        raise ShapeError(f"{len(similarities)} classes need as many groups, got {len(groups)}")
    places = torch.tensor([sorted(set(groups)).index(group) for group in groups], device=similarities.device)
    same = (places[:, None] == places).triu(1)
    other = (places[:, None] != places).triu(1)
    return (similarities[same].nanmean() - similarities[other].nanmean()).item()


def confusion(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """(K, K) symmetric: mean of the shares of class c taken for d and of d taken for c; NaN without images of both."""
    table = torch.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    table = table.reshape(num_classes, num_classes).double()
    shares = table / table.sum(1, keepdim=True)
    return (shares + shares.T) / 2


def rank_agreement(first: Tensor, second: Tensor) -> float:
    """Spearman correlation of the upper triangles of two (K, K) matrices, over the pairs that both know.

    NaN with fewer than 3 pairs, or when one of them is constant.
    """
    from scipy.stats import spearmanr

    pairs = torch.ones_like(first, dtype=torch.bool).triu(1)
    ours, theirs = first[pairs].cpu().numpy(), second[pairs].cpu().numpy()
    known = ~(np.isnan(ours) | np.isnan(theirs))
    ours, theirs = ours[known], theirs[known]
    if len(ours) < 3 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return NAN
    return float(spearmanr(ours, theirs).statistic)


def shuffled(bits: Tensor, generator: torch.Generator) -> Tensor:
    """Every gate's bits dealt out anew among the images: the same on-rates, no relation to image, class or gate.

    Args:
        generator: on the CPU.
    """
    order = torch.rand(bits.shape, generator=generator).argsort(0).to(bits.device)
    return bits.gather(0, order)


# ---- what can be read from paths -----------------------------------------------------------------------------------


def information(bits: Tensor, labels: Tensor, unseen_bits: Tensor, unseen_labels: Tensor, num_classes: int) -> float:
    """I(path; class) in bits, from below: log2 K − cross entropy of a fresh linear probe on unseen paths, at least 0.

    Classes are taken as equally frequent. NaN when the probe has fewer than two classes to learn from.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    check_bits(bits, labels)
    check_bits(unseen_bits, unseen_labels)
    if len(labels.unique()) < 2 or not len(unseen_labels):
        return NAN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # any probe gives a bound
        probe = LogisticRegression(C=PROBE, max_iter=200).fit(_rows(bits), labels.cpu().numpy())
    chances = np.full((len(unseen_bits), num_classes), np.finfo(np.float64).tiny)
    chances[:, probe.classes_] = np.maximum(probe.predict_proba(_rows(unseen_bits)), np.finfo(np.float64).tiny)
    own = np.take_along_axis(chances, unseen_labels.cpu().numpy()[:, None], 1)
    return max(0.0, math.log2(num_classes) + float(np.log2(own).mean()))


def cluster_agreement(bits: Tensor, labels: Tensor, clusters: int) -> float:
    """Adjusted Rand index of k-means clusters of paths against the labels: 1 for equal partitions, 0 by chance."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn needs it

    check_bits(bits, labels)
    if not len(bits):
        return NAN
    clusters = min(clusters, len(bits.unique(dim=0)))
    with threadpool_limits(1):  # threads would add in an order of their own
        found = KMeans(clusters, n_init=4, random_state=0).fit_predict(_rows(bits))
    return float(adjusted_rand_score(labels.cpu().numpy(), found))


# ---- shared --------------------------------------------------------------------------------------------------------


def _rates(bits: Tensor) -> Tensor:
    """(C,) float64 on-rates."""
    check_bits(bits)
    return bits.double().mean(0)


def _counts(bits: Tensor, labels: Tensor, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Images of each class, (K,), and for how many of them each filter is on, (K, C), both float64.

    Without K, only the classes that there are.
    """
    if num_classes is None:
        present, labels = labels.unique(return_inverse=True)
        num_classes = len(present)
    members = (labels[:, None] == torch.arange(num_classes, device=labels.device)).double()  # (N, K)
    return members.sum(0), members.T @ bits.double()


def _binary_entropy(rates: Tensor) -> Tensor:
    """In bits; 0 at 0 and 1."""
    entropy: Tensor = torch.special.entr(rates) + torch.special.entr(1 - rates)
    return entropy / math.log(2)


def _rows(bits: Tensor) -> NDArray[np.float64]:
    return bits.double().cpu().numpy()
