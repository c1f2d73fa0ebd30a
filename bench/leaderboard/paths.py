"""What calculation paths show, one number a line: ``paths.csv``, from the notes of the networks that have gates."""

from typing import Any

import pandas as pd

from bench.leaderboard.lines import Sheet
from bench.leaderboard.schema import Column, Kind, table
from bench.record import Record

PATHS = (
    Column("suite_version", "str", "version of the protocol, raised when any number may change"),
    Column("dataset", "str", "data set"),
    Column("subject", "str", "trained network, as the other tracks call it"),
    Column("method", "str", "how it was trained"),
    Column("variant", "str", "named settings of the method"),
    Column("seed", "Int64", "run seed"),
    Column("layer", "str", "gated layer; empty for the whole network"),
    Column("measure", "str", "what was measured; ``path_measures`` in ``schema.json`` says what that is"),
    Column("group", "str", "class, filter or range of layers; empty for all"),
    Column("value", "float64", "empty where it is undefined, as for a class without an image that counts"),
    Column("n", "Int64", "images, classes, pairs or draws that it stands for"),
)
PATH_KINDS: dict[str, Kind] = {column.name: column.kind for column in PATHS}

# {percent}, {path}, {maps} and {rival} stand for one word each, as the sentence says
PATH_MEASURES = {
    # every layer
    "on_rate": "share of the layer's gates that are on, mean over images; 0 to 1",
    "always_on": "share of the filters that are on for more than 99 % of the images; 0 to 1",
    "always_off": "share of the filters that are on for less than 1 % of the images; 0 to 1",
    "dynamic": "share of the filters that are neither always on nor always off; 0 to 1",
    "all_off": "share of the images for which every filter of the layer is off; 0 to 1",
    "gate_entropy": "mean over filters of the entropy of how often each is on; 0 to 1 bit",
    "within_class_entropy": "gate_entropy inside each class, mean over images: what gates still vary by once the class "
    "is known; 0 to 1 bit",
    "spread": "filters by which an image's path differs from the on-rates (L1 distance), mean over images; 0 to half "
    "of the layer's filters",
    "hamming_within": "mean share of the gates in which two images of one class differ; 0 to 1",
    "hamming_between": "mean share of the gates in which two images of two classes differ; 0 to 1",
    "hamming_ratio": "hamming_between / hamming_within; 0 or more, 1 where paths do not tell classes apart",
    "unique_paths": "number of different paths through the layer / number of images; 0 to 1",
    "score_size": "mean size |z| of the scores that gates decide by; 0 or more",
    "score_size_p95": "95th percentile of |z|; 0 or more",
    "frozen": "share of the scores with |z| above 5; 0 to 1",
    "information": "what the layer's path tells of the class: lower bound by a linear probe that learns from training "
    "images; 0 to log2(number of classes) bits",
    "filter_selectivity": "on-rate of a filter for the class that uses it most - mean on-rate over classes, mean over "
    "filters, of images classified correctly; 0 to 1",
    "most_selective": "that difference for the filter in group, one of the layer's three with the largest; 0 to 1",
    "confusion_spearman": "rank correlation over pairs of classes: how alike their paths are, and how often the "
    "network takes one for the other; -1 to 1",
    "confusion_spearman_shuffled": "confusion_spearman after each gate's bits are dealt out anew among the images: "
    "what comes from on-rates alone; -1 to 1",
    "group_contrast": "similarity (cosine) of the paths of two animals or two vehicles - of an animal and a vehicle, "
    "mean over pairs of classes; -2 to 2",
    "group_contrast_shuffled": "group_contrast after each gate's bits are dealt out anew among the images; -2 to 2",
    "class_on_rate": "share of the layer's gates that are on for the correctly classified images of the class in "
    "group; 0 to 1",
    # an early, a middle and the last layer
    "information_up_to": "information of the paths through this and all earlier layers together; 0 to "
    "log2(number of classes) bits",
    "cluster_rand": "adjusted Rand index of k-means clusters of paths against the classes; at most 1, 0 by chance",
    "class_path_jaccard": "shared filters / filters on either path, of the paths of two classes (filters on for more "
    "than half of a class's correctly classified images), mean over pairs; 0 to 1",
    "class_path_jaccard_undefined": "pairs of classes without such a number: both paths are empty, or a class has no "
    "correctly classified image; a count, 0 to n",
    # filters switched off
    "silenced_{percent}_class_own": "accuracy that a class loses when the {percent} % of the layer's filters that it "
    "uses most beyond other classes are off, mean over classes; difference of shares, -1 to 1",
    "silenced_{percent}_class_others": "accuracy that the other classes lose then, mean over classes; -1 to 1",
    "silenced_{percent}_class_selectivity": "silenced_{percent}_class_own - silenced_{percent}_class_others, of the "
    "class in group or mean over classes; -2 to 2",
    "silenced_{percent}_random": "accuracy that classes lose when as many filters, drawn at random among the dynamic "
    "ones, are off, mean over classes and draws; -1 to 1",
    "silenced_{percent}_active": "accuracy that classes lose when as many filters, those with the largest mean output "
    "on the same images, are off, mean over classes; -1 to 1",
    "silenced_{percent}_above_all_random": "share of the classes whose selectivity by their own filters exceeds that "
    "by each random set; 0 to 1",
    # paths that do not follow the image
    "subnetwork_own": "accuracy on the images of a class when all layers are fixed to the path of that class, of the "
    "class in group or mean over classes; 0 to 1",
    "subnetwork_others": "accuracy on the images of the other classes then, mean over classes; 0 to 1",
    "dynamic_path_accuracy": "accuracy when each image takes its own path, as the network is; 0 to 1",
    "mean_path_accuracy": "accuracy when all images take one path, the filters that are on most often; 0 to 1",
    "class_path_accuracy": "accuracy when each image takes the path of the class predicted for it; 0 to 1",
    "random_path_accuracy": "accuracy when all images take one path of as many filters drawn at random, mean over "
    "draws; 0 to 1",
    "{path}_path_multiply_adds": "multiply-adds of an image on the paths of {path}_path_accuracy (dynamic, mean, class "
    "or random), gates included / those of the network without gates; above 0, about 1 with all filters on",
    "swap_to_donor": "share of the correctly classified images that take the class of another image when they run on "
    "its path in the layers in group; 0 to 1",
    "swap_away": "share of them whose predicted class changes at all; 0 to 1",
    # concepts; group is a concept, or the set of pictures (factors or textures) for all of its concepts
    "concept_gates_significant": "pairs of a gate and a concept that go together or apart by Fisher's exact test, at "
    "5 % false discoveries; a count, 0 to n pairs tested",
    "concept_gate_phi": "largest correlation (phi) of one of the layer's gates with the presence of the concept in "
    "group; -1 to 1",
    "concept_detectors_{maps}": "filters whose most active places have an IoU above 0.04 with the pixels of a concept, "
    "by {maps} (masked or unmasked) outputs: after or before the gates; a count, 0 to n filters",
    "concepts_detected_{maps}": "different concepts that those filters fit best; a count, 0 to n concepts",
    "concept_unit_iou_{maps}": "IoU of a filter's most active places with the concept that it fits best, mean over "
    "filters, by masked or unmasked outputs; 0 to 1",
    "concept_iou_every_{maps}": "IoU of a weighted sum of all filters' masked or unmasked outputs with a concept's "
    "pixels, on pictures that the sum was not fitted to, of the concept in group or mean over concepts; 0 to 1",
    "concept_iou_path_{maps}": "the same with the filters whose gates the concept switches on most; 0 to 1",
    "concept_iou_unit_{maps}": "the same with the one filter that fits best; 0 to 1",
    "concept_iou_random_{maps}": "the same with random filters, as many as the concept switches on, mean over draws; "
    "0 to 1",
    "concept_path_minus_{rival}_{maps}": "concept_iou_path_{maps} - concept_iou_{rival}_{maps}, the rival random or "
    "unit, mean over concepts; -1 to 1",
    "concept_path_minus_{rival}_{maps}_low": "low end of the 95 % interval of that difference, over pictures; -1 to 1",
    "concept_path_minus_{rival}_{maps}_high": "high end of the 95 % interval of that difference; -1 to 1",
}


def paths_frame(sheet: Sheet) -> pd.DataFrame | None:
    """The rows of ``paths.csv`` in the order of the boards; None where no network has paths."""
    rows = [
        {"suite_version": sheet.index.suite_version} | row
        for line in sheet.lines
        for record in line.records
        for row in _rows(record)
    ]
    return table(rows, PATH_KINDS) if rows else None


def _rows(record: Record) -> list[dict[str, Any]]:
    """What the record's note on paths says, and what it says of concepts."""
    note = record.notes.get("paths") or {}
    who = record.identity
    parts = [who.subject, who.dataset, who.method, *([] if who.variant == "default" else [who.variant])]
    common = {
        "dataset": who.dataset,
        "subject": ".".join(parts),
        "method": who.method,
        "variant": who.variant,
        "seed": who.seed,
    }
    lines = [*note.get("rows", ()), *(note.get("concepts") or {}).get("rows", ())]
    return [common | dict(zip(("layer", "measure", "group", "value", "n"), line, strict=True)) for line in lines]
