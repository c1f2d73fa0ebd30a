"""Work that several metrics need on the same tensors is done once."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def shared(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Remember what a pure function of tensors gave for as long as the tensors live.

    Two metrics that are handed the same tensor objects then share the work, and each stays a pure function. Tensors are
    known by identity and by torch's count of their changes in place: a changed tensor is a new one. (What the count
    misses, a change through ``tensor.data`` or through a NumPy array over the same memory, is missed here too.)

    Args:
        function: of one tensor or more, other arguments hashable. No gradient flows through it. What it returns is
            handed out again, so nobody may change it, and must not hold an argument, which could then never be freed.
    """
    signature = inspect.signature(function)
    memory = WeakTensorKeyDictionary()  # tensor → tensor → … → (versions, {other arguments: answer})

    @functools.wraps(function)
    def remembering(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        tensors = [value for value in bound.arguments.values() if isinstance(value, Tensor)]
        if any(tensor.is_inference() for tensor in tensors):  # such tensors do not count their changes
            return function(*args, **kwargs)
        versions = tuple(tensor._version for tensor in tensors)
        others = tuple(value for value in bound.arguments.values() if not isinstance(value, Tensor))
        place = _descend(memory, tensors)
        if place.get("versions") != versions:
            place.update(versions=versions, answers={})
        if others not in place["answers"]:
            with torch.no_grad():
                place["answers"][others] = function(*args, **kwargs)
        answer: Answer = place["answers"][others]
        return answer

    return remembering


def _descend(memory: WeakTensorKeyDictionary, tensors: list[Tensor]) -> dict[str, Any]:
    """The place that belongs to these tensors in this order; it is gone as soon as one of them is."""
    *path, last = tensors
    for tensor in path:
        memory = memory.setdefault(tensor, WeakTensorKeyDictionary())
    place: dict[str, Any] = memory.setdefault(last, {})
    return place


def first(tensor: Tensor, count: int) -> Tensor:
    """Its first rows; the tensor itself when those are all, so that work on it is still shared."""
    return tensor if len(tensor) <= count else tensor[:count]
