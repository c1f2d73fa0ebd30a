"""The three losses of decoupling, one layer at a time; sums over layers are the caller's.

Nothing is detached, and gates are the training values, a mixture of soft and hard ones [code-20].
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from bench.gating import MultiplyAdds

Direction = Literal["output_to_gate", "gate_to_output"]
Mean = Literal["elements", "samples"]


def information_loss(gates: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the class read from the gates by a linear layer without bias [code-20].

    The variational bound I(a; y) ≥ H(y) + E log q(y | a); ln K for a head of zeros.

    Args:
        gates: (N, C).
        head: (K, C).
        labels: (N,) int64.
    """
    return F.cross_entropy(F.linear(gates, head), labels)


def alignment_loss(
    pooled: Tensor, gates: Tensor, direction: Direction = "output_to_gate", mean: Mean = "elements"
) -> Tensor:
    """KL divergence between the softmax over channels of the layer's mean outputs and that of its gates.

    0 where the outputs equal the gates but for a constant of each image [derived].

    Args:
        pooled: (N, C) mean over positions of what the gates multiply, before they do.
        gates: (N, C).
        direction: KL(output ‖ gate) [code-20: residual networks, GoogLeNet] or KL(gate ‖ output) [code-20: VGG].
        mean: the sum over channels and images divided by N · C [code-20], or by N [ours].
    """
    output, gate = pooled.log_softmax(1), gates.log_softmax(1)
    of, to = (output, gate) if direction == "output_to_gate" else (gate, output)
    divergence = F.kl_div(to, of, reduction="sum", log_target=True)
    return divergence / (gates.numel() if mean == "elements" else len(gates))


def sparsity_loss(gates: Tensor, rate: float) -> Tensor:
    """|batch mean of Σ_c a − R · C| [code-20]; with R = 0 the L1 norm of the gates.

    Args:
        gates: (N, C), none negative.
        rate: R, the share of filters that should be on.
    """
    return (gates.sum(1).mean() - rate * gates.shape[1]).abs()


def budget_loss(cost: MultiplyAdds, gates: Mapping[str, Tensor], budget: float) -> Tensor:
    """|batch mean of the multiply-adds of the gates / the dense network's − budget| [ours].

    Gates count by their values, on both sides of a layer, so that a layer whose filters matter more may keep more.

    Args:
        gates: layer → (N, C).
        budget: in (0, 1].
    """
    return (cost.executed(gates).mean() / cost.dense - budget).abs().float()
