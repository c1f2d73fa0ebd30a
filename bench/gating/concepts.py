"""What filters and their gates have to do with concepts: spec 6.4, defined as in Network Dissection and Net2Vec.

* One filter (Bau et al. 2017, arXiv:1704.05796): its map, enlarged bilinearly, against a concept's pixels.
* One gate: whether it is on where the concept is; needs no pixels. [ours]
* Filters together (Fong & Vedaldi 2018, arXiv:1801.03454): a non-negative sum of maps, fitted to the concept's pixels
  on every second picture and judged on the others; of all filters, of those that the concept switches on, of random
  ones. [ours: least squares instead of gradient steps, the level chosen for the largest IoU, both on the fitted half]

**N** pictures, **C** filters, **T** concepts, **h, w** of a map, **H, W** of a mask, **S** sets of filters.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from scipy.stats import false_discovery_control, hypergeom
from torch import Tensor
from torch.nn import functional as F

from bench.contract import Classifier, SetupError, ShapeError, seed_for
from bench.gating.factors import factor_pictures
from bench.gating.layers import GatedLayer, require_gates
from bench.gating.paths import paths_of
from bench.ops import check_axes, check_images

ACTIVE_SHARE = 0.005  # of a filter's places, over all pictures, that count as active [Network Dissection]
DETECTOR_IOU = 0.04  # above it a filter is a detector [Network Dissection]
FALSE_DISCOVERIES = 0.05  # share expected among the associations reported
PATH_QUANTILE = 0.9  # of phi: filters from there on are a concept's path
LARGEST_SIDE = 32  # of the grid on which maps meet masks: a larger picture's mask is made coarser [ours]
LEVELS = 256  # tried for a sum of maps, evenly spaced between its smallest and largest value [ours]
RANDOM_SETS, RESAMPLES = 10, 1000  # [ours]
RIDGE = 1e-8  # of the mean variance: maps that are equal or empty leave the least squares solvable
CHUNK, PIXELS = 32, 1 << 16  # pictures, and pixels, that are copied at once
EVERY, PATH, UNIT, FIRST_RANDOM = 0, 1, 2, 3  # places along S


# ---- maps of a gated layer -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerMaps:
    """Outputs of one gated layer, (N, C, h, w), as the network uses them and before the gates."""

    masked: Tensor
    unmasked: Tensor


def layer_maps(model: Classifier, images: Tensor, layers: Sequence[str], batch_size: int = 64) -> dict[str, LayerMaps]:
    """One forward pass an image; no hook stays behind.

    Raises:
        SetupError: the network has no gates, or no such layer.
    """
    gated = require_gates(model.network)
    for name in layers:
        if name not in gated:
            raise SetupError(f"the network has no gated layer {name!r}", f"it has: {', '.join(gated)}")
    parts: dict[str, list[LayerMaps]] = {name: [] for name in layers}
    with torch.no_grad(), _latest_maps({name: gated[name] for name in layers}) as latest:
        for batch in images.split(batch_size):
            model(batch)  # may fill the batch up: rows behind it are nobody's
            for name, own in parts.items():
                own.append(LayerMaps(latest[name].masked[: len(batch)], latest[name].unmasked[: len(batch)]))
    return {
        name: LayerMaps(torch.cat([part.masked for part in own]), torch.cat([part.unmasked for part in own]))
        for name, own in parts.items()
    }


@contextmanager
def _latest_maps(layers: dict[str, GatedLayer]) -> Iterator[dict[str, LayerMaps]]:
    """Inside, each forward pass leaves its maps here. Copies: a network may add a shortcut to them in place."""
    before: dict[str, Tensor] = {}
    latest: dict[str, LayerMaps] = {}

    def rectified(name: str, out: Tensor) -> None:
        before[name] = out.clone()

    def gated(name: str, out: Tensor) -> None:
        latest[name] = LayerMaps(out.clone(), before.pop(name))

    hooks = []
    try:
        for name, layer in layers.items():
            hooks.append(layer.act.register_forward_hook(lambda module, args, out, name=name: rectified(name, out)))
            hooks.append(layer.register_forward_hook(lambda module, args, out, name=name: gated(name, out)))
        yield latest
    finally:
        for hook in hooks:
            hook.remove()


# ---- one gate ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Association:
    """Of each gate with each concept, (C, T). A pair of which one never changes has no phi and is not tested."""

    phi: Tensor  # float64, correlation of two bits
    difference: Tensor  # float64, P(on | present) − P(on | absent)
    p_value: Tensor  # float64
    significant: Tensor  # bool

    @property
    def tested(self) -> Tensor:
        """(C, T) bool."""
        return self.phi.isfinite()


def association(bits: Tensor, present: Tensor) -> Association:
    """How gates go with concepts over N pictures.

    p is twice the smaller tail of Fisher's exact test, at most 1; significance is Benjamini's and Hochberg's at 5 %
    over all pairs tested.

    Args:
        bits: (N, C) bool.
        present: (N, T) bool.
    """
    check_axes(bits=(bits, "N C"), present=(present, "N T"))
    on, with_concept, both, count = _counts(bits, present)
    phi = (count * both - on * with_concept) / (on * (count - on) * with_concept * (count - with_concept)).sqrt()
    difference = both / with_concept - (on - both) / (count - with_concept)
    p_value, significant = _fisher(on, with_concept, both, count, phi.isfinite())
    return Association(phi, difference, p_value, significant)


def _counts(bits: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """(C, 1) pictures with the gate on, (1, T) with the concept, (C, T) with both, and N."""
    bits, present = bits.double(), present.double()
    return bits.sum(0)[:, None], present.sum(0)[None], bits.T @ present, len(bits)


def _fisher(on: Tensor, present: Tensor, both: Tensor, count: int, tested: Tensor) -> tuple[Tensor, Tensor]:
    seen, first, second = (part.expand_as(both)[tested].long().cpu().numpy() for part in (both, present, on))
    less, more = hypergeom.cdf(seen, count, first, second), hypergeom.sf(seen - 1, count, first, second)
    p = np.minimum(1, 2 * np.minimum(less, more))
    p_value = torch.full_like(both, math.nan)
    p_value[tested] = torch.from_numpy(p).to(both)
    significant = torch.zeros_like(tested)
    if len(p):
        significant[tested] = torch.from_numpy(false_discovery_control(p) <= FALSE_DISCOVERIES).to(tested.device)
    return p_value, significant


# ---- one filter ----------------------------------------------------------------------------------------------------


def active_levels(maps: Tensor, share: float = ACTIVE_SHARE) -> Tensor:
    """(C,) the smallest level that at most ``share`` of a filter's values lie above, or at most one where that is none.

    Args:
        maps: (N, C, h, w), before they are enlarged.
    """
    values = maps.transpose(0, 1).flatten(1)  # (C, N·h·w)
    above = min(max(1, int(share * values.shape[1])), values.shape[1] - 1)
    return values.topk(above + 1, dim=1).values[:, -1]


def unit_iou(maps: Tensor, masks: Tensor, share: float = ACTIVE_SHARE) -> Tensor:
    """(C, T) float64: pixels in which filter and concept agree over pixels that either has, over all pictures.

    Args:
        maps: (N, C, h, w).
        masks: (N, T, H, W) bool.

    Returns:
        NaN for a concept without a pixel; 0 for a filter that is never active.
    """
    check_axes(maps=(maps, "N C h w"), masks=(masks, "N T H W"))
    levels = active_levels(maps, share)[:, None]
    both = torch.zeros(maps.shape[1], masks.shape[1], dtype=torch.float64, device=maps.device)
    active, wanted = torch.zeros_like(both[:, :1]), torch.zeros_like(both[:1])
    for some_maps, some_masks in zip(maps.split(CHUNK), masks.split(CHUNK), strict=True):
        on = (_rows(_enlarged(some_maps, masks)) > levels).float()  # (C, pixels)
        truth = _rows(some_masks).float()  # (T, pixels)
        both += (on @ truth.T).double()
        active += on.sum(1, dtype=torch.float64)[:, None]
        wanted += truth.sum(1, dtype=torch.float64)
    return (both / (active + wanted - both)).masked_fill(wanted == 0, math.nan)


def _enlarged(maps: Tensor, masks: Tensor) -> Tensor:
    return F.interpolate(maps.float(), masks.shape[2:], mode="bilinear", align_corners=False)


def _rows(pictures: Tensor) -> Tensor:
    """(N, C, H, W) → (C, N·H·W)."""
    return pictures.transpose(0, 1).flatten(1)


def coarse(masks: Tensor) -> Tensor:
    """(N, T, H, W) bool → the same with no side above ``LARGEST_SIDE``: a cell belongs where half of it does."""
    height, width = masks.shape[2:]
    size = min(height, LARGEST_SIDE), min(width, LARGEST_SIDE)
    if size == (height, width):
        return masks
    return torch.cat([F.adaptive_avg_pool2d(part.float(), size) >= 0.5 for part in masks.split(CHUNK)])


# ---- filters together ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Combined:
    """How sums of maps meet concepts on the pictures that they were not fitted to; (·, T, S) along ``EVERY``, ….

    Args:
        both: (n, T, S) pixels of each picture that the sum and the concept share.
        either: (n, T, S) pixels that one of them has.
        sizes: (T,) filters in a concept's path.
        judged: (T,) bool; a concept without a path, or without pixels in one half, is not.
    """

    both: Tensor
    either: Tensor
    sizes: Tensor
    judged: Tensor

    def iou(self, counts: Tensor | None = None) -> Tensor:
        """(T, S), or (R, T, S) for ``counts`` (R, n): how often each picture counts. NaN where nothing is judged."""
        counts = torch.ones_like(self.both[:, 0, 0]) if counts is None else counts
        both, either = (torch.tensordot(counts, part, 1) for part in (self.both, self.either))
        iou: Tensor = (both / either).masked_fill(~self.judged[:, None], math.nan)
        return iou


def combine(maps: Tensor, masks: Tensor, bits: Tensor, random_sets: int = RANDOM_SETS, seed: int = 0) -> Combined:
    """Fit non-negative sums of maps to each concept on pictures 0, 2, 4, …, and judge them on 1, 3, 5, ….

    The sums are of all filters, of the concept's path (see ``path_sets``), of the one filter that fits best, and of
    random sets as large as the path among the filters that are on for some picture: one that is always off is no rival.

    Args:
        maps: (N, C, h, w).
        masks: (N, T, H, W) bool.
        bits: (N, C) bool.
    """
    check_axes(maps=(maps, "N C h w"), masks=(masks, "N T H W"), bits=(bits, "N C"))
    present = masks.flatten(2).any(2)
    paths = path_sets(association(bits[::2], present[::2]).phi)  # (T, C)
    judged = paths.any(1) & present[::2].any(0) & present[1::2].any(0)
    random = _random_sets(paths.sum(1), bits[::2].any(0), random_sets, seed)  # (random, T, C)

    values, truth = _rows(_enlarged(maps[::2], masks)), _rows(masks[::2])  # (C, pixels), (T, pixels)
    best = best_levels(values, truth)[1].argmax(0)  # (T,)
    alone = F.one_hot(best, maps.shape[1]).bool()
    sets = torch.stack([torch.ones_like(alone), paths, alone, *random], 1)  # (T, S, C)
    weights = fit_sums(values, truth, sets & judged[:, None, None])
    unseen, unseen_truth = _rows(_enlarged(maps[1::2], masks)), _rows(masks[1::2])
    both, either = [], []
    for own, fitted_truth, new_truth in zip(weights, truth, unseen_truth, strict=True):
        levels = best_levels(own @ values, fitted_truth[None])[0]  # (S, 1)
        active = own @ unseen >= levels  # (S, pixels)
        both.append((active & new_truth).unflatten(1, (len(maps[1::2]), -1)).sum(2).T)
        either.append((active | new_truth).unflatten(1, (len(maps[1::2]), -1)).sum(2).T)
    return Combined(torch.stack(both, 1).double(), torch.stack(either, 1).double(), paths.sum(1), judged)


def path_sets(phi: Tensor) -> Tensor:
    """(T, C) bool from (C, T): positive phi at or above the 90th percentile of the gates that change.

    "At": where few gates change, none of them lies above it.
    """
    limits = phi.nanquantile(PATH_QUANTILE, dim=0)
    return ((phi >= limits) & (phi > 0)).T


def _random_sets(sizes: Tensor, pool: Tensor, count: int, seed: int) -> Tensor:
    """(count, T, C) bool: ``sizes`` members each, of the pool."""
    generator = torch.Generator().manual_seed(seed_for("random filters", seed))
    drawn = torch.rand(count, len(sizes), len(pool), generator=generator).to(pool.device)
    ranks = drawn.masked_fill(~pool, 2).argsort(2).argsort(2)
    return ranks < sizes[:, None]


def fit_sums(values: Tensor, truth: Tensor, sets: Tensor) -> Tensor:
    """(T, S, C) w ≥ 0 that makes constant + Σ_c w_c · values_c nearest to each truth, w zero outside each set.

    Args:
        values: (C, pixels).
        truth: (T, pixels) bool.
        sets: (T, S, C) bool.
    """
    mean = values.mean(1, keepdim=True, dtype=torch.float64)
    gram = torch.zeros(len(values), len(values), dtype=torch.float64, device=values.device)
    cross = torch.zeros(len(values), len(truth), dtype=torch.float64, device=values.device)
    for part, own in zip(values.split(PIXELS, 1), truth.split(PIXELS, 1), strict=True):
        centred = part.double() - mean
        gram += centred @ centred.T
        cross += centred @ own.double().T
    gram_, cross_, sets_ = gram.cpu().numpy(), cross.cpu().numpy(), sets.cpu().numpy()
    found = [[_non_negative(gram_, cross_[:, t], members) for members in own] for t, own in enumerate(sets_)]
    return torch.from_numpy(np.array(found)).to(values)


def _non_negative(gram: NDArray[Any], cross: NDArray[Any], members: NDArray[Any]) -> NDArray[Any]:
    """(C,) the minimum of w' G w − 2 c' w over w ≥ 0, w zero outside the members."""
    weights, chosen = np.zeros(len(gram)), np.flatnonzero(members)
    part = gram[np.ix_(chosen, chosen)]
    variance = np.trace(part)
    if variance > 0:  # else there is nothing to add up
        root = np.linalg.cholesky(part + RIDGE * variance / len(chosen) * np.eye(len(chosen)))
        weights[chosen] = nnls(root.T, solve_triangular(root, cross[chosen], lower=True), maxiter=30 * len(chosen))[0]
    return weights


def best_levels(values: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """(M, T) the level of each row with the largest IoU of {value ≥ level} with each truth, and that IoU.

    Args:
        values: (M, pixels).
        truth: (T, pixels) bool.
    """
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    step = (high - low) / LEVELS
    places = ((values - low) / step.clamp(min=torch.finfo(values.dtype).tiny)).long().clamp(0, LEVELS - 1)
    active = _at_or_above(places)  # (M, LEVELS)
    best, found = [], []
    for own in truth:
        both = _at_or_above(places[:, own])
        iou = both / (active + own.sum() - both)
        largest = iou.max(1)
        best.append(low[:, 0] + largest.indices * step[:, 0])
        found.append(largest.values)
    return torch.stack(best, 1), torch.stack(found, 1)


def _at_or_above(places: Tensor) -> Tensor:
    """(M, pixels) places → (M, LEVELS) float64, how many of a row lie at each level or above."""
    rows = torch.arange(len(places), device=places.device)[:, None]
    counts = torch.bincount((places + LEVELS * rows).flatten(), minlength=LEVELS * len(places))
    return counts.view(-1, LEVELS).flip(1).cumsum(1).flip(1).double()


# ---- report --------------------------------------------------------------------------------------------------------


def concept_report(
    model: Classifier,
    images: Tensor,
    present: Tensor,
    concepts: Sequence[str],
    layers: Sequence[str],
    *,
    masks: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Layer → what its filters and gates have to do with the concepts, as JSON has it (null for no number).

    Whether paths explain concepts is to be read from the unmasked maps: a mask that follows the concept shows it by
    itself, so that on masked maps paths of random gates already beat random filters. [ours, measured]

    Args:
        images: (N, C, H, W) in [0, 1].
        present: (N, T) bool.
        concepts: T names.
        layers: gated layers, by name.
        masks: (N, T, H, W) bool; without them only gates are looked at.

    Raises:
        ShapeError: masks are not of the images' size, or a number of pictures or concepts does not fit.
        SetupError: the network has no gates, or no such layer.
    """
    check_images(images=images)
    check_axes(images=(images, "N C H W"), present=(present, "N T"))
    if len(concepts) != present.shape[1]:
        raise ShapeError(f"{present.shape[1]} concepts need as many names, got {len(concepts)}")
    if masks is not None:
        check_axes(images=(images, "N C H W"), present=(present, "N T"), masks=(masks, "N T H W"))
        masks = coarse(masks)
    maps = layer_maps(model, images, layers, batch_size)
    bits = paths_of(model, images, batch_size).bits
    report: dict[str, Any] = {}
    for name in layers:
        report[name] = {"gates": _gate_report(bits[name], present, concepts)}
        if masks is not None:
            both = {"masked": maps[name].masked, "unmasked": maps[name].unmasked}
            sums = {kind: combine(own, masks, bits[name], seed=seed) for kind, own in both.items()}
            report[name]["units"] = {kind: _unit_report(unit_iou(own, masks), concepts) for kind, own in both.items()}
            report[name]["combinations"] = {
                kind: _combination_report(own, concepts, seed) for kind, own in sums.items()
            }
    return {"pictures": len(images), "concepts": list(concepts), "layers": report}


