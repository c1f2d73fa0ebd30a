"""Pictures without their brightness, and at the gain and offset that bring them nearest to others."""

from torch import Tensor


def centred(images: Tensor) -> Tensor:
    """(N, P) float64: each (C, H, W) image less its mean over all channels; exactly 0 for one without contrast."""
    flat = images.double().flatten(1)
    constant = (images == images[:, :1, :1, :1]).flatten(1).all(1, keepdim=True)
    return (flat - flat.mean(1, keepdim=True)).masked_fill(constant, 0.0)  # the mean of equal numbers is rounded


def fitted(generated: Tensor, real: Tensor) -> Tensor:
    """(N, C, H, W) float64: gain · generated + offset, nearest to ``real`` by least squares, then clipped to [0, 1].

    One gain and one offset an image, over all of its channels. An image without contrast has gain 0: it becomes the
    mean of its partner. As ``real`` lies in [0, 1], clipping brings the fit nearer still.
    """
    ours, theirs = centred(generated), centred(real)
    energy = ours.square().sum(1, keepdim=True)
    gain = (ours * theirs).sum(1, keepdim=True) / energy.masked_fill(energy == 0, 1.0)
    mean = real.double().flatten(1).mean(1, keepdim=True)
    return (gain * ours + mean).clamp(0.0, 1.0).view(generated.shape)
