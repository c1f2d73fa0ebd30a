"""What decides which filters of a layer an image uses."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import SetupError

STRETCH, SHIFT = 1.2, 0.1  # of the saturating sigmoid [code-20]
TEMPERATURE = 2 / 3  # of the Gumbel-sigmoid and the hard concrete [ours, after Louizos et al. 2018, arXiv:1712.01312]
MIXES = ("entry", "channel")


class Gate(nn.Module):
    """Switches the filters of one layer, from the mean of the layer's input over positions.

    ``binary`` says whether the values in eval mode are 0 and 1 alone, ``looks`` whether they depend on the image;
    ``multiply_adds`` is what one image costs.
    """

    binary = True
    looks = True
    multiply_adds = 0

    def scores(self, squeezed: Tensor) -> Tensor:
        """(N, C_in) means of the layer's input → (N, C_out); a filter is on where its score is positive."""
        raise NotImplementedError

    def values(self, scores: Tensor) -> Tensor:
        """(N, C_out) what each filter's output is multiplied by, never negative."""
        return is_on(scores)


def is_on(scores: Tensor) -> Tensor:
    """1 where a score is positive and 0 elsewhere; also 1 where it is no number, so that skipping cannot hide that."""
    return (~(scores <= 0)).to(scores.dtype)


class ControllingModule(Gate):
    """The architecture controlling module: squeeze (by the layer), reduce, ReLU, expand, binarise [code-20].

    Starts with the reducing weights at 0 and both biases at 1, so that no gate depends on the image yet and a filter is
    on with probability 0.76 in eval mode, 0.72 in training [derived]. Draws its start, and in training its noise, from
    torch's global generator, as dropout does.

    Args:
        fan_in, fan_out: channels of the layer's input and filters of the layer.
        reduction: the hidden width is max(1, floor(fan_in / reduction)).
        estimator: how bits let gradients through; a name in ``ESTIMATORS``.
        first_score: None starts as above; a number is every filter's score at the start, for every image [ours]: a
            network that starts with all filters on loses less before the first step. The weights are drawn as above.
        mix: which half of the values is hard in training, for improved semantic hashing: "entry", each image and filter
            by a coin of its own [ours]; "channel", C/2 filters drawn with replacement for the whole batch [code-19].

    Raises:
        SetupError: an unknown name, or a reduction below 1.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        *,
        reduction: float = 4,
        estimator: str = "semantic_hashing",
        mix: str = "entry",
        first_score: float | None = None,
    ) -> None:
        super().__init__()
        check_controlling(reduction=reduction, estimator=estimator, mix=mix)
        hidden = max(1, math.floor(fan_in / reduction))
        self.reduce, self.expand = nn.Linear(fan_in, hidden), nn.Linear(hidden, fan_out)
        self.estimator, self.mix = estimator, mix
        self.multiply_adds = hidden * (fan_in + fan_out)
        nn.init.zeros_(self.reduce.weight)
        nn.init.ones_(self.reduce.bias)
        nn.init.kaiming_normal_(self.expand.weight)
        nn.init.ones_(self.expand.bias)
        if first_score is not None:
            with torch.no_grad():  # all hidden units start at 1
                self.expand.bias.copy_(first_score - self.expand.weight.sum(1))

    def scores(self, squeezed: Tensor) -> Tensor:
        """(N, C_in) → (N, C_out), one probit a filter."""
        z: Tensor = self.expand(F.relu(self.reduce(squeezed)))
        return z

    def values(self, scores: Tensor) -> Tensor:
        """Bits in eval mode; in training what the estimator makes of the scores, in [0, 1]."""
        return ESTIMATORS[self.estimator](scores, self.mix) if self.training else is_on(scores)


def check_controlling(*, reduction: float, estimator: str, mix: str) -> None:
    """Raise ``SetupError`` for what no controlling module can be made of."""
    if not reduction >= 1:
        raise SetupError(f"reduction should be at least 1, got {reduction}", "the releases use 4")
    if estimator not in ESTIMATORS:
        raise SetupError(f"no estimator named {estimator!r}", f"there are: {', '.join(ESTIMATORS)}")
    if mix not in MIXES:
        raise SetupError(f"no mix named {mix!r}", f"there are: {', '.join(MIXES)}")


class FixedGate(Gate):
    """The same filters for every image: a static mask.

    Args:
        bits: (C_out,) bool.
    """

    looks = False

    def __init__(self, bits: Tensor) -> None:
        super().__init__()
        self.register_buffer("bits", bits.bool())
        self.bits: Tensor

    def scores(self, squeezed: Tensor) -> Tensor:
        """(N, C_in) → (N, C_out): 1 for what is on, −1 for what is off."""
        return (2 * self.bits.to(squeezed.dtype) - 1).expand(len(squeezed), -1)


class SalienceGate(Gate):
    """Predicts how much each filter matters, keeps the largest and scales their outputs by it.

    Source: Gao et al. 2019 (feature boosting and suppression), section 3, arXiv:1810.05331. The mean magnitude of an
    input channel stands for the paper's; inputs behind ReLUs have none below zero.

    Args:
        keep: share of the filters that stay on for each image, rounded up.
    """

    binary = False

    def __init__(self, fan_in: int, fan_out: int, *, keep: float) -> None:
        super().__init__()
        self.predict = nn.Linear(fan_in, fan_out)
        self.kept = max(1, math.ceil(keep * fan_out - 1e-9))
        self.multiply_adds = fan_in * fan_out
        nn.init.kaiming_normal_(self.predict.weight)
        nn.init.ones_(self.predict.bias)

    def saliency(self, squeezed: Tensor) -> Tensor:
        """(N, C_in) → (N, C_out), never negative."""
        return F.relu(self.predict(squeezed))

    def scores(self, squeezed: Tensor) -> Tensor:
        """(N, C_out): the saliency of those that win, 0 for all others."""
        saliency = self.saliency(squeezed)
        threshold = saliency.topk(self.kept, dim=1).values[:, -1:]
        return saliency * ~(saliency < threshold)

    def values(self, scores: Tensor) -> Tensor:
        """The scores themselves: on filters are scaled."""
        return scores


# ---- how a bit lets a gradient through: (N, C) scores and the mix → (N, C) training values ------------------------


def saturating_sigmoid(scores: Tensor) -> Tensor:
    """clip(1.2 σ(g) − 0.1, 0, 1): exactly 0 or 1, and without gradient, where |g| ≥ ln 11 = 2.398 [derived]."""
    return (STRETCH * torch.sigmoid(scores) - SHIFT).clamp(0.0, 1.0)


def semantic_hashing(scores: Tensor, mix: str) -> Tensor:
    """Improved semantic hashing: noise, a saturating sigmoid, and bits in half of the places.

    The gradient is that of the sigmoid in all places. With unit noise a bit is 1 with probability Φ(z) [derived].
    Source: Kaiser & Bengio 2018, arXiv:1801.09797; the deviation 1 of the noise is [code-20].
    """
    noisy = scores + torch.randn_like(scores)
    soft = saturating_sigmoid(noisy)
    return torch.where(_is_hard(scores, mix), through(is_on(noisy), soft), soft)


def _is_hard(scores: Tensor, mix: str) -> Tensor:
    """(N, C) or (C,) bool: where the value is a bit."""
    if mix == "entry":
        return torch.rand_like(scores) < 0.5
    channels = scores.shape[1]
    drawn = torch.randint(channels, (channels // 2,), device=scores.device)
    return torch.zeros(channels, dtype=torch.bool, device=scores.device).index_fill(0, drawn, True)


def through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` with the gradient of ``soft``."""
    return hard.detach() + (soft - soft.detach())


