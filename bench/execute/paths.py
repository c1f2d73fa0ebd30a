"""What the calculation paths of a trained network with gates show: the numbers of ``paths.csv``, and a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contract import Classifier, seed_for
from bench.execute.concepts import concepts_of
from bench.execute.lab import Lab
from bench.gating import MultiplyAdds, Paths, gated_layers, multiply_adds, paths_of, watched
from bench.gating import silencing as silence
from bench.gating import statistics as say
from bench.gating.statistics import Frequencies
from bench.plan.cells import Cell
from bench.zoo import networks
from bench.zoo.architectures import Normalised

IMAGES = 2000  # test images, and as many training images, whose paths are looked at
SILENCED_IMAGES, FEWEST_SILENCED = 1000, 200  # test images of the experiments that run the network again and again
WORK = 1.2e12  # multiply-adds that these experiments may cost on a CPU, about a quarter of a minute on one core
SHARES = (0.05, 0.2)  # of a layer's filters that are silenced
DRAWS = 5  # random sets and random paths
CLASSES = 20  # the first ones, in pictures and in rows of single classes
SILENCED_CLASSES = 10  # the first ones
LOOKED_AT = 100  # images at once

KINDS = dict.fromkeys(("airplane", "automobile", "ship", "truck"), "vehicle") | dict.fromkeys(
    ("bird", "cat", "deer", "dog", "frog", "horse"), "animal"
)


@dataclass(frozen=True)
class _Looked:
    """Paths of images, with their labels, (N,) int64."""

    paths: Paths
    labels: Tensor

    @property
    def predictions(self) -> Tensor:
        """(N,) int64."""
        return self.paths.logits.argmax(1)

    @property
    def right(self) -> Tensor:
        """(N,) bool."""
        return self.predictions == self.labels

    def frequencies(self, layer: str, num_classes: int) -> Frequencies:
        """Of the images that the network gets right."""
        return say.class_frequencies(self.paths.bits[layer], self.labels, num_classes, self.right)


class _Rows:
    """Lines of ``paths.csv``: layer (empty for the whole network), measure, group, value (None for none), n."""

    def __init__(self) -> None:
        self.lines: list[list[Any]] = []

    def add(self, layer: str, measures: Mapping[str, float], n: int, group: str = "") -> None:
        for measure, value in measures.items():
            self.lines.append([layer, measure, group, value if math.isfinite(value) else None, n])


def path_report(cell: Cell, lab: Lab, network: Normalised) -> dict[str, Any]:
    """Everything in values of JSON; the same for the same network and images.

    Numbers are of test images, and what is said of classes of those that the network gets right. Which filters of a
    class are silenced, which are drawn at random, and the fixed paths come from training images: what is lost is read
    on others. The control of the most active filters is chosen on the test images on which its loss is read, and a
    swapped path is that of another test image. Spec 6.3 also compares with WordNet and with the dense network, which
    are not at hand here: confusions and shuffled bits stand in.

    Args:
        network: trained, with gates; in eval mode and frozen afterwards.

    Returns:
        ``rows``: see ``bench.leaderboard.paths``; ``classes``, ``chosen`` (place → layer), ``frequencies`` (layer →
        classes × filters) and ``similarity`` (place → classes × classes): what the picture shows; ``warnings``: signs
        of collapse, as sentences; ``concepts``: see ``concepts_of``.
    """
    card = lab.data(cell).card
    model = networks.wrap(network, name=cell.subject, num_classes=card.num_classes, image_shape=card.image_shape)
    names = list(card.class_names or map(str, range(card.num_classes)))
    data = lab.data(cell)
    seen, known = (
        _looked(cell, lab, model, split, data.select(split, min(IMAGES, len(data.labels(split)))))
        for split in ("test", "train")
    )
    chosen = chosen_layers(list(seen.paths.bits))
    rows = _Rows()
    for layer in seen.paths.bits:
        _layer_rows(rows, layer, seen, known, names)
    for layer in chosen.values():
        _chosen_rows(rows, layer, seen, known, len(names))
    gates = {name: layer.gate for name, layer in gated_layers(model.network).items()}
    warnings = say.static_masks(gates.values()) + [
        line
        for layer, bits in seen.paths.bits.items()
        for line in say.complaints(layer, bits, seen.paths.scores[layer], gates[layer])
    ]
    if not cell.settings.get("sparsity", 1):
        warnings.append("no sparsity pressure: nothing asked for fewer filters")
    trial = _trial(cell, lab, model, known, names)
    for layer in chosen.values():
        activations = _activations(trial, layer)
        for share in SHARES:
            _silencing_rows(rows, trial, layer, share, activations)
    if all(gate.binary for gate in gates.values()):
        _fixed_rows(rows, trial)
        _swap_rows(rows, trial)
    else:
        warnings.append("gates scale their filters: no image is put on a fixed path, which would have bits alone")
    shown = {layer: seen.frequencies(layer, len(names)) for layer in seen.paths.bits}
    return {
        "rows": rows.lines,
        "images": len(seen.labels),
        "classes": names[:CLASSES],
        "chosen": chosen,
        "frequencies": {layer: _table(one.values[:CLASSES]) for layer, one in shown.items()},
        "similarity": {
            place: _table(say.similarity(shown[layer])[:CLASSES, :CLASSES]) for place, layer in chosen.items()
        },
        "warnings": warnings,
        "concepts": concepts_of(model, list(chosen.values()), lab.root),
    }


def chosen_layers(layers: Sequence[str]) -> dict[str, str]:
    """An early, a middle and the last layer, each layer once."""
    places = {"early": len(layers) // 6, "middle": len(layers) // 2, "late": len(layers) - 1}
    found = {layers[number]: place for place, number in places.items()}  # of equal ones the later name stays
    return {place: layer for layer, place in found.items()}


def _looked(cell: Cell, lab: Lab, model: Classifier, split: str, places: Tensor) -> _Looked:
    parts = [paths_of(model, lab.images(cell, split, part), LOOKED_AT) for part in places.split(LOOKED_AT)]
    joined = Paths(
        {layer: torch.cat([part.bits[layer] for part in parts]) for layer in parts[0].bits},
        {layer: torch.cat([part.scores[layer] for part in parts]) for layer in parts[0].scores},
        torch.cat([part.logits for part in parts]),
    )
    return _Looked(joined, lab.labels(cell, split, places))


def _table(numbers: Tensor) -> list[list[float | None]]:
    return [[round(one, 3) if math.isfinite(one) else None for one in row] for row in numbers.tolist()]


# ---- every layer ---------------------------------------------------------------------------------------------------


def _layer_rows(rows: _Rows, layer: str, seen: _Looked, known: _Looked, names: Sequence[str]) -> None:
    bits, labels, count = seen.paths.bits[layer], seen.labels, len(seen.labels)
    shares, sizes = say.gate_shares(bits), say.score_sizes(seen.paths.scores[layer])
    within, between = say.hamming(bits, labels)
    rows.add(
        layer,
        {
            "on_rate": bits.double().mean().item(),
            "always_on": shares.always_on,
            "always_off": shares.always_off,
            "dynamic": shares.dynamic,
            "all_off": (~bits).all(1).double().mean().item(),
            "gate_entropy": say.gate_entropy(bits),
            "within_class_entropy": say.within_class_entropy(bits, labels),
            "spread": say.spread(bits),
            "hamming_within": within,
            "hamming_between": between,
            "hamming_ratio": between / within if within else math.nan,
            "unique_paths": say.unique_share(bits),
            "score_size": sizes.mean_size,
            "score_size_p95": sizes.percentile_95,
            "frozen": sizes.frozen,
            "information": say.information(known.paths.bits[layer], known.labels, bits, labels, len(names)),
        },
        count,
    )
    right = seen.frequencies(layer, len(names))
    rows.add(
        layer,
        {"filter_selectivity": say.filter_selectivity(right).mean().item()} | _similarities(layer, seen, names),
        int(seen.right.sum()),
    )
    for name, rates, images in zip(names[:CLASSES], right.values, right.counts.tolist(), strict=False):
        rows.add(layer, {"class_on_rate": rates.mean().item()}, images, name)
    best = say.filter_selectivity(right).topk(min(3, bits.shape[1]))
    for value, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        rows.add(layer, {"most_selective": value}, int(seen.right.sum()), f"filter {number}")


def _similarities(layer: str, seen: _Looked, names: Sequence[str]) -> dict[str, float]:
    """How classes' paths agree with groups of meaning and with what the network confuses; beside both, shuffled bits.

    Shuffling leaves every gate its on-rate and takes away all that it knew of the image.
    """
    generator = torch.Generator().manual_seed(seed_for("shuffled", layer))
    confused = say.confusion(seen.labels, seen.predictions, len(names))
    found = {}
    for end, bits in (("", seen.paths.bits[layer]), ("_shuffled", say.shuffled(seen.paths.bits[layer], generator))):
        alike = say.similarity(say.class_frequencies(bits, seen.labels, len(names), seen.right))
        found[f"confusion_spearman{end}"] = say.rank_agreement(alike, confused)
        if all(name in KINDS for name in names):
            found[f"group_contrast{end}"] = say.group_contrast(alike, [KINDS[name] for name in names])
    return found


def _chosen_rows(rows: _Rows, layer: str, seen: _Looked, known: _Looked, num_classes: int) -> None:
    """What takes longer: of an early, a middle and the last layer only."""
    layers = list(seen.paths.bits)
    until = layers[: layers.index(layer) + 1]
    joined, learned = (torch.cat([looked.paths.bits[name] for name in until], 1) for looked in (seen, known))
    together = say.jaccard(seen.frequencies(layer, num_classes))
    pairs = torch.ones_like(together, dtype=torch.bool).triu(1)
    rows.add(
        layer,
        {
            "information_up_to": say.information(learned, known.labels, joined, seen.labels, num_classes),
            "cluster_rand": say.cluster_agreement(seen.paths.bits[layer], seen.labels, num_classes),
        },
        len(seen.labels),
    )
    both_empty = together.isnan() & pairs
    rows.add(layer, {"class_path_jaccard": together[pairs].nanmean().item()}, int(pairs.sum() - both_empty.sum()))
    rows.add(layer, {"class_path_jaccard_undefined": float(both_empty.sum())}, int(pairs.sum()))


# ---- experiments that run the network on other paths ---------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """What the experiments share.

    Args:
        images, looked: test images, few enough for the number of runs, and the network as it is on them.
        known: the training images, whose paths decide what is fixed.
        accuracies: (K,) as it is.
        cost: of an image.
        generator: of random sets, on the CPU.
    """

    model: Classifier
    images: Tensor
    looked: _Looked
    known: _Looked
    accuracies: Tensor
    names: Sequence[str]
    cost: MultiplyAdds
    generator: torch.Generator

    @property
    def classes(self) -> int:
        """How many classes are silenced."""
        return min(len(self.names), SILENCED_CLASSES)

    @property
    def counts(self) -> list[int]:
        """Images of each class."""
        return torch.bincount(self.looked.labels, minlength=len(self.names)).tolist()


def _trial(cell: Cell, lab: Lab, model: Classifier, known: _Looked, names: Sequence[str]) -> _Trial:
    cost, count = multiply_adds(model.network, model.image_shape), SILENCED_IMAGES
    if lab.device.type == "cpu":
        classes = min(len(names), SILENCED_CLASSES)
        runs = 3 * len(SHARES) * (classes + DRAWS + 1) + classes + DRAWS + 6
        count = max(FEWEST_SILENCED, min(count, int(WORK / (cost.dense * runs))))
    places = lab.data(cell).select("test", min(count, len(lab.data(cell).labels("test"))))
    looked = _looked(cell, lab, model, "test", places)
    accuracies = silence.class_accuracies(looked.predictions, looked.labels, len(names))
    generator = torch.Generator().manual_seed(seed_for("paths", cell.seed))
    images = lab.images(cell, "test", places)
    return _Trial(model, images, looked, known, accuracies, names, cost, generator)


def _activations(trial: _Trial, layer: str) -> Tensor:
    """(N, C) mean output of each filter before its gate."""
    parts = []
    with torch.no_grad(), watched(trial.model.network) as seen:
        for part in trial.images.split(LOOKED_AT):
            trial.model(part)
            parts.append(seen[layer].pooled[: len(part)])
    return torch.cat(parts)


def _silencing_rows(rows: _Rows, trial: _Trial, layer: str, share: float, activations: Tensor) -> None:
    """Drops by silencing each class's filters, and by silencing as many others."""
    count, known = len(trial.names), trial.known
    size, start = max(1, round(share * activations.shape[1])), f"silenced_{round(100 * share)}"
    rates = known.paths.bits[layer].double().mean(0)
    sets = {
        "class": silence.class_filters(known.frequencies(layer, count), size)[: trial.classes],
        "random": silence.random_dynamic_filters(rates, size, DRAWS, trial.generator),
        "active": silence.most_active_filters(activations, size),
    }
    every = torch.cat(list(sets.values()))
    found = silence.silenced_accuracies(trial.model, trial.images, trial.looked.labels, layer, every, count)
    of = dict(zip(sets, found.split([len(one) for one in sets.values()]), strict=True))
    drops = silence.drops_of_classes(trial.accuracies, of["class"])
    numbers = {"own": drops.own, "others": drops.others, "selectivity": drops.selectivity}
    silenced = int((~drops.selectivity.isnan()).sum())
    rows.add(layer, {f"{start}_class_{what}": row.nanmean().item() for what, row in numbers.items()}, silenced)
    for name, value, images in zip(trial.names, drops.selectivity.tolist(), trial.counts, strict=False):
        rows.add(layer, {f"{start}_class_selectivity": value}, images, name)
    for kind in ("random", "active"):
        rows.add(layer, {f"{start}_{kind}": (trial.accuracies - of[kind]).nanmean().item()}, len(of[kind]))
    if len(of["random"]):
        single = [silence.drops_of_any(trial.accuracies, one[None]).selectivity for one in of["random"]]
        best = torch.stack(single).amax(0)[: trial.classes]
        both = ~(drops.selectivity.isnan() | best.isnan())
        above = (drops.selectivity > best)[both].double().mean().item()
        rows.add(layer, {f"{start}_above_all_random": above}, int(both.sum()))


