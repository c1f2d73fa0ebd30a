"""What tests of refusals watch."""

from collections.abc import Iterator

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook


@pytest.fixture
def optimiser_steps() -> Iterator[list[int]]:
    """One entry for each step that any optimiser begins."""
    taken: list[int] = []
    hook = register_optimizer_step_pre_hook(lambda *_: taken.append(1))
    yield taken
    hook.remove()
