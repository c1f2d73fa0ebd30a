"""Static pruning, feature boosting and the dense control: what they keep, and that they are trained alike."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import ops
from bench.contract import Recipe, SetupError
from bench.gating import FixedGate, gated_layers, skipping, watched
from bench.zoo.weights import load_weights, save_weights
from methods.training import feature_boosting
from methods.training.decoupling import Decoupling
from methods.training.feature_boosting import FeatureBoosting
from methods.training.fine_tuning import FineTuning
from methods.training.magnitude_pruning import MagnitudePruning
from tests.methods.test_decoupling import network, save_each_step, task  # noqa: F401
from tests.methods.test_training import Memory, Stopped, assert_same, weights

RIVALS = [MagnitudePruning(step_size=0.02), FeatureBoosting(step_size=0.02)]
ALL = [*RIVALS, FineTuning(step_size=0.02)]


@pytest.mark.parametrize("method", [MagnitudePruning, FeatureBoosting])
@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, math.nan])
def test_a_share_outside_0_and_1_is_refused(method, keep):
    with pytest.raises(SetupError, match=r"keep should be in \(0, 1\]"):
        method(keep=keep)


def test_a_negative_lasso_is_refused():
    with pytest.raises(SetupError, match="lasso should not be negative"):
        FeatureBoosting(lasso=-1e-9)


@pytest.mark.parametrize("method", RIVALS)
def test_a_network_that_cannot_be_gated_is_skipped_with_the_reason(task, method):  # noqa: F811
    assert method.why_not(task) is None
    flat = task.replace(network=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert "two convolutions or more" in method.why_not(flat)


# ---- static pruning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.01, 0.25, 0.7, 1.0])
def test_the_filters_with_the_largest_l1_norm_stay(task, keep):  # noqa: F811
    kernels = {
        path: module.weight.detach().clone()
        for path, module in task.network.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    trained = MagnitudePruning(keep=keep).train(task)
    layers = gated_layers(trained)
    assert len(layers) == 4
    for path, layer in layers.items():
        norms = [sum(abs(w) for w in kernel.flatten().tolist()) for kernel in kernels[path]]
        kept = max(1, round(keep * len(norms)))
        smallest = sorted(norms)[-kept]
        assert layer.gate.bits.tolist() == [norm >= smallest for norm in norms]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_mask_never_changes(task, ema):  # noqa: F811
    start = MagnitudePruning(keep=0.5).rebuild(copy.deepcopy(task.network), 10)
    trained = MagnitudePruning(keep=0.5).train(task.replace(recipe=Recipe(epochs=2, batch_size=40, ema=ema)))
    for layer, before in zip(gated_layers(trained).values(), gated_layers(start).values(), strict=True):
        assert isinstance(layer.gate, FixedGate)
        assert layer.gate.bits.dtype == torch.bool
        assert torch.equal(layer.gate.bits, before.gate.bits)
        off = ~layer.gate.bits
        with torch.no_grad(), watched(trained) as seen:
            trained(task.images[:9].float() / 255)
        assert off.any()
        assert all((shown.gates.bool() == shown.gates[:1].bool()).all() for shown in seen.values())


def test_without_decay_filters_that_are_off_stay_where_they_are(task):  # noqa: F811
    method = MagnitudePruning(keep=0.5, weight_decay=0.0)
    before = {name: tensor.clone() for name, tensor in task.network.state_dict().items()}
    trained = method.train(task)
    for path, layer in gated_layers(trained).items():
        moved = (layer.conv.weight - before[f"{path}.weight"]).abs().sum((1, 2, 3)) > 0
        assert torch.equal(moved, layer.gate.bits)


# ---- feature boosting and suppression ------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.05, 0.34, 0.7, 1.0])
def test_so_many_filters_win_and_no_more(task, keep):  # noqa: F811
    trained = FeatureBoosting(keep=keep, step_size=0.02).train(task)
    with torch.no_grad(), watched(trained) as seen:
        trained(task.images[:20].float() / 255)
    for shown in seen.values():
        filters = shown.gates.shape[1]
        wanted = math.ceil(round(keep * filters, 6))
        on = (shown.gates > 0).sum(1)
        assert (on <= wanted).all() and on.max() == wanted  # fewer only where saliencies end at 0


def test_the_lasso_is_the_mean_over_images_of_the_sum_of_saliencies(task, monkeypatch):  # noqa: F811
    asked = []

    def fit(task, optimiser, *, penalty):
        gates = []
        for layer in gated_layers(task.network).values():
            values = layer.gate.values
            layer.gate.values = lambda scores, values=values: gates.append(values(scores)) or gates[-1]
        task.network(task.images[:7].float() / 255)
        asked.append((penalty(task.network, 0.0).item(), sum(part.sum().item() for part in gates) / 7))
        return task.network

    monkeypatch.setattr(feature_boosting, "fit", fit)
    FeatureBoosting(lasso=0.5).train(task)
    assert asked[0][0] == pytest.approx(0.5 * asked[0][1], rel=1e-5)
    assert asked[0][1] > 0


# ---- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize(("stop", "ema"), [(2, 0.0), (4, 0.9)])
def test_an_interrupted_run_goes_on_bit_for_bit(task, method, stop, ema, save_each_step):  # noqa: F811
    task = task.replace(recipe=Recipe(epochs=2, batch_size=40, ema=ema))
    whole = weights(method.train(task.replace(network=network())))
    memory = Memory(stop_after=stop)
    with pytest.raises(Stopped):
        method.train(task.replace(network=network(), checkpoint=memory))
    memory.stop_after = math.inf
    torch.rand(stop)
    assert_same(weights(method.train(task.replace(network=network(), checkpoint=memory))), whole)


@pytest.mark.parametrize("method", RIVALS)
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_rebuilt_network_with_its_weights_is_the_trained_one(task, method, ema, tmp_path):  # noqa: F811
    trained = method.train(task.replace(recipe=Recipe(epochs=1, batch_size=40, ema=ema)))
    assert not trained.training
    assert all(layer.watch is None for layer in gated_layers(trained).values())
    save_weights(trained, tmp_path / "weights.safetensors")
    torch.manual_seed(5)
    rebuilt = method.rebuild(network(), 10)
    load_weights(rebuilt, tmp_path / "weights.safetensors")
    images = task.images[:20].float() / 255
    with torch.no_grad():
        logits = trained(images)
        assert torch.equal(rebuilt.eval()(images), logits)
        with skipping(rebuilt):
            assert torch.allclose(rebuilt(images), logits, atol=1e-4)


def test_the_dense_control_takes_the_same_step_as_all_gates_on(task):  # noqa: F811
    """Static pruning that prunes nothing is fine-tuning."""
    dense = FineTuning(step_size=0.05).train(task.replace(network=network()))
    pruned = MagnitudePruning(step_size=0.05, keep=1.0).train(task.replace(network=network()))
    images = task.images[:20].float() / 255
    with torch.no_grad():
        assert torch.allclose(dense(images), pruned(images), atol=1e-4)


def test_a_step_of_the_dense_control_is_the_one_by_hand(task):  # noqa: F811
    task = task.replace(recipe=Recipe(epochs=1, batch_size=len(task.images), warmup_epochs=0.0))
    start = copy.deepcopy(task.network).train()
    order = ops.places_of_step(task, 0)
    F.cross_entropy(start(task.images[order].float() / 255), task.labels[order]).backward()
    trained = dict(FineTuning(step_size=0.1, weight_decay=0.01).train(task).named_parameters())
    for name, parameter in start.named_parameters():
        expected = parameter - 0.1 * (parameter.grad + 0.01 * parameter)  # biases and norms decay too
        assert torch.allclose(trained[name], expected, atol=1e-5), name


def test_all_methods_gate_the_same_layers(task):  # noqa: F811
    found = [list(gated_layers(method.rebuild(network(), 10))) for method in (*RIVALS, Decoupling())]
    assert found[0] == found[1] == found[2] and len(found[0]) == 4
