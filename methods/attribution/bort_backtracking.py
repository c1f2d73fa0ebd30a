"""Where the strongest channels of the top layer come from, each traced back to the pixels on its own."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.back_projection import BackProjection, Inverse, Recording, top_tap
from bench.contract import AttributionTask, Classifier, PassCounter, Unsupported, method
from methods.attribution import _gradient

AT_ONCE = 64  # traces in one back-projection: bounds the memory at 224 px
FEWEST = 16  # traces, or all channels where there are fewer: a map of less shows the budget more than the network
BORDERED = 5  # positions along a side of the smallest map that has an inside, of 3 x 3, worth keeping to


@method(
    source="Zhang et al. 2023, Algorithm 1 (saliency by tracing), arXiv:2212.09062",
    differs="not the paper's exact procedure: of that, the inputs of the algorithm are known [paper]; steps and numbers"
    " are those of the authors' later code [code], which need not be those of the paper's figures. Ours: which layer is"
    " the top one, tokens and layers without positions, small maps without a border, ties, and the back-projection"
    " through what the code does not cover and, but for the variant rownorm, its scale. Whole images are traced, where"
    " the receptive field would do",
    variants={"plain": {"guided": False}, "pinv": {"inverse": "pinv"}, "rownorm": {"inverse": "rownorm"}},
)
@dataclass(frozen=True, kw_only=True)
class BortBacktracking:
    """A = Σ_c v_c · [t_c > γ · mean of t_c], divided by its maximum: the same whatever the label.

    v_c is channel c's largest value at the top layer and p_c the place of it; t_c is Σ over input channels of
    |g(B at (c, p_c), 0 elsewhere) − g(0)|, g the back-projection through the image's own pass. The sum is over the k
    largest v_c > 0, without those whose p_c is on the border; an image that has none gets zeros.
    """

    tap: str = ""  # the top layer; empty for the deepest map that has an inside [our choice]
    channels: int = 256  # k [code], at most; the budget pays for as many as it has passes
    height: float = 1000.0  # B [code]
    threshold: float = 3.0  # γ [code], in means of a trace
    guided: bool = True  # ReLUs keep what was > 0 on the way up and is > 0 on the way back [code]
    inverse: Inverse = "transpose"  # of a layer's weights [our choice]; "rownorm" [code]

    def why_not(self, task: AttributionTask) -> str | None:
        """It needs a way back through every layer, and passes for more than a few channels."""
        if self.tap and self.tap not in task.model.taps:
            return f"needs the tap {self.tap!r}, the network has {', '.join(task.model.taps)}"
        tap = self.tap or top_tap(task.model)
        try:
            back = self._back_projection(task.model, tap)
        except Unsupported as missing:
            return str(missing)
        fewest = min(FEWEST, self.channels, _width(task.model, tap))
        return _gradient.too_dear(task, passes=1 + (1 + fewest) * back.passes)

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps in [0, 1]; costs 1 pass, and a back-projection for g(0) and each channel."""
        back = self._back_projection(task.model, self.tap or top_tap(task.model))
        recording = back.record(task.images)
        payable = (task.budget - 1) // back.passes - 1
        values, spots = _strongest(recording.features, task.model.image_shape, min(self.channels, payable))
        nothing = back(torch.zeros_like(recording.features), recording)[:, None]  # (B, 1, C, H, W)
        total = torch.zeros_like(task.images[:, 0])
        together = max(1, AT_ONCE // len(task))
        for some, where in zip(values.split(together, 1), spots.split(together, 1), strict=True):
            traces = (_from_peaks(back, recording, where, self.height) - nothing).abs().sum(2)  # (B, M, H, W)
            masks = traces > self.threshold * traces.mean((2, 3), keepdim=True)
            total += torch.einsum("bm, bmhw -> bhw", some, masks.to(some))
        largest = total.amax((1, 2), keepdim=True)
        return total / largest.where(largest > 0, 1)

    def _back_projection(self, model: Classifier, tap: str) -> BackProjection:
        return BackProjection(model, tap, inverse=self.inverse, guided=self.guided)


def _from_peaks(back: BackProjection, recording: Recording, spots: Tensor, height: float) -> Tensor:
    """(B, M, C, H, W) inputs behind features that are ``height`` at one of the (B, M) spots and 0 elsewhere."""
    images, count = spots.shape
    peaks = recording.features.new_zeros(images * count, recording.features[0].numel())
    peaks.scatter_(1, spots.reshape(-1, 1), height)
    inputs = back(peaks.view(-1, *recording.features.shape[1:]), recording.repeat(count))
    return inputs.unflatten(0, (images, count))


def _strongest(features: Tensor, image_shape: tuple[int, int, int], count: int) -> tuple[Tensor, Tensor]:
    """The largest value of each image's ``count`` strongest channels, and where it is in the flattened tap.

    A channel that is not to be traced has value 0. Of equal values the first place counts, of equal channels the first.

    Returns:
        (B, k) float32 values ≥ 0, and (B, k) int64 indices into ``features[0].flatten()``.
    """
    numbers = torch.arange(features[0].numel(), device=features.device).view(1, *features.shape[1:])
    by_place, (rows, columns) = _by_place(features, image_shape)
    spots, _ = _by_place(numbers, image_shape)
    values, places = by_place.max(2)  # (B, D)
    if min(rows, columns) >= BORDERED:
        row, column = places // columns, places % columns
        inside = (row > 0) & (row < rows - 1) & (column > 0) & (column < columns - 1)
        values = values.masked_fill(~inside, 0)
    values, channels = values.clamp(min=0).sort(dim=1, descending=True, stable=True)
    values, channels = values[:, :count], channels[:, :count]
    return values, spots[0, channels, places.gather(1, channels)]


def _by_place(features: Tensor, image_shape: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int]]:
    """(B, D, P) channels by places, and the (rows, columns) of the grid that the P places are.

    A vector has one place. Tokens are the finest grid of square patches that they are enough for, with what else there
    is (class tokens) before it.
    """
    if features.ndim == 2:
        return features[:, :, None], (1, 1)
    if features.ndim == 4:
        return features.flatten(2), (features.shape[2], features.shape[3])
    _, height, width = image_shape
    grids = ((height // side, width // side) for side in range(1, max(height, width) + 1))
    rows, columns = next(grid for grid in grids if grid[0] * grid[1] <= features.shape[1])
    return features[:, features.shape[1] - rows * columns :].mT, (rows, columns)


def _width(model: Classifier, tap: str) -> int:
    """How many channels a tap has, found on a device that computes shapes alone: no pass is made."""
    ghost = copy.deepcopy(model).to("meta")  # type: ignore[attr-defined]
    ghost.passes = PassCounter()
    features = ghost.features(torch.zeros(1, *model.image_shape, device="meta"), tap)
    by_place, _ = _by_place(features, model.image_shape)
    return by_place.shape[1]
