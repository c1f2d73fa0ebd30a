"""Maths that methods and metrics share, and the one training loop."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import Bound, Diverged, ShapeError, TrainingTask, seed_for

# ---- checks at boundaries ------------------------------------------------------------------------------------------


def check_axes(**tensors: tuple[Tensor, str]) -> None:
    """Each tensor has the axes its string names, and equal letters have equal lengths throughout.

    ``check_axes(images=(images, "N C H W"), labels=(labels, "N"))``

    Raises:
        ShapeError: naming the tensor, the axes wanted and the shape found.
    """
    lengths: dict[str, tuple[int, str]] = {}
    for name, (tensor, axes) in tensors.items():
        letters = axes.split()
        wanted = f"({', '.join(letters)})"
        if tensor.ndim != len(letters):
            raise ShapeError(f"{name} should be {wanted}, got {tuple(tensor.shape)}")
        for letter, length in zip(letters, tensor.shape, strict=True):
            known, owner = lengths.setdefault(letter, (length, name))
            if known != length:
                raise ShapeError(
                    f"{name} should be {wanted} with {letter} = {known} as in {owner}, got {tuple(tensor.shape)}"
                )


def check_images(**images: Tensor) -> None:
    """Each is (N, C, H, W) floating point, finite, within [0, 1].

    Waits for the device: for the edges of a computation, not for its inner loop.

    Raises:
        ShapeError: naming the tensor and what was found.
    """
    for name, tensor in images.items():
        check_axes(**{name: (tensor, "N C H W")})
        if not tensor.is_floating_point():
            raise ShapeError(f"{name} should be floating point intensities in [0, 1], got {tensor.dtype}")
        if len(tensor):
            low, high = tensor.min().item(), tensor.max().item()
            if not (low >= 0.0 and high <= 1.0):  # also false for NaN
                raise ShapeError(f"{name} should be intensities in [0, 1], got [{low:.4g}, {high:.4g}]")


def check_finite(**tensors: Tensor) -> None:
    """No NaN and no infinity in any of them; waits for the device.

    Raises:
        ShapeError: naming the tensor and how many of its numbers are not finite.
    """
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ShapeError(f"{name} should be finite, got {bad} of {tensor.numel()} numbers that are not")


def check_logits(labels: Tensor, **logits: Tensor) -> None:
    """Each is (N, K) and finite, and ``labels`` are (N,) integers in [0, K); waits for the device.

    Raises:
        ShapeError: naming the tensor, what was expected and what was found.
    """
    for name, tensor in logits.items():
        check_axes(**{name: (tensor, "N K"), "labels": (labels, "N")})
        check_finite(**{name: tensor})
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise ShapeError(f"labels should be integers, got {labels.dtype}")
        classes = tensor.shape[1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            found = f"[{int(labels.min())}, {int(labels.max())}]"
            raise ShapeError(f"labels should lie in [0, {classes}), the classes of {name}, got {found}")


def check_scores(scores: Tensor, attacked: Tensor) -> None:
    """Scores are (N,) floating point without NaN, ``attacked`` is (N,) bool; waits for the device.

    Raises:
        ShapeError: naming the tensor, what was expected and what was found.
    """
    check_axes(scores=(scores, "N"), attacked=(attacked, "N"))
    if attacked.dtype != torch.bool:
        raise ShapeError(f"attacked should be bool, got {attacked.dtype}")
    missing = int(scores.isnan().sum())
    if missing:
        raise ShapeError(f"scores should have an order, got {missing} NaN of {len(scores)}")


def check_attribution(maps: Tensor, real: Tensor, labels: Tensor) -> None:
    """Maps are (N, H, W) and finite, for images (N, C, H, W) in [0, 1] and (N,) labels; waits for the device.

    Raises:
        ShapeError: naming the tensor, what was expected and what was found.
    """
    check_images(real=real)
    check_axes(real=(real, "N C H W"), maps=(maps, "N H W"), labels=(labels, "N"))
    check_finite(maps=maps)


def check_two_sets(referee_features: Tensor, real_referee_features: Tensor) -> None:
    """Features are (N, D) and (M, D) and finite; waits for the device.

    Raises:
        ShapeError: naming the tensor, what was expected and what was found.
    """
    check_axes(referee_features=(referee_features, "N D"), real_referee_features=(real_referee_features, "M D"))
    check_finite(referee_features=referee_features, real_referee_features=real_referee_features)


# ---- small maths ---------------------------------------------------------------------------------------------------


def in_batches(function: Callable[[Tensor], Tensor], tensor: Tensor, size: int) -> Tensor:
    """``function`` over consecutive slices of at most ``size`` rows, results joined along axis 0."""
    return torch.cat([function(part) for part in torch.split(tensor, size)])


def total_variation(images: Tensor) -> Tensor:
    """(B,) sum of squared differences between vertical and horizontal neighbours, images (B, C, H, W)."""
    down = (images[:, :, 1:] - images[:, :, :-1]).square().sum((1, 2, 3))
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).square().sum((1, 2, 3))
    return down + right


# ---- what metrics share --------------------------------------------------------------------------------------------


def label_place(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) int64 place of each image's label among its (N, K) logits: 0 for the largest.

    Equal logits are ordered by class index, as argmax does, so that a tie has one answer on every device.
    """
    wanted = logits.gather(1, labels[:, None])  # (N, 1)
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]  # (N, K)
    return ((logits > wanted) | ((logits == wanted) & earlier)).sum(1)