def _fixed_rows(rows: _Rows, trial: _Trial) -> None:
    """Accuracy on paths that do not follow the image, and what they cost as a share of the dense network."""
    looked, known, count = trial.looked, trial.known, len(trial.names)
    of_classes = {layer: known.frequencies(layer, count).paths for layer in known.paths.bits}
    alone = {layer: paths[: trial.classes] for layer, paths in of_classes.items()}
    found = silence.subnetwork_accuracies(trial.model, trial.images, looked.labels, alone, count)
    own, others = silence.own_and_others(found)
    rows.add("", {"subnetwork_own": own.nanmean().item(), "subnetwork_others": others.nanmean().item()}, trial.classes)
    for name, value, images in zip(trial.names, own.tolist(), trial.counts, strict=False):
        rows.add("", {"subnetwork_own": value}, images, name)
    paths: dict[str, list[dict[str, Tensor]]] = {
        "mean": [{layer: silence.mean_path(bits) for layer, bits in known.paths.bits.items()}],
        "class": [{layer: bits[looked.predictions] for layer, bits in of_classes.items()}],
        "random": [
            {layer: silence.random_path(bits, trial.generator) for layer, bits in known.paths.bits.items()}
            for _ in range(DRAWS)
        ],
    }
    accuracy = {"dynamic": looked.right.double().mean().item()}
    executed = {"dynamic": trial.cost.executed(looked.paths.bits).mean().item()}
    for kind, draws in paths.items():
        right = [silence.predictions_with(trial.model, trial.images, on=on) == looked.labels for on in draws]
        costs = [trial.cost.executed({layer: torch.atleast_2d(b) for layer, b in on.items()}) for on in draws]
        accuracy[kind] = torch.stack(right).double().mean().item()
        executed[kind] = torch.stack([one.mean() for one in costs]).mean().item()
    for kind in accuracy:
        measures = {"accuracy": accuracy[kind], "multiply_adds": executed[kind] / trial.cost.dense}
        rows.add("", {f"{kind}_path_{what}": value for what, value in measures.items()}, len(looked.labels))


def _swap_rows(rows: _Rows, trial: _Trial) -> None:
    """How far the path of another class's image takes the prediction with it: in all layers, and in each third."""
    right, layers = trial.looked.right, list(trial.looked.paths.bits)
    bits = {layer: one[right] for layer, one in trial.looked.paths.bits.items()}
    third = -(-len(layers) // 3)
    ranges = {"all": layers, "early": layers[:third], "middle": layers[third:-third], "late": layers[-third:]}
    for place, chosen in ranges.items():
        predictions = trial.looked.predictions[right]
        swap = silence.path_swap(trial.model, trial.images[right], predictions, bits, chosen, trial.generator)
        rows.add("", {"swap_to_donor": swap.to_donor, "swap_away": swap.away}, swap.count, f"{place} layers")