def straight_through_sigmoid(scores: Tensor, mix: str) -> Tensor:
    """Bits without noise, with the gradient of the sigmoid (Bengio et al. 2013, arXiv:1308.3432) [ours]."""
    return through(is_on(scores), torch.sigmoid(scores))


def gumbel_sigmoid(scores: Tensor, mix: str) -> Tensor:
    """σ((z + logistic noise) / (2/3)), soft in training (Jang et al. 2017, arXiv:1611.01144) [ours]."""
    return torch.sigmoid((scores + _logistic(scores)) / TEMPERATURE)


def hard_concrete(scores: Tensor, mix: str) -> Tensor:
    """The Gumbel-sigmoid stretched to [−0.1, 1.1] and clipped (Louizos et al. 2018, arXiv:1712.01312) [ours]."""
    return (STRETCH * gumbel_sigmoid(scores, mix) - SHIFT).clamp(0.0, 1.0)


def _logistic(like: Tensor) -> Tensor:
    uniform = torch.rand_like(like).clamp(1e-6, 1 - 1e-6)
    return uniform.log() - (-uniform).log1p()


ESTIMATORS: Mapping[str, Callable[[Tensor, str], Tensor]] = {
    function.__name__: function
    for function in (semantic_hashing, straight_through_sigmoid, gumbel_sigmoid, hard_concrete)
}