def finite(images: Tensor) -> Tensor:
    """``images`` without their graph. Waits for the device: for the end of an optimisation, not for its steps.

    Raises:
        Diverged: some value is infinite or not a number.
    """
    lost = int((~images.isfinite()).flatten(1).any(1).sum())
    if lost:
        raise Diverged(f"{lost} of {len(images)} images are not finite")
    return images.detach()


def wrong_class_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) log-odds against the label, log((1 − p_y) / p_y) = logsumexp over k ≠ y of s_k, minus s_y.

    Its gradient is the cross-entropy's divided by 1 − p_y: the same direction, but it does not vanish where the
    network is certain.

    Args:
        logits: (B, K) with K ≥ 2.
        labels: (B,) int64 in [0, K).
    """
    right = labels[:, None]
    wrong = logits.scatter(1, right, -math.inf).logsumexp(1)
    return wrong - logits.gather(1, right)[:, 0]


def within_bound(images: Tensor, originals: Tensor, bound: Bound) -> Tensor:
    """The nearest (B, C, H, W) float32 images that keep the bound around ``originals`` exactly, and [0, 1].

    The differences are taken in double precision and rounded towards the original, so rounding breaks no bound.
    """
    start = originals.double()
    change = images.double() - start
    if bound.norm == "linf":
        reach = torch.full_like(change, bound.size)
    elif bound.norm == "l2":
        length = change.flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.double).tiny)
        reach = change.abs() * (bound.size / length).clamp(max=1.0)[:, None, None, None]
    else:
        return images.clamp(0.0, 1.0)
    low, high = -_round_down(reach - start), _round_down(start + reach)
    return images.clamp(low, high).clamp(0.0, 1.0)


def _round_down(numbers: Tensor) -> Tensor:
    """The largest float32 that does not exceed each float64."""
    nearest = numbers.float()
    below = torch.nextafter(nearest, torch.full_like(nearest, -math.inf))
    return torch.where(nearest.double() > numbers, below, nearest)


# ---- how orthogonal weights are -------------------------------------------------------------------------------------

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # of nn.MultiheadAttention


class Orthogonality(NamedTuple):
    """How far one layer's matrices are from semi-orthogonal: the worst residual, and the extremes over all of them."""

    residual: float  # ‖W Wᵀ − I‖ / √min(n, m), Frobenius, by Wᵀ W where rows outnumber columns
    smallest_sigma: float  # of the min(n, m) singular values
    largest_sigma: float


