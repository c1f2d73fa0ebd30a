"""The gradient, if each rectifier let only its positive part back through."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.contract import AttributionTask, method
from methods.attribution import _gradient

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)
RECTIFYING = ("relu", "relu_", "relu6", "hardtanh", "leaky_relu", "leaky_relu_")  # what they call, or a network itself


@method(
    source="Springenberg et al. 2015, section 3.4, arXiv:1412.6806",
    differs="a leaky ReLU also stops negative gradients, and keeps its slope for the others",
)
@dataclass(frozen=True, kw_only=True)
class GuidedBackpropagation:
    """Largest |·| over the channels of each pixel of ∂ s_y / ∂x with guided rectifiers. Nothing to set."""

    def why_not(self, task: AttributionTask) -> str | None:
        """It needs one gradient, through ReLUs and leaky ReLUs: the rule is for no other activation."""
        other = next((type(module).__name__ for module in task.model.network.modules() if _is_smooth(module)), None)
        if other:
            return f"has a rule for rectifiers only, the network has {other}"
        return _gradient.too_dear(task, passes=2)

    def explain(self, task: AttributionTask) -> Tensor:
        """Return (B, H, W) float32 maps ≥ 0; costs 2 passes an image."""
        with _Guided():
            return _gradient.label_gradient(task, task.images).abs().amax(1)


class _Guided(TorchFunctionMode):
    """While it is active, what comes back to a rectifier loses its negative part before the rectifier's own slope.

    It watches calls, not modules: networks call relu as a function too, and nothing is left on the network.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in RECTIFYING and isinstance(out, Tensor) and out.requires_grad:
            out.register_hook(lambda gradient: gradient.clamp(min=0))
        return out


def _is_smooth(module: nn.Module) -> bool:
    """Whether the module is one of torch's or timm's activations that has no guided rule."""
    file = type(module).__module__.rpartition(".")[2]
    return file.startswith("activation") and not isinstance(module, (*RECTIFIERS, nn.Softmax))
