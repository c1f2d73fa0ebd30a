"""Bort on timm's LAMB: apart from the other optimizers, since importing timm takes seconds."""

from collections.abc import Mapping
from typing import Any

from timm.optim.lamb import Lamb
from torch import Tensor

from methods.training._bort import Decoupled


class BortLamb(Decoupled, Lamb):
    """LAMB with the decoupled rule: decay and correction outside the trust ratio [our choice].

    The paper has a row with LAMB, but no rule for it was found. In constrained groups the trust ratio is kept without
    a weight decay too (``always_adapt``): timm would otherwise take them for biases and make LAMB into Adam; and
    their decay is decoupled. Both only where a group does not say otherwise.
    """

    stock = Lamb

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see ``Constrained``."""
        if param_group.get("gamma"):
            param_group = {"always_adapt": True, "decoupled_decay": True, **param_group}
        super().add_param_group(param_group)

    def _shrink(self, group: Mapping[str, Any]) -> float | Tensor:
        if not group["decoupled_decay"]:  # timm adds the decay to the update, under the trust ratio
            return 1.0
        rate: float | Tensor = group["lr"]
        if group["corrected_weight_decay"]:
            rate = rate**2 / group["max_lr_snapshot"]
        return 1.0 - rate * group["weight_decay"]
