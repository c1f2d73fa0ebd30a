"""Steps on the pixels of a batch until its statistics at every BatchNorm are those of the training data."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bench._batch_norm import Seen, batch_norms, moments, watched
from bench.back_projection import denormalised
from bench.contract import Skip, VisualizationTask, method
from bench.ops import finite, step_factor
from methods.visualization._transforms import mirrored_where, neighbour_lengths, rolled, whole_shifts


@method(
    source="Yin et al. 2020, section 3.2, arXiv:1912.08795, with the settings of its public code [peer]; the loop is"
    " that of VITAL [code], Görgün et al. 2025, arXiv:2503.22399",
    differs="reads nothing but BatchNorm's running statistics; a recipe's batch (84 images for ImageNet, 256 for CIFAR)"
    " is no setting: it is the cell's, in parts of the suite's batch_size; channels are shown too, by their activation"
    " instead of the cross-entropy and with the layers before their tap [our choice]; layers that remember nothing"
    " (mean 0, variance 1: folded or fresh) do not count; TV and length are means over images, where the source has"
    " norms over its batch, so the recipes' weights of TV are multiplied by the root of their batch [derived]; each"
    " image has a shift and a mirror of its own; both recipes run in one loop: warm-up is a share of the steps and a"
    " cosine follows; one resolution, the last image instead of the best, no student (Adaptive DeepInversion); the"
    " default's weights and step size are for some tens of steps [our choice]",
    alone=False,
    variants={
        "imagenet_recipe": {
            "statistics": 0.01,
            "first_layer": 10.0,
            "smoothness": 9.2e-4,  # 1e-4 · √84
            "length": 1e-5,
            "jitter": 30 / 224,
            "flip": True,
            "step_size": 0.25,
        },
        "cifar_recipe": {
            "statistics": 10.0,
            "first_layer": 10.0,
            "smoothness": 4e-4,  # 2.5e-5 · √256
            "jitter": 2 / 32,
            "step_size": 0.1,
            "clip": False,
        },
        "no_batch_norm": {"statistics": 0.0},
    },
)
@dataclass(frozen=True, kw_only=True)
class DeepInversion:
    """Minimise the mean over the batch of CE(τx, y) + smoothness · TV(x) + length · ‖x‖, plus statistics · R(τx).

    x are the normalised pixels and R sums λ (‖mean − running mean‖ + ‖variance − running variance‖) over what enters
    the BatchNorm layers, λ = ``first_layer`` at the first and 1 at the others. Mean and variance are the batch's: an
    image depends on its batch-mates, and what they are is part of the method. For a channel −a(τx), its activation,
    stands for CE. τ shifts each image in a circle and perhaps mirrors it, anew in each step. TV is the sum of the
    lengths of the differences to the right, lower, lower-left and lower-right neighbour. The whole budget goes into
    steps of two passes. Without R it is the source's DeepDream, which needs no BatchNorm.
    """

    statistics: float = 0.3  # weight of R
    first_layer: float = 1.0  # weight of the first layer within R, where the others have 1
    smoothness: float = 0.1  # weight of TV
    length: float = 0.0  # weight of ‖x‖
    jitter: float = 30 / 224  # largest shift either way, share of the shorter side
    flip: bool = False  # mirror half of the images left to right in each step; wrong for digits
    step_size: float = 0.25  # largest change of a pixel per step, normalised
    warmup: float = 0.05  # share of the steps in which the step size grows; then it falls as a cosine
    clip: bool = True  # to [0, 1] after each step; at the end in any case

    def why_not(self, task: VisualizationTask) -> str | None:
        """Needs BatchNorm that was not folded, and a step's two passes.

        A network that is still to be trained remembers nothing yet either: ``fit`` sees to that.
        """
        layers = batch_norms(task.model)
        if self.statistics and not any(remembers(layer) or is_fresh(layer) for layer in layers):
            return _lacks_statistics(task.model.name, len(layers))
        return None if task.budget >= 2 else f"needs 2 passes an image, the budget is {task.budget}"

    def fit(self, task: VisualizationTask) -> frozenset[_BatchNorm]:
        """Return the layers that remember something.

        Raises:
            Skip: none does.
        """
        layers = batch_norms(task.model)
        known = frozenset(filter(remembers, layers))
        if self.statistics and not known:
            raise Skip(_lacks_statistics(task.model.name, len(layers)))
        return known

    def visualize(self, task: VisualizationTask) -> Tensor:
        """Return (B, C, H, W) float32 intensities in [0, 1], image b aimed at ``task.targets[b]``.

        Raises:
            Skip: no BatchNorm that remembers something lies before the channels' tap.
        """
        model, steps = task.model, task.budget // 2
        reach = round(self.jitter * min(model.image_shape[1:]))
        moves = task.draws("moves", steps, 3, law="uniform")  # (B, steps, 3): rows, columns, mirrored or not
        shifts, mirrored = whole_shifts(moves[..., :2], reach), (moves[..., 2] < 0.5) & self.flip
        black = model.normalise(torch.zeros(1, *model.image_shape, device=task.device))
        white = model.normalise(torch.ones(1, *model.image_shape, device=task.device))

        pixels = task.noise().requires_grad_()  # normalised
        optimiser = torch.optim.Adam([pixels], lr=self.step_size, betas=(0.5, 0.9))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: step_factor(step, steps, round(self.warmup * steps))
        )
        with watched(model) as seen:
            for step in range(steps):
                shown = denormalised(model, rolled(mirrored_where(pixels, mirrored[:, step]), shifts[:, step]))
                loss = aim(task, shown) + self._prior(pixels)
                if self.statistics:
                    loss = loss + self.statistics * self._distance(task, seen)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                if self.clip:
                    with torch.no_grad():
                        pixels.clamp_(black, white)
        return finite(denormalised(model, pixels).clamp(0.0, 1.0))

    def _distance(self, task: VisualizationTask, seen: Seen) -> Tensor:
        """() R of the latest forward pass."""
        entered = [(layer, values) for layer, values in seen.of(len(task)) if layer in task.fitted]
        if not entered:
            raise Skip(f"needs BatchNorm with statistics before {task.tap}, {task.model.name} has none there")
        own = torch.stack([statistics_distance(layer, values) for layer, values in entered])
        return own.sum() + (self.first_layer - 1) * own[0]

    def _prior(self, pixels: Tensor) -> Tensor:
        """() what (B, C, H, W) normalised images pay on average for being rough and for being long."""
        prior = pixels.new_zeros(())
        if self.smoothness:
            prior = prior + self.smoothness * neighbour_lengths(pixels).mean()
        if self.length:
            prior = prior + self.length * torch.linalg.vector_norm(pixels, dim=(1, 2, 3)).mean()
        return prior


def aim(task: VisualizationTask, images: Tensor) -> Tensor:
    """() mean over the images of the cross-entropy with their classes, or of minus their channels' activation."""
    if task.kind == "class":
        return F.cross_entropy(task.model(images), task.targets)
    return -task.activation(images).mean()


def statistics_distance(layer: _BatchNorm, entered: Tensor) -> Tensor:
    """() ‖mean − running mean‖ + ‖variance − running variance‖ by channel, of what enters one layer, (B, D, …)."""
    mean, variance, running_mean, running_variance = moments(layer, entered)
    length = torch.linalg.vector_norm
    distance: Tensor = length(mean - running_mean) + length(variance - running_variance)
    return distance


def remembers(layer: _BatchNorm) -> bool:
    """Whether a layer's running statistics are other than those it was made with, means 0 and variances 1."""
    assert layer.running_mean is not None and layer.running_var is not None
    return bool(layer.running_mean.any() or (layer.running_var != 1).any())


def is_fresh(layer: _BatchNorm) -> bool:
    """Whether weights and biases are still 1 and 0 as well: this layer may yet be trained."""
    return not layer.affine or bool((layer.weight == 1).all() and not layer.bias.any())


def _lacks_statistics(name: str, layers: int) -> str:
    if not layers:
        return f"needs BatchNorm, {name} has none"
    return f"needs BatchNorm with statistics of training data, those of {name} are means of 0 and variances of 1"