def matrix_count(module: nn.Module, key: str) -> int:
    """How many matrices of weights, one after the other along axis 0, a module's own parameter holds; 0 for others.

    Kernels of convolutions, as many as there are groups, flattened behind axis 0 (of transposed ones the input
    channels); of linear layers; and the projections of ``nn.MultiheadAttention``, the fused one whole.
    """
    if isinstance(module, nn.MultiheadAttention):
        return int(key in ATTENTION)
    if key != "weight":
        return 0
    return module.groups if isinstance(module, CONVOLUTIONS) else int(isinstance(module, nn.Linear))


def weight_matrices(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, (blocks, n, m) float64) of each weight that is a matrix or several, shared ones once; no graph."""
    seen: dict[int, Tensor] = {}  # kept: the next computed weight would be given a dead one's id
    for owner, module in network.named_modules():
        for key in ("weight", *ATTENTION):
            weight = getattr(module, key, None) if matrix_count(module, key) else None  # a parametrized one too
            if weight is None or not weight.numel() or id(weight) in seen:
                continue
            seen[id(weight)] = weight
            count = matrix_count(module, key)
            yield f"{owner}.{key}".lstrip("."), weight.detach().double().reshape(count, len(weight) // count, -1)


def squared_singular_values(matrices: Tensor) -> Tensor:
    """(…, min(n, m)) float64, ascending, of (…, n, m): eigenvalues of the smaller Gram matrix, to 1e-16 of the top."""
    wide = matrices.double() if matrices.shape[-2] <= matrices.shape[-1] else matrices.double().mT
    squares: Tensor = torch.linalg.eigvalsh(wide @ wide.mT)
    return squares.clamp(min=0.0)


def orthogonality(network: nn.Module) -> dict[str, Orthogonality]:
    """Name of each weight that is a matrix → how far it is from semi-orthogonal; waits for the device.

    The residual is the root mean square of σ² − 1 over the min(n, m) singular values: 0 for orthonormal rows (wide) or
    columns (tall), 1 for a zero matrix.

    Raises:
        ShapeError: a weight is not finite.
    """
    found = {}
    for name, matrices in weight_matrices(network):
        check_finite(**{name: matrices})
        squares = squared_singular_values(matrices)
        residual = (squares - 1).square().mean(-1).sqrt().max()
        found[name] = Orthogonality(residual.item(), squares.min().sqrt().item(), squares.max().sqrt().item())
    return found


# ---- augmentation: (B, C, H, W) float images, and a generator on the CPU -------------------------------------------


def _crop(images: Tensor, generator: torch.Generator, reach: int) -> Tensor:
    """Shift each image by up to ``reach`` pixels either way, zeros coming in from outside."""
    count, _, height, width = images.shape
    shifts = torch.randint(0, 2 * reach + 1, (2, count), generator=generator).to(images.device)
    padded = F.pad(images, (reach,) * 4)
    rows = (shifts[0, :, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (shifts[1, :, None] + torch.arange(width, device=images.device))[:, None, None, :]
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror about half of the images left to right."""
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


AUGMENTATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda images, generator: images,
    "shift2": lambda images, generator: _crop(images, generator, 2),
    "shift4": lambda images, generator: _crop(images, generator, 4),
    "shift4_flip": lambda images, generator: _flip(_crop(images, generator, 4), generator),
}


# ---- the training loop ---------------------------------------------------------------------------------------------

SAVE_EVERY_SECONDS = 30.0