def factor_report(model: Classifier, layers: Sequence[str], count: int = 400, seed: int = 0) -> dict[str, Any]:
    """``concept_report`` on pictures whose factors are known, of the model's own shape."""
    device = next(model.network.parameters()).device
    pictures = factor_pictures(count, model.image_shape, seed)
    images, present, masks = (part.to(device) for part in (pictures.images, pictures.present, pictures.masks))
    return concept_report(model, images, present, pictures.concepts, layers, masks=masks, seed=seed)


def label_report(
    model: Classifier, images: Tensor, labels: Tensor, names: Sequence[str], layers: Sequence[str]
) -> dict[str, Any]:
    """``concept_report`` on pictures of any size with one concept each, such as textures.

    Args:
        images: (N, C', H', W') in [0, 1], brought to the model's shape; grey is the mean of the channels.
        labels: (N,) int64, places in ``names``.
    """
    channels, *size = model.image_shape
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    fitting = F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
    return concept_report(model, fitting, F.one_hot(labels, len(names)).bool(), names, layers)


def _gate_report(bits: Tensor, present: Tensor, concepts: Sequence[str]) -> dict[str, Any]:
    found = association(bits, present)
    strongest = found.phi.nan_to_num(-2).max(0)
    return {
        "filters": bits.shape[1],
        "constant": int((bits == bits[:1]).all(0).sum()) if len(bits) else bits.shape[1],
        "tested": int(found.tested.sum()),
        "significant": int(found.significant.sum()),
        "concepts": {
            name: {
                "significant": int(found.significant[:, place].sum()),
                "filter": int(filter_) if found.tested[filter_, place] else None,
                "phi": _number(found.phi[filter_, place]),
                "difference": _number(found.difference[filter_, place]),
            }
            for place, (name, filter_) in enumerate(zip(concepts, strongest.indices.tolist(), strict=True))
        },
    }


