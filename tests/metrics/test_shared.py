import gc
import weakref

import pytest
import torch

from metrics._shared import first, shared


@pytest.fixture
def counted():
    """A shared function of two tensors and a number, and the list of its calls."""
    calls = []

    @shared
    def weighted_sum(left, right, weight=1):
        calls.append(weight)
        return (left + weight * right).sum()

    return weighted_sum, calls


def test_the_same_tensors_are_worked_on_once(counted):
    function, calls = counted
    left, right = torch.arange(3.0), torch.ones(3)
    assert function(left, right).item() == function(left, right).item() == 6
    assert len(calls) == 1


def test_a_default_is_the_same_argument_as_its_value_by_name(counted):
    function, calls = counted
    left, right = torch.arange(3.0), torch.ones(3)
    function(left, right)
    function(right=right, weight=1, left=left)
    assert len(calls) == 1


def test_other_settings_and_exchanged_tensors_are_other_work(counted):
    function, _ = counted
    left, right = torch.arange(3.0), torch.ones(3)
    assert [function(left, right), function(left, right, 2), function(right, left, 2)] == [6, 9, 9]
    assert [function(left, right), function(right, left), function(right, left, 3)] == [6, 6, 12]


def test_an_equal_tensor_is_another_tensor(counted):
    function, calls = counted
    left, right = torch.arange(3.0), torch.ones(3)
    function(left, right)
    function(left.clone(), right)
    assert len(calls) == 2


@pytest.mark.parametrize("changed", ["left", "right"])
@pytest.mark.parametrize("through_a_view", [False, True])
def test_a_change_in_place_is_seen(counted, changed, through_a_view):
    function, _ = counted
    tensors = {"left": torch.arange(3.0), "right": torch.ones(3)}
    function(**tensors)
    if through_a_view:
        tensors[changed][1:2].add_(10)
    else:
        tensors[changed][1] += 10
    assert function(**tensors) == 16


@pytest.mark.parametrize("dropped", [0, 1])
def test_nothing_is_kept_alive(dropped):
    class Result:
        pass

    make = shared(lambda left, right: Result())
    tensors = [torch.zeros(3), torch.ones(3)]
    result = weakref.ref(make(*tensors))
    tensor = weakref.ref(tensors[dropped])
    assert result() is not None
    del tensors[dropped]
    gc.collect()
    assert tensor() is None
    assert result() is None


def test_results_for_tensors_before_a_change_are_dropped():
    class Result:
        pass

    make = shared(lambda tensor: Result())
    tensor = torch.zeros(3)
    before = weakref.ref(make(tensor))
    tensor += 1
    make(tensor)
    gc.collect()
    assert before() is None


def test_many_tensors_that_come_and_go_never_get_anothers_answer():
    total = shared(lambda tensor: tensor.sum().item())
    for number in range(200):  # memory and identities are used again
        assert total(torch.full((5,), float(number))) == 5 * number


def test_a_tensor_that_counts_no_changes_is_not_remembered():
    total = shared(lambda tensor: tensor.sum().item())
    with torch.inference_mode():
        tensor = torch.ones(3)
        assert total(tensor) == 3
        tensor += 1
        assert total(tensor) == 6


def test_a_result_holds_no_graph():
    assert not shared(lambda tensor: 2 * tensor)(torch.ones(2, requires_grad=True)).requires_grad


def test_all_rows_are_the_tensor_itself():
    rows = torch.arange(4)
    assert first(rows, 4) is rows
    assert first(rows, 3).tolist() == [0, 1, 2]
