"""Train a conditioned generator without data to make many images that the network gives the label asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.conditioned_generator.network import Matrix
from bench.contract import method
from methods.inversion._generator import GeneratorInversion

HEAVY = {"dropout": "heavy"}
NO_DIVERSITY = {"matrix": "none", "dropout": "none", "cosine": 0.0, "orthogonality": 0.0}
NI_V1 = HEAVY | {"matrix": "none", "orthogonality": 0.0}
NI_V2 = HEAVY | {"orthogonality": 0.0}
TLDR = {  # group code's weights, without its growth of the smoothness [group code]
    "kl": 5.0,
    "perturbed_kl": 5.0,
    "cross_entropy": 10.0,
    "perturbed_cross_entropy": 10.0,
    "cosine": 10.0,
    "orthogonality": 7.0,
    "smoothness": 2.0,
    "gradient_norm": 2.0,
}

# The ablation of spec 7.2: what each row does to the vector, the matrix, the terms and the dropout. R0 to R2 are
# label_generator's. Without a vector (R9, R17) KL would be CE once more, so it goes too.
ROWS: Mapping[str, Mapping[str, Any]] = {
    "vector": NO_DIVERSITY | {"kl": 0.0},  # R3
    "vector_kl": NO_DIVERSITY | {"cross_entropy": 0.0},  # R4
    "vector_kl_ce": NO_DIVERSITY,  # R5
    "vector_kl_ce_dropout": NO_DIVERSITY | HEAVY,  # R6
    "vector_kl_ce_cosine": NO_DIVERSITY | {"cosine": 1.0},  # R7
    "ni_v1": NI_V1,  # R8
    "matrix": NI_V2 | {"condition": "none", "kl": 0.0},  # R9
    "ni_v2": NI_V2,  # R10
    "ni_v3": HEAVY,  # R11
    "ni_v3_no_kl": HEAVY | {"kl": 0.0},  # R12
    "ni_v3_no_ce": HEAVY | {"cross_entropy": 0.0},  # R13
    "ni_v3_no_cosine": HEAVY | {"cosine": 0.0},  # R14; without orthogonality (R15) it is ni_v2
    "ni_v3_no_dropout": {"dropout": "none"},  # R16
    "ni_v3_no_vector": HEAVY | {"condition": "none", "kl": 0.0},  # R17
    "ni_v3_same_class": HEAVY | {"pairs": "same_class"},  # R18
    "ni_v3_centred": HEAVY | {"centre": True},  # R19
    "ni_v3_resize": HEAVY | {"body": "resize"},  # R20
    "ni_ccc": HEAVY | {"condition": "one_hot"},  # R21
    "ni_tldr": HEAVY | TLDR,  # R22
    "ni_v1_dropout_on": NI_V1 | {"dropout_on": True},
    "ni_v3_dropout_on": HEAVY | {"dropout_on": True},
}


@method(
    source="Suhail & Sethi 2024, arXiv:2407.18002, and follow-ups 2410.16884, 2411.17777, 2503.20187, 2505.23448",
    differs="the papers state no weights, rates, sizes or steps: they are group code's or ours, see the recipe; a"
    " sigmoid instead of tanh; Gram matrices of unit rows; of 2410.16884 the pixel hinge is left out, being zero then,"
    " and total variation is a mean over pixels whose weight does not grow; two images of a class share a soft vector,"
    " so that the latent's part in diversity can be told",
    variants=ROWS,
)
@dataclass(frozen=True, kw_only=True)
class NetworkInversion(GeneratorInversion):
    """Soft vector and hot matrix, KL, cross-entropy, cosine and orthogonality; the dropout of group code (light).

    The named papers: ``ni_v1`` 2407.18002 v1, ``ni_v2`` its v2, ``ni_v3`` 2411.17777, ``ni_ccc`` 2503.20187,
    ``ni_tldr`` 2410.16884, all with heavy dropout.
    """

    matrix: Matrix = "auto"
    dropout: str = "light"
