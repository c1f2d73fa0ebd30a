"""Networks whose filters are switched on and off image by image: gates, where they sit, and what skipping them saves.

Li et al. 2020 (Interpretable Neural Network Decoupling, arXiv:1906.01166) call the bits of all layers together an
image's calculation path. The body of that paper could not be read: tags say where each value comes from: [paper] its
abstracts, [code-20] and [code-19] two anonymous public releases under its titles, [derived] computed from the
definitions, [ours] our choice.
"""

from bench.gating.attach import attach
from bench.gating.gates import ControllingModule, FixedGate, Gate, SalienceGate
from bench.gating.layers import (
    GatedLayer,
    Seen,
    edited,
    gated_layers,
    straight_through,
    watched,
)
from bench.gating.multiply_adds import MultiplyAdds, multiply_adds
from bench.gating.paths import Paths, paths_of
from bench.gating.skip import skipping

__all__ = [
    "ControllingModule",
    "FixedGate",
    "Gate",
    "GatedLayer",
    "MultiplyAdds",
    "Paths",
    "SalienceGate",
    "Seen",
    "attach",
    "edited",
    "gated_layers",
    "multiply_adds",
    "paths_of",
    "skipping",
    "straight_through",
    "watched",
]