def _unit_report(iou: Tensor, concepts: Sequence[str]) -> dict[str, Any]:
    """Detectors, and the concepts that they detect best; ``iou`` is (C, T)."""
    best = iou.nan_to_num(-1).max(1)
    detects = best.values > DETECTOR_IOU
    unique = sorted({concepts[place] for place in best.indices[detects].tolist()})
    return {
        "filters": len(iou),
        "detectors": int(detects.sum()),
        "unique_concepts": unique,
        "mean_largest_iou": _number(best.values.mean() if not iou.isnan().all() else iou.new_tensor(math.nan)),
        "largest_iou": {name: _number(iou[:, place].max()) for place, name in enumerate(concepts)},
        "excluded": [name for place, name in enumerate(concepts) if iou[:, place].isnan().any()],
    }


def _combination_report(combined: Combined, concepts: Sequence[str], seed: int) -> dict[str, Any]:
    """IoU on unseen pictures, and whether a concept's path is ahead of random filters and of the best single one."""
    iou = _with_random_mean(combined.iou())  # (T, 4)
    kinds = ("every", "path", "unit", "random")
    rows = {
        name: {"path_size": int(combined.sizes[place])}
        | {kind: _number(iou[place, column]) for column, kind in enumerate(kinds)}
        for place, name in enumerate(concepts)
    }
    resampled = _with_random_mean(combined.iou(_resamples(len(combined.both), seed).to(combined.both)))
    return {
        "judged": int(combined.judged.sum()),
        "excluded": [name for place, name in enumerate(concepts) if not combined.judged[place]],
        "mean": {kind: _number(iou[:, column].nanmean()) for column, kind in enumerate(kinds)},
        "path_beats_random": _verdict(iou, resampled, FIRST_RANDOM),
        "path_beats_unit": _verdict(iou, resampled, UNIT),
        "concepts": rows,
    }


