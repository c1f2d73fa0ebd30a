"""Decoupling: its losses on the batch's labels, its log, going on after an interruption, and what it learns."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import ops
from bench.contract import Recipe, SetupError, TrainingTask
from bench.gating import gated_layers, paths_of, skipping, watched
from bench.gating.statistics import information
from bench.ops import places_of_step
from bench.zoo.architectures import Normalised, small_resnet
from bench.zoo.classifier import Classifier
from bench.zoo.weights import load_weights, save_weights
from methods.training import decoupling
from methods.training.decoupling import Decoupling
from tests.methods.test_training import Memory, Stopped, assert_same, weights

SMALL = Decoupling(step_size=0.02, sparsity=0.01, target_rate=0.6)


def network(channels=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convs = small_resnet((channels, 8, 8), 10, widths=(6, 8), blocks=1, projection=False)
        return Normalised(convs, [0.5] * channels, [0.5] * channels)


@pytest.fixture
def task(digits):
    images, labels = digits
    return TrainingTask(
        network=network(),
        images=(255 * images[:150]).to(torch.uint8),
        labels=labels[:150],
        num_classes=10,
        recipe=Recipe(epochs=2, batch_size=40),
        seed=0,
        device=torch.device("cpu"),
    )


@pytest.fixture
def save_each_step(monkeypatch):
    monkeypatch.setattr(ops, "SAVE_EVERY_SECONDS", -1.0)


# ---- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"target_rate": 1.01}, r"target_rate should be in \[0, 1\], got 1.01"),
        ({"target_rate": -0.1}, r"target_rate should be in \[0, 1\], got -0.1"),
        ({"target_rate": math.nan}, "target_rate"),
        ({"information": -1e-9}, "information should not be negative"),
        ({"alignment": -1}, "alignment should not be negative"),
        ({"sparsity": math.nan}, "sparsity should not be negative"),
        ({"reduction": 0.99}, "reduction should be at least 1"),
        ({"estimator": "sign"}, "no estimator named 'sign'"),
        ({"mix": "batch"}, "no mix named 'batch'"),
        ({"direction": "both"}, "no direction 'both'"),
        ({"mean": "channels"}, "no mean 'channels'"),
    ],
)
def test_settings_without_a_meaning_are_refused_before_training(wrong, text):
    with pytest.raises(SetupError, match=text):
        Decoupling(**wrong)


@pytest.mark.parametrize("edge", [{"target_rate": 0}, {"target_rate": 1}, {"sparsity": 0}, {"reduction": 1}])
def test_settings_at_the_edge_are_allowed(edge):
    Decoupling(**edge)


def test_no_rate_and_no_weight_is_no_pressure_and_trains(task):
    trained = Decoupling(target_rate=0.0, sparsity=0.0).train(task)
    assert gated_layers(trained)


def test_a_network_that_cannot_be_gated_is_skipped_with_the_reason_and_stays(task):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert "two convolutions or more" in SMALL.why_not(task.replace(network=flat))
    before = str(task.network)
    assert SMALL.why_not(task) is None
    assert str(task.network) == before


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_outside_the_classes_stops_the_training(task, label):
    labels = task.labels.clone()
    labels[:] = label
    with pytest.raises((IndexError, SetupError)):
        SMALL.train(task.replace(labels=labels))


# ---- one step ------------------------------------------------------------------------------------------------------


def one_step(task, method, monkeypatch):
    """Arguments of the information loss of each layer in the first step."""
    asked = []
    real = decoupling.information_loss

    def noted(gates, head, labels):
        asked.append((gates.detach().clone(), head.detach().clone(), labels))
        return real(gates, head, labels)

    monkeypatch.setattr(decoupling, "information_loss", noted)
    return asked, method.train(task)


def test_labels_are_those_of_the_batch_in_every_step(task, monkeypatch):
    seen = []
    model = network()
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()) if module.training else None)
    asked, _ = one_step(task.replace(network=model), SMALL, monkeypatch)
    pictures = task.images.float() / 255
    steps = 2 * (150 // 40)
    assert len(seen) == steps and len(asked) == 4 * steps
    for step, batch in enumerate(seen):
        places = [int((pictures - image).abs().sum((1, 2, 3)).argmin()) for image in batch]
        assert places == places_of_step(task, step).tolist()
        for _, _, labels in asked[4 * step : 4 * step + 4]:
            assert labels.tolist() == task.labels[places].tolist()


def test_the_penalty_is_the_weighted_sum_by_hand(task, monkeypatch):
    """All three losses of the first batch, written out as loops over layers."""
    settings = Decoupling(information=0.3, alignment=0.7, sparsity=0.02, target_rate=0.4, step_size=0.0)
    model, heads, totals = network(), {}, []

    def fit(task, optimiser, *, penalty):
        torch.manual_seed(3)
        task.network.train()
        chosen = places_of_step(task, 0)
        task.network(task.images[chosen].float() / 255)
        totals.append(penalty(task.network, 0.0).item())
        layers = gated_layers(task.network)
        heads.update({name: layer.class_head.weight.detach() for name, layer in layers.items()})
        with watched(task.network) as seen, torch.no_grad():
            torch.manual_seed(3)
            task.network(task.images[chosen].float() / 255)
        by_hand = 0.0
        for name, shown in seen.items():
            gates = shown.gates
            logits = gates @ heads[name].T
            by_hand += 0.3 * -logits.log_softmax(1)[range(40), task.labels[chosen]].mean().item()
            u, v = shown.pooled.softmax(1), gates.softmax(1)
            by_hand += 0.7 * (u * (u / v).log()).sum().item() / gates.numel()
            by_hand += 0.02 * abs(gates.sum().item() / 40 - 0.4 * gates.shape[1])
        totals.append(by_hand)
        return task.network

    monkeypatch.setattr(decoupling, "fit", fit)
    settings.train(task.replace(network=model))
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)


def test_the_first_information_loss_is_about_ln_k_for_each_layer(task, monkeypatch):
    asked, _ = one_step(task, SMALL, monkeypatch)
    losses = [F.cross_entropy(gates @ head.T, labels).item() for gates, head, labels in asked[:4]]
    # gates are alike for all classes, so a head does no better than chance; it starts with logits of its own
    assert all(math.log(10) - 0.15 < loss < 2 * math.log(10) for loss in losses)


# ---- the run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_heads_are_for_the_training_alone(task, ema, tmp_path):
    """Also where the result is a running mean, which is a copy."""
    lines = []
    recipe = Recipe(epochs=2, batch_size=40, ema=ema)
    trained = SMALL.train(task.replace(recipe=recipe, note=lines.append))
    assert not trained.training
    assert not [name for name in trained.state_dict() if "head" in name]
    assert all(layer.watch is None for layer in gated_layers(trained).values())
    save_weights(trained, tmp_path / "weights.safetensors")
    rebuilt = SMALL.rebuild(network(), 10)
    load_weights(rebuilt, tmp_path / "weights.safetensors")
    images = task.images[:20].float() / 255
    with torch.no_grad():
        logits = trained(images)
        assert torch.equal(rebuilt.eval()(images), logits)
        with skipping(rebuilt):
            assert torch.allclose(rebuilt(images), logits, atol=1e-4)


def test_weights_of_a_dense_network_do_not_fill_a_gated_one(tmp_path):
    path = tmp_path / "dense.safetensors"
    save_weights(network(), path)
    with pytest.raises(SetupError, match=r"inner\.layer1\.0\.bn1\.bias"):
        load_weights(SMALL.rebuild(network(), 10), path)


def test_a_gated_file_without_a_weight_of_the_backbone_is_refused(tmp_path):
    gated = SMALL.rebuild(network(), 10)
    del gated.inner.conv1  # its stem
    save_weights(gated, tmp_path / "part.safetensors")
    with pytest.raises(SetupError, match=r"has no inner\.conv1\.weight"):
        load_weights(SMALL.rebuild(network(), 10), tmp_path / "part.safetensors")


def test_the_log_has_each_epochs_losses_and_each_layers_rates(task):
    lines = []
    SMALL.train(task.replace(note=lines.append))
    epochs = [line for line in lines if line.startswith("epoch")]
    losses = [line for line in lines if line.startswith("information")]
    layers = [line for line in lines if line.startswith("  inner.layer")]
    assert (len(epochs), len(losses), len(layers)) == (2, 2, 2 * 4)
    assert all("alignment" in line and "sparsity" in line for line in losses)
    for line in layers:
        on = float(line.split("on ")[1].split(",")[0])
        assert 0 <= on <= 1 and "constant" in line and "|z|" in line


@pytest.mark.parametrize(
    "method",
    [SMALL, Decoupling(step_size=0.02, estimator="hard_concrete", mix="channel", first_score=2.0)],
)
@pytest.mark.parametrize(("stop", "ema"), [(1, 0.0), (3, 0.9), (4, 0.0)])
def test_an_interrupted_run_goes_on_bit_for_bit(task, method, stop, ema, save_each_step):
    task = task.replace(recipe=Recipe(epochs=2, batch_size=40, ema=ema))
    whole = weights(method.train(task.replace(network=network())))
    memory = Memory(stop_after=stop)
    with pytest.raises(Stopped):
        method.train(task.replace(network=network(), checkpoint=memory))
    memory.stop_after = math.inf
    torch.rand(stop)  # the new process has another global generator
    assert_same(weights(method.train(task.replace(network=network(), checkpoint=memory))), whole)


def test_seeds_decide_the_gates_and_global_generators_are_left_alone(task):
    before = torch.get_rng_state()
    one, same, other = (weights(SMALL.train(task.replace(network=network(), seed=seed))) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(one, same)
    name = "inner.layer1.0.conv1.gate.expand.weight"
    assert not torch.equal(one[name], other[name])


def test_all_parameters_are_trained_together(task):
    start = SMALL.rebuild(network(), 10)
    before, after = weights(start), weights(SMALL.train(task))
    trained = {name for name, _ in start.named_parameters()}
    assert not [name for name in trained if ".gate." not in name and torch.equal(before[name], after[name])]
    assert any("gate.reduce.weight" in name and after[name].any() for name in trained)


def test_a_budget_takes_the_place_of_the_rate(task):
    """One that asks for little switches more off than one that asks for nothing to be off."""
    shares = []
    for budget in (0.3, 1.0):
        method = Decoupling(step_size=0.05, budget=budget, sparsity=5.0, first_score=1.0)
        trained = method.train(task.replace(network=network(), recipe=Recipe(epochs=6, batch_size=40)))
        shares.append(torch.cat(list(bits_of(trained, task.images.float() / 255).values()), 1).float().mean().item())
    assert shares[0] < shares[1] - 0.1


def bits_of(trained, images):
    with torch.no_grad(), watched(trained) as seen:
        trained(images)
    return {name: shown.gates == 1 for name, shown in seen.items()}


# ---- what it learns ------------------------------------------------------------------------------------------------


SIDE, CLASSES = 12, 3


def two_factors(count):
    """(images, shapes): a bar that lies, a bar that stands, or a square, each of any colour and at any place."""
    draw = torch.Generator().manual_seed(0)
    shapes = torch.arange(count) % CLASSES
    size = torch.tensor([[2, 8], [8, 2], [4, 4]])[shapes]  # equally many pixels
    first = (torch.rand(count, 2, generator=draw) * (SIDE - size + 1)).long()
    colour = 0.3 + 0.7 * torch.rand(count, 3, 1, 1, generator=draw)
    place = torch.arange(SIDE)
    rows, columns = ((place >= first[:, [axis]]) & (place < (first + size)[:, [axis]]) for axis in (0, 1))
    return colour * (rows[:, None, :, None] & columns[:, None, None, :]), shapes


def information_of_last_layer(weight):
    """Bits about the shape in the last layer's gates after three epochs, on pictures that were not trained on."""
    images, shapes = two_factors(1200)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = (3, SIDE, SIDE)
        inner = small_resnet(shape, CLASSES, widths=(8, 16), blocks=1, projection=False)
    task = TrainingTask(
        network=Normalised(inner, [0.5] * 3, [0.25] * 3),
        images=(255 * images[:800]).to(torch.uint8),
        labels=shapes[:800],
        num_classes=CLASSES,
        recipe=Recipe(epochs=3, batch_size=16),
        seed=0,
        device=torch.device("cpu"),
    )
    trained = Decoupling(step_size=0.1, information=weight, sparsity=0.001, target_rate=0.6).train(task)
    model = Classifier(
        trained, name="factors", image_shape=shape, num_classes=CLASSES, mean=[0.0] * 3, std=[1.0] * 3, taps={}
    )
    last = list(paths_of(model, images).bits.values())[-1]
    return information(last[:800], shapes[:800], last[800:], shapes[800:], CLASSES)


def test_bits_of_the_last_layer_tell_the_class_and_less_so_without_the_loss_for_it():
    told, untold = (information_of_last_layer(weight) for weight in (0.5, 0.0))
    assert told > 0.5
    assert untold < told - 0.1
