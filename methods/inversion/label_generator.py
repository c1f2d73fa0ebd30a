"""Train a generator that is told the label and nothing else: the plain rival of network inversion."""

from dataclasses import dataclass

from bench.conditioned_generator.network import Condition
from bench.contract import method
from methods.inversion._generator import GeneratorInversion


@method(
    source="the straw man of Suhail & Sethi 2024, arXiv:2407.18002: label embedding and cross-entropy",
    differs="the body of network_inversion; sizes and rates are group code's or ours",
    variants={"cosine": {"cosine": 1.0}, "dropout": {"dropout": "heavy"}},
)
@dataclass(frozen=True, kw_only=True)
class LabelGenerator(GeneratorInversion):
    """Cross-entropy alone: one image a class solves it."""

    condition: Condition = "label"
    dropout: str = "none"
    kl: float = 0.0
    cosine: float = 0.0
    orthogonality: float = 0.0