def _with_random_mean(iou: Tensor) -> Tensor:
    """(…, S) → (…, 4): the random sets become their mean."""
    return torch.cat([iou[..., :FIRST_RANDOM], iou[..., FIRST_RANDOM:].mean(-1, keepdim=True)], -1)


def _resamples(count: int, seed: int) -> Tensor:
    """(RESAMPLES, count): how often each picture is drawn, with replacement."""
    generator = torch.Generator().manual_seed(seed_for("resampled pictures", seed))
    drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
    return torch.zeros(RESAMPLES, count).scatter_add_(1, drawn, torch.ones(RESAMPLES, count))


def _verdict(iou: Tensor, resampled: Tensor, rival: int) -> dict[str, Any]:
    """Mean over concepts of IoU(path) − IoU(rival), its 95 % interval over pictures, and what that says."""
    differences = iou[:, PATH] - iou[:, rival]
    chance = (resampled[..., PATH] - resampled[..., rival]).nanmean(-1)
    low, high = chance.nanquantile(chance.new_tensor([0.025, 0.975])).tolist()
    verdict = "undefined" if math.isnan(low) else "holds" if low > 0 else "fails" if high < 0 else "unclear"
    return {
        "difference": _number(differences.nanmean()),
        "low": _number(low),
        "high": _number(high),
        "concepts_ahead": int((differences > 0).sum()),
        "verdict": verdict,
    }


def _number(value: Tensor | float) -> float | None:
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None
