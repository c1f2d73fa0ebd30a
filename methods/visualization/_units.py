"""Pictures in units of about one standard deviation of natural pictures, whatever a network's own units are."""

import torch
from torch import Tensor

from bench.back_projection import denormalised
from bench.contract import Classifier

WIDEST = 10.0  # from black to white, in a network's own units, if it divides by a standard deviation
USUAL = 4.4  # the same of networks that divide by ImageNet's, 1 / 0.226


def unit(model: Classifier) -> Tensor:
    """(1, C, 1, 1) what one unit of ours is in the network's own: 1 if it divides pixels by a deviation.

    Caffe's networks take pixels from 0 to 255 less a mean: steps of 1 would not move them [our choice].
    """
    black, white = ends(model)
    wide = white - black
    return torch.where(wide > WIDEST, wide / USUAL, 1.0)


def ends(model: Classifier) -> tuple[Tensor, Tensor]:
    """(1, C, 1, 1) black and white in the network's own units."""
    device = next(model.network.parameters()).device
    black, white = (torch.full((1, *model.image_shape), value, device=device) for value in (0.0, 1.0))
    return model.normalise(black)[:, :, :1, :1], model.normalise(white)[:, :, :1, :1]


def intensities(model: Classifier, pixels: Tensor) -> Tensor:
    """(B, C, H, W) pixels in our units → intensities, which may lie outside [0, 1]."""
    return denormalised(model, pixels * unit(model))


def limits(model: Classifier) -> tuple[Tensor, Tensor]:
    """(1, C, 1, 1) black and white in our units."""
    black, white = ends(model)
    return black / unit(model), white / unit(model)
