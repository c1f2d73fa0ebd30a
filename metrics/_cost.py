"""Multiply-adds of a network, counted by tracing one image through it."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore compiles, as it is loaded, in a way that torch gives up
    from fvcore.nn import FlopCountAnalysis


def count_gmacs(network: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Multiply-adds of one image in 1e9, as fvcore counts them, attention included whether it is fused or not.

    Convolutions, linear layers and matrix products count one for each multiplication with its addition; normalisation
    and averaging count as fvcore has them; activations, softmax, sums and products of single elements count nothing.

    Args:
        network: in eval mode; it takes (B, C, H, W) images and is left as it was.
        image_shape: (C, H, W).
    """
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    counter = FlopCountAnalysis(network, torch.zeros(1, *image_shape, device=device))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    counter.set_op_handle("aten::scaled_dot_product_attention", _attention)  # fvcore knows only its parts
    one_kernel = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # nn.MultiheadAttention would be one operation nobody can count
    try:
        with torch.no_grad():
            return float(counter.total()) / 1e9
    finally:
        torch.backends.mha.set_fastpath_enabled(one_kernel)


def _attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Multiply-adds of softmax(Q Kᵀ) V, Q (…, L, D), K (…, S, D), V (…, S, E): L · S · (D + E) for each head."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    return int(math.prod(query[:-2]) * query[-2] * key[-2] * (query[-1] + value[-1]))
