"""The seven corrections of Bort and the penalties whose gradients they are; no optimizer, no network.

W is a weight as a matrix of n rows (outputs) and m columns (inputs × kernel area), a the target squared amplitude.
Tags in the docstrings of the ``_bort`` files say where a fact comes from: [paper] Zhang et al. 2023, arXiv:2212.09062;
[code] the authors' public code; [derived] worked out and tested here; [measured] run here; [our choice] no source.

Each correction is a small factor R times W: from the left for rows, from the right for columns, or entry by entry
where only norms matter. R is the Gram matrix minus a on its diagonal, or the sign of that. Subtracting before
multiplying keeps the digits that (W Wᵀ) W − a W loses close to the constraint [derived], and leaves no linear term to
be handled elsewhere.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

MODES = ("l2-full", "l2-row", "l2-col", "l1-fullrow", "l1-fullcol", "l1-row", "l1-col")
ADA = "ada"  # the amplitude that follows the weights: (mean of row norms)², for every matrix and step [code]
DENSE = (torch.float32, torch.float64)  # what Gram matrices are computed in; shorter formats are lengthened
STRIP = 128  # rows of a large Gram matrix that are computed at once
LARGEST_STACK = 2**26  # numbers in one stack of equal shapes: bounds the memory that batching costs

Amplitude = float | str


# ---- the formulas --------------------------------------------------------------------------------------------------


def bort_correction(weight: Tensor, amplitude: Amplitude = 1.0, mode: str = "l2-full") -> Tensor:
    """Δ(W) of ``mode``, in the shape and dtype of ``weight``: what γ multiplies in every update [code].

    Args:
        weight: (n, …) with at least two axes; axes after the first are the columns.
        amplitude: a > 0, or "ada".
        mode: see ``bort_penalty`` for the formulas.

    Returns:
        Δ, the gradient of ``bort_penalty``; computed in float32 or longer, whatever autocast says.
    """
    with without_autocast(weight.device):
        matrix = lengthened(weight.flatten(1))
        return product(factor(matrix, amplitude, mode), matrix, mode).to(weight.dtype).view(weight.shape)


def bort_penalty(weight: Tensor, amplitude: Amplitude = 1.0, mode: str = "l2-full") -> Tensor:
    """() whose gradient by ``weight`` is ``bort_correction``; G = W Wᵀ, H = Wᵀ W [derived, tested against autograd].

    ==========  ===========================================  ==================================================
    l2-full     ¼ ‖G − a I‖²  (Frobenius)                    all singular values √a
    l2-row      ¼ Σ_i (‖row i‖² − a)²                        row norms √a, no orthogonality: boundedness alone
    l2-col      ¼ Σ_j (‖column j‖² − a)²                     column norms √a
    l1-fullrow  ½ Σ |G − a I|                                rows orthonormal × √a; only for n ≤ m
    l1-fullcol  ½ Σ |H − a I|                                columns orthonormal × √a; only for n ≥ m
    l1-row      ½ Σ_i |‖row i‖² − a|                         row norms √a
    l1-col      ½ Σ_j |‖column j‖² − a|                      column norms √a
    ==========  ===========================================  ==================================================

    "ada" counts as a constant of the gradient, as in the authors' code.
    """
    with without_autocast(weight.device):
        matrix = lengthened(weight.flatten(1))
        apart = residual(matrix, amplitude, mode)
        if mode.startswith("l1"):
            return 0.5 * apart.abs().sum()
        penalty = 0.25 * apart.square().sum()
        rows, columns = matrix.shape
        if mode == "l2-full" and rows > columns:  # H was taken: G has n − m more eigenvalues, all zero
            penalty = penalty + 0.25 * (rows - columns) * squared_amplitude(matrix, amplitude) ** 2
        return penalty.sum()  # "ada" brings an axis of length 1


def residual(matrices: Tensor, amplitude: Amplitude, mode: str, shrink: float | Tensor = 1.0) -> Tensor:
    """Gram matrix minus a I of ``shrink`` × (…, n, m) matrices, or squared norms minus a for the four diagonal modes.

    Returns:
        (…, k, k) for the full modes, k = n or m; (…, n, 1) for rows, (…, 1, m) for columns. No Gram matrix is formed
        where only its diagonal is asked for.
    """
    by_rows = is_by_rows(mode, *matrices.shape[-2:])
    if is_full(mode):
        gram = gram_of_rows(matrices if by_rows else matrices.mT)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
    else:
        # by columns, torch's norm is several times slower than the sum of squares [measured]
        if by_rows:
            gram = torch.linalg.vector_norm(matrices, dim=-1, keepdim=True).square()
        else:
            gram = matrices.square().sum(-2, keepdim=True)
        diagonal = gram.flatten(-2)
    if isinstance(shrink, Tensor) or shrink != 1.0:
        gram.mul_(shrink * shrink)
    diagonal.sub_(squared_amplitude(matrices, amplitude, shrink))
    return gram


def gram_of_rows(matrices: Tensor) -> Tensor:
    """(…, k, k) from (…, k, l); of a large one on a CPU, what follows by symmetry is copied, not computed.

    Strips of rows up to the diagonal: with s of them (1 + 1 / s) / 2 of the work [derived], 0.7 of the time at s = 2
    and k = 512 [measured].
    """
    count = len(matrices)
    if matrices.ndim > 2 or count < 2 * STRIP or matrices.device.type != "cpu" or matrices.requires_grad:
        return matrices @ matrices.mT
    gram = matrices.new_empty(count, count)
    for first in range(0, count, STRIP):
        last = min(first + STRIP, count)
        torch.mm(matrices[first:last], matrices[:last].mT, out=gram[first:last, :last])
        gram[:first, first:last] = gram[first:last, :first].mT
    return gram


def factor(matrices: Tensor, amplitude: Amplitude, mode: str, shrink: float | Tensor = 1.0) -> Tensor:
    """R, with which Δ(shrink · W) / shrink is R W, W R, or R times W entry by entry (``product`` knows which)."""
    apart = residual(matrices, amplitude, mode, shrink)
    return apart.sign_() if mode.startswith("l1") else apart


def clipped_(factors: Tensor, mode: str, strength: float | Tensor) -> Tensor:
    """The factors R of (…) matrices, in place, each × min(1, ½ / (strength ‖R‖)): the device is not asked.

    ‖R‖ is the spectral norm, exact for the diagonal modes, where R has its entries on a diagonal; else the smaller of
    two upper bounds, the Frobenius norm and the largest sum of a row's absolute entries [our choice]. They are close
    where one direction stands out, as it may where clipping matters; for the sign matrices of the l1 modes they are
    about √side / 2.4 times too large, and by as much the correction is clipped too early.
    """
    if is_full(mode):
        frobenius = torch.linalg.vector_norm(factors, dim=(-2, -1), keepdim=True)
        norm = torch.minimum(frobenius, factors.abs().sum(-1, keepdim=True).amax(-2, keepdim=True))
    else:
        norm = factors.abs().amax((-2, -1), keepdim=True)
    return factors.mul_((0.5 / (strength * norm)).clamp_(max=1.0))


def product(factors: Tensor, matrices: Tensor, mode: str) -> Tensor:
    """(…, n, m) the factor put to the side of the matrices where it belongs."""
    if not is_full(mode):
        return factors * matrices
    return factors @ matrices if is_by_rows(mode, *matrices.shape[-2:]) else matrices @ factors


def squared_amplitude(matrices: Tensor, amplitude: Amplitude, shrink: float | Tensor = 1.0) -> float | Tensor:
    """The target a; for "ada" (…, 1), taken from the (…, n, m) matrices on their device and without a gradient."""
    if amplitude != ADA:
        return float(amplitude)
    norms = torch.linalg.vector_norm(matrices.detach(), dim=-1)
    return (norms.mean(-1, keepdim=True) * shrink).square()


def is_full(mode: str) -> bool:
    """Whether the mode asks for orthogonality, not for norms alone."""
    return "full" in mode


def is_by_rows(mode: str, rows: int, columns: int) -> bool:
    """Whether the mode works on rows; ``l2-full`` has the same gradient by either side and takes the smaller Gram."""
    return rows <= columns if mode == "l2-full" else mode.endswith("row")


def fitting(mode: str, rows: int, columns: int) -> str:
    """``mode``, or the ``l1-full`` mode of the other side where this one has no fixed point for the shape.

    On tall weights ``l1-fullrow`` drives some rows to zero [measured]: more than m rows cannot be orthonormal.
    """
    if mode == "l1-fullrow" and rows > columns:
        return "l1-fullcol"
    if mode == "l1-fullcol" and rows < columns:
        return "l1-fullrow"
    return mode


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Products in full precision: in bf16, what is left near the constraint is rounding alone [measured]."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def lengthened(matrices: Tensor) -> Tensor:
    """The same numbers in float32, if they came in a shorter format."""
    return matrices if matrices.dtype in DENSE else matrices.float()


# ---- weights of any number of axes and any layout ------------------------------------------------------------------


def matrix_axes(weight: Tensor) -> tuple[int, ...]:
    """Axes in the order of memory, the first one staying first.

    The order of a matrix's columns changes neither W Wᵀ nor, once it is changed back, W Wᵀ W: so a channels-last
    kernel need not be copied.
    """
    if weight.is_contiguous():
        return tuple(range(weight.ndim))
    return (0, *sorted(range(1, weight.ndim), key=weight.stride, reverse=True))


def as_matrices(weight: Tensor, blocks: int, axes: tuple[int, ...]) -> Tensor:
    """(n, m), or (blocks, n, m) when axis 0 holds several matrices one after the other; a view where possible."""
    rows = weight.shape[0] // blocks
    shape = (rows, -1) if blocks == 1 else (blocks, rows, weight.numel() // weight.shape[0])
    return weight.permute(axes).reshape(shape)


def add_correction_(
    target: Tensor,
    weight: Tensor,
    *,
    blocks: int,
    amplitude: Amplitude,
    mode: str,
    alpha: float | Tensor,
    shrink: float | Tensor,
    clip_at: float | Tensor | None = None,
) -> None:
    """Add alpha · Δ(shrink · weight) / shrink to the target, by the matrix product itself where possible.

    Args:
        clip_at: the strength for which ``clipped_`` weakens each matrix's correction; None leaves all as they are.
    """
    axes = matrix_axes(weight)
    matrices = lengthened(as_matrices(weight, blocks, axes))
    factors = factor(matrices, amplitude, mode, shrink)
    if clip_at is not None:
        clipped_(factors, mode, clip_at)
    if isinstance(alpha, Tensor):  # a product takes numbers only, and asking a device for its number would wait for it
        factors, alpha = factors.mul_(alpha), 1.0
    in_place = target.stride() == weight.stride() and weight.permute(axes).is_contiguous()
    if target is not weight and in_place and target.dtype == matrices.dtype:
        _add_product_(as_matrices(target, blocks, axes), factors, matrices, mode, alpha)
    else:
        ordered = target.permute(axes)
        ordered.add_(product(factors, matrices, mode).view(ordered.shape), alpha=alpha)


def add_corrections_(
    targets: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    blocks: Sequence[int],
    amplitude: Amplitude,
    mode: str,
    alpha: float | Tensor,
    shrink: float | Tensor,
    clip_at: float | Tensor | None = None,
) -> None:
    """The same for weights whose matrices are of one shape, dtype and device, in one batch: few launches."""
    axes = [matrix_axes(weight) for weight in weights]
    stack = torch.cat(
        [as_matrices(weight, count, order).reshape(count, -1, weight.numel() // weight.shape[0])
         for weight, count, order in zip(weights, blocks, axes, strict=True)]
    )  # fmt: skip
    stack = lengthened(stack)  # (all blocks, n, m)
    factors = factor(stack, amplitude, mode, shrink)
    if clip_at is not None:
        clipped_(factors, mode, clip_at)
    if isinstance(alpha, Tensor):
        factors, alpha = factors.mul_(alpha), 1.0
    changes = product(factors, stack, mode).split(list(blocks))
    ordered = [target.permute(order) for target, order in zip(targets, axes, strict=True)]
    shaped = [change.reshape(target.shape) for change, target in zip(changes, ordered, strict=True)]
    torch._foreach_add_(ordered, shaped, alpha=alpha)


def _add_product_(target: Tensor, factors: Tensor, matrices: Tensor, mode: str, alpha: float) -> None:
    """Add alpha × ``product`` to the target, with no tensor in between."""
    if not is_full(mode):
        target.addcmul_(factors, matrices, value=alpha)
        return
    pair = (factors, matrices) if is_by_rows(mode, *matrices.shape[-2:]) else (matrices, factors)
    (target.addmm_ if target.ndim == 2 else target.baddbmm_)(*pair, alpha=alpha)
