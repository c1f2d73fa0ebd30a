"""What a panel of networks makes of the images."""

from torch import Tensor

from bench.ops import check_axes, check_logits, label_place


def share_of_panel(panel_logits: Tensor, labels: Tensor, first: int) -> Tensor:
    """(N,) float64 share of the networks that have the label among their ``first`` largest logits.

    Args:
        panel_logits: (N, J, K) logits of J networks.
        labels: (N,) int64.

    Raises:
        ShapeError: other axes, logits that are not finite, labels outside [0, K).
    """
    check_axes(panel_logits=(panel_logits, "N J K"), labels=(labels, "N"))
    networks, every = panel_logits.shape[1], panel_logits.flatten(0, 1)
    asked = labels.repeat_interleave(networks)
    check_logits(asked, panel_logits=every)
    return (label_place(every, asked) < first).double().view(-1, networks).mean(1)
