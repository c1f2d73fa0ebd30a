import pytest
import torch

from bench.contract import ShapeError
from metrics.panel_top1 import panel_top1

FOR = {label: torch.eye(3)[label] for label in range(3)}  # the logits of a network that sees that class


def test_each_image_has_the_share_of_the_networks_that_see_its_class():
    logits = torch.stack(
        [
            torch.stack([FOR[0], FOR[0], FOR[0], FOR[0]]),
            torch.stack([FOR[0], FOR[1], FOR[2], FOR[1]]),
            torch.stack([FOR[2], FOR[2], FOR[2], FOR[0]]),
        ]
    )
    assert panel_top1(panel_logits=logits, labels=torch.tensor([0, 1, 1])).tolist() == [1, 0.5, 0]


def test_a_panel_of_one_decides_alone():
    logits = torch.stack([FOR[2], FOR[1]])[:, None]
    assert panel_top1(panel_logits=logits, labels=torch.tensor([2, 2])).tolist() == [1, 0]


def test_a_class_that_the_panel_does_not_know_is_refused():
    with pytest.raises(ShapeError, match="the classes of panel_logits"):
        panel_top1(panel_logits=torch.zeros(1, 2, 3), labels=torch.tensor([3]))


def test_logits_without_an_axis_of_networks_are_refused():
    with pytest.raises(ShapeError, match=r"panel_logits should be \(N, J, K\), got \(4, 3\)"):
        panel_top1(panel_logits=torch.zeros(4, 3), labels=torch.zeros(4, dtype=torch.int64))