def fit(
    task: TrainingTask,
    optimiser: torch.optim.Optimizer,
    *,
    penalty: Callable[[nn.Module, float], Tensor] | None = None,
) -> nn.Module:
    """Train ``task.network`` with ``optimiser`` and return it (its running mean when the recipe asks for one).

    Cross-entropy; step size warmed up linearly, then a cosine to zero; batches without replacement, the last partial
    one dropped. Every random number of step t depends on the task's seed and t alone, so a run continued from its
    checkpoint equals a run that was never stopped.

    Args:
        penalty: (network, share of the steps that are done) → () added to each batch's loss. It may draw from the
            global generator, whose seed is the step's.

    Raises:
        Diverged: the loss is not finite (looked at once an epoch and at the end).
    """
    recipe, network = task.recipe, task.network.to(task.device)
    images, labels = task.images.to(task.device), task.labels.to(task.device)
    steps_an_epoch = max(1, len(images) // recipe.batch_size)
    total = recipe.epochs * steps_an_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: step_factor(step, total, round(recipe.warmup_epochs * steps_an_epoch))
    )
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema), use_buffers=True
    ) if recipe.ema else None  # fmt: skip
    parts: dict[str, Any] = {"network": network, "optimiser": optimiser, "schedule": schedule} | (
        {"average": average} if average else {}
    )
    first = _continue(task, parts)
    network.train()
    saved = time.monotonic()
    with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
        for step in range(first, total):
            epoch, within = divmod(step, steps_an_epoch)
            if within == 0 or step == first:
                order = _permutation(len(images), seed_for(task.seed, "order", epoch))
            chosen = order[within * recipe.batch_size : (within + 1) * recipe.batch_size].to(task.device)
            torch.manual_seed(seed_for(task.seed, "step", step))  # dropout
            generator = torch.Generator().manual_seed(seed_for(task.seed, "augment", step))
            batch = AUGMENTATIONS[recipe.augment](images[chosen].float() / 255, generator)
            with torch.autocast(task.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                loss = F.cross_entropy(network(batch), labels[chosen], label_smoothing=recipe.label_smoothing)
                if penalty is not None:
                    loss = loss + penalty(network, step / total)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if average is not None:
                average.update_parameters(network)
            if within == steps_an_epoch - 1:
                _look(loss, epoch, task)
            if task.checkpoint is not None and time.monotonic() - saved > SAVE_EVERY_SECONDS:
                task.checkpoint.save({"step": step + 1} | {name: part.state_dict() for name, part in parts.items()})
                saved = time.monotonic()
    return (average.module if average is not None else network).eval()


def places_of_step(task: TrainingTask, step: int) -> Tensor:
    """(batch,) int64 places in ``task.images`` of what step ``step`` of ``fit`` sees, in that order.

    For a penalty that needs the labels of the batch, or for counting what was seen. It is made anew from the seed at
    each call, so a run continued from its checkpoint finds the same.

    Args:
        step: counted from 0 over all epochs.
    """
    size, count = task.recipe.batch_size, len(task.images)
    epoch, within = divmod(step, max(1, count // size))
    order = _permutation(count, seed_for(task.seed, "order", epoch))
    return order[within * size : (within + 1) * size].to(task.labels.device)


def step_factor(step: int, total: int, warmup: int) -> float:
    """Share of the base step size at ``step``: linear to 1 over ``warmup`` steps, then a cosine to 0 at ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def _permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def _look(loss: Tensor, epoch: int, task: TrainingTask) -> None:
    """Say how the epoch ended; the only wait for the device in the loop."""
    value = loss.item()
    if not math.isfinite(value):
        raise Diverged(f"training loss is {value} at the end of epoch {epoch + 1}")
    task.note(f"epoch {epoch + 1}/{task.recipe.epochs}: loss {value:.4f}")


def _continue(task: TrainingTask, parts: Mapping[str, Any]) -> int:
    """Load the checkpoint into ``parts``, if there is one; returns the first step still to be done."""
    state = task.checkpoint.load() if task.checkpoint is not None else None
    if state is None:
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def parameters_with_decay(network: nn.Module, weight_decay: float) -> Sequence[dict[str, Any]]:
    """Optimiser groups: decay for matrices and kernels, none for biases and normalisation (fewer than two axes)."""
    matrices = [p for p in network.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in network.parameters() if p.requires_grad and p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
