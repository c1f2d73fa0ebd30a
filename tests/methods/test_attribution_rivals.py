"""The rival maps against closed forms, plain loops, libraries and conservation; and all of them against chance."""

import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18
from zennit.composites import EpsilonGammaBox
from zennit.torchvision import ResNetCanonizer

from bench.contract import AttributionTask, BudgetExceeded, PassCounter
from bench.execute.tracks import has_leftovers
from bench.zoo import networks
from bench.zoo.classifier import Classifier
from methods.attribution.grad_cam import GradCAM
from methods.attribution.gradient import Gradient
from methods.attribution.gradient_times_input import GradientTimesInput
from methods.attribution.guided_backpropagation import GuidedBackpropagation
from methods.attribution.integrated_gradients import IntegratedGradients
from methods.attribution.lrp import LRP
from methods.attribution.random_map import RandomMap
from methods.attribution.rise import Rise
from methods.attribution.smooth_grad import SmoothGrad
from metrics.deletion_auc import deletion_auc
from metrics.insertion_auc_zero import insertion_auc_zero
from tests.toys import toy_classifier

RIVALS = {
    "gradient_times_input": GradientTimesInput(),
    "guided_backpropagation": GuidedBackpropagation(),
    "grad_cam": GradCAM(),
    "integrated_gradients": IntegratedGradients(),
    "smooth_grad": SmoothGrad(),
    "rise": Rise(),
    "lrp": LRP(),
}
every_rival = pytest.mark.parametrize("rival", RIVALS.values(), ids=RIVALS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def task_for(model, *, count=4, budget=60, labels=None):
    images = torch.rand(count, *model.image_shape, generator=generator(1))
    labels = torch.arange(count) % model.num_classes if labels is None else labels
    return AttributionTask(model=model, places=torch.arange(count), seed=0, budget=budget, images=images, labels=labels)


def wrapped(network, shape, classes=10, taps=None):
    """The subject around a network; its input is 2 x − 1."""
    mean = [0.5] * shape[0]
    return Classifier(
        network, name="small", image_shape=shape, num_classes=classes, mean=mean, std=mean, taps=taps or {}
    )


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def logits_of(model, images, labels):
    with torch.no_grad():
        return model(images).gather(1, labels[:, None])[:, 0]


def slope(model, image, label):
    """∂ s_label / ∂ image of one (C, H, W) image, by ``backward``."""
    image = image.clone().requires_grad_()
    model(image[None])[0, label].backward()
    return image.grad


# ---- closed forms --------------------------------------------------------------------------------------------------


@pytest.fixture
def linear(linear_classifier):
    """A task of a linear network, and the (B, C, H, W) weights of the labels."""
    weights = torch.rand(4, 3, 5, 5, generator=generator()) - 0.5
    task = task_for(linear_classifier(weights))
    return task, weights[task.labels]


def test_of_a_linear_network_gradient_times_input_is_weight_times_intensity(linear):
    task, weights = linear
    torch.testing.assert_close(GradientTimesInput().explain(task), (weights * task.images).sum(1))


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_of_a_linear_network_integrated_gradients_is_weight_times_change(linear, baseline):
    task, weights = linear
    maps = IntegratedGradients(baseline=baseline).explain(task)
    torch.testing.assert_close(maps, (weights * (task.images - baseline)).sum(1), atol=1e-6, rtol=1e-5)


def test_of_a_linear_network_smooth_grad_is_the_largest_absolute_weight(linear):
    task, weights = linear
    torch.testing.assert_close(SmoothGrad().explain(task), weights.abs().amax(1), atol=1e-6, rtol=1e-5)


def test_of_a_linear_network_relevance_is_weight_times_normalised_input(linear):
    task, weights = linear
    expected = (weights / 2 * (2 * task.images - 1)).sum(1)  # weights are given by intensity
    torch.testing.assert_close(LRP().explain(task), expected, atol=1e-4, rtol=1e-3)  # ε


def test_of_a_quadratic_network_integrated_gradients_is_the_difference_of_squares():
    class Square(nn.Module):
        def forward(self, inputs):
            return inputs.square()

    head = seeded(lambda: nn.Linear(12, 4))
    task = task_for(wrapped(nn.Sequential(nn.Flatten(), Square(), head), (3, 2, 2), classes=4))
    weights = head.weight.detach()[task.labels].view(4, 3, 2, 2)
    expected = (weights * ((2 * task.images - 1) ** 2 - 1)).sum(1)  # black is −1
    torch.testing.assert_close(IntegratedGradients(steps=3).explain(task), expected, atol=1e-6, rtol=1e-5)


def test_integrated_gradients_sum_to_the_difference_of_the_logits():
    task = task_for(toy_classifier(), budget=600)
    logits, black = (logits_of(task.model, images, task.labels) for images in (task.images, 0 * task.images))
    sums = IntegratedGradients(steps=300).explain(task).sum((1, 2))
    torch.testing.assert_close(sums, logits - black, atol=0.02, rtol=0)
    assert (logits - black).abs().min() > 0.2


# ---- plain loops ---------------------------------------------------------------------------------------------------


def test_without_noise_smooth_grad_is_the_gradient(tiny_classifier):
    task = task_for(tiny_classifier)
    torch.testing.assert_close(SmoothGrad(spread=0.0).explain(task), Gradient().explain(task))


def test_smooth_grad_is_the_size_of_the_mean_gradient_around_the_image(tiny_classifier):
    task = task_for(tiny_classifier, count=2, budget=13)  # pays for 6 copies
    maps = SmoothGrad(spread=0.3).explain(task)
    noise = [task.noise(f"sample {sample}") for sample in range(6)]
    for row, (image, label) in enumerate(zip(task.images, task.labels, strict=True)):
        size = 0.3 * (image.max() - image.min())
        mean = sum(slope(task.model, image + size * one[row], label) for one in noise) / 6
        torch.testing.assert_close(maps[row], mean.abs().max(0).values, atol=1e-6, rtol=1e-5)


def bilinear(coarse, height, width):
    """(height, width) values between the centres of coarse cells, the outermost continued to the border."""
    fine = torch.zeros(height, width)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * coarse.shape[0] / height - 0.5, 0), coarse.shape[0] - 1)
            x = min(max((j + 0.5) * coarse.shape[1] / width - 0.5, 0), coarse.shape[1] - 1)
            for a in {math.floor(y), math.ceil(y)}:
                for b in {math.floor(x), math.ceil(x)}:
                    fine[i, j] += (1 - abs(y - a)) * (1 - abs(x - b)) * coarse[a, b]
    return fine


@pytest.mark.parametrize("tap", ["block1", None])
def test_grad_cam_agrees_with_its_definition(tap):
    task = task_for(toy_classifier(), count=2)
    network = task.model.network
    maps = GradCAM(tap=tap).explain(task)
    for row, label in enumerate(task.labels):
        channels = network.block1(2 * task.images[row : row + 1] - 1)
        channels = (channels if tap else network.block2(channels)).detach().requires_grad_()
        behind = network.block2(channels) if tap else channels
        network.head(network.hidden(behind))[0, label].backward()
        coarse = torch.zeros(channels.shape[2:])
        for channel, gradient in zip(channels[0].detach(), channels.grad[0], strict=True):
            coarse += gradient.sum() / gradient.numel() * channel
        expected = bilinear(coarse.clamp(min=0), 32, 32)
        torch.testing.assert_close(maps[row], expected, atol=1e-5, rtol=1e-4)
    assert maps.flatten(1).amax(1).min() > 0


class Guided(torch.autograd.Function):
    """A (leaky) ReLU with the backward rule of guided backpropagation."""

    @staticmethod
    def forward(ctx, inputs, negative_slope):
        ctx.slopes = torch.where(inputs > 0, 1.0, negative_slope)
        return inputs * ctx.slopes

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(gradient > 0, gradient, 0.0) * ctx.slopes, None


class Rectified(nn.Module):
    """Rectifies as a module, as a function and as a leaky module, by those of torch or by ``Guided``."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)
        self.hidden, self.head = nn.Linear(6 * 9, 12), nn.Linear(12, 4)
        self.relu, self.leaky, self.guided = nn.ReLU(), nn.LeakyReLU(0.3), False

    def forward(self, inputs):
        relu, leaky, function = self.relu, self.leaky, F.relu
        if self.guided:
            relu = function = lambda value: Guided.apply(value, 0.0)
            leaky = lambda value: Guided.apply(value, 0.3)
        features = F.max_pool2d(relu(self.first(inputs)), 2)
        features = features[:, :5] + function(self.second(features))[:, :5]
        return self.head(leaky(self.hidden(F.pad(features, (0, 0, 0, 0, 0, 1)).flatten(1))))


def test_guided_backpropagation_is_the_gradient_of_a_network_with_guided_rectifiers():
    network = seeded(Rectified)
    task = task_for(wrapped(network, (2, 6, 6), classes=4))
    maps = GuidedBackpropagation().explain(task)
    plain = Gradient().explain(task)
    network.guided = True
    torch.testing.assert_close(maps, Gradient().explain(task))
    assert not torch.allclose(maps, plain, rtol=0.1)


def test_rise_agrees_with_its_definition(digits_classifier, digits):
    chosen = slice(1300, 1303)
    task = task_for(digits_classifier, count=3, labels=digits[1][chosen], budget=30).replace(images=digits[0][chosen])
    maps = Rise(cells=3, share=0.4, masks=20).explain(task)
    cells = task.draws("cells", 20, 3, 3, law="uniform") < 0.4
    starts = task.draws("starts", 20, 2, law="uniform")  # in cells, of 8 / 3 pixels rounded up
    for row in range(3):
        expected = torch.zeros(8, 8)
        for mask in range(20):
            top, left = (int(3 * float(start)) for start in starts[row, mask])
            whole = bilinear(cells[row, mask].float(), 12, 12)
            cut = whole[top : top + 8, left : left + 8]
            with torch.no_grad():
                seen = task.model(task.images[row : row + 1] * cut).softmax(1)[0, task.labels[row]]
            expected += seen * cut / (20 * 0.4)
        torch.testing.assert_close(maps[row], expected, atol=1e-5, rtol=1e-4)


# ---- relevance -----------------------------------------------------------------------------------------------------


def without_bias(network):
    """The network, untrained, whose only bias besides batch norms' is taken away: none of its relevance is kept."""
    [nn.init.zeros_(module.bias) for module in network.modules() if isinstance(module, nn.Linear)]
    return network


RESIDUAL = {
    "ours": lambda: networks.network_card("resnet20").build((3, 32, 32), 10),
    "timm": lambda: timm.create_model("resnet18", num_classes=10),
    "torchvision": lambda: resnet18(num_classes=10),
}


@pytest.mark.parametrize("make", RESIDUAL.values(), ids=RESIDUAL)
@pytest.mark.parametrize("rule", ["gamma", "z_plus"])
def test_relevance_of_a_residual_network_sums_to_the_logit(make, rule):
    task = task_for(wrapped(without_bias(seeded(make)), (3, 32, 32)), count=2)
    share = LRP(rule=rule).explain(task).sum((1, 2)) / logits_of(task.model, task.images, task.labels)
    assert share.min() > 0.8 and share.max() < 1.2


def test_relevance_of_torchvisions_resnet_is_that_of_zennits_own_canonizer():
    network = seeded(resnet18)
    settle(network)
    task = task_for(wrapped(network, (3, 32, 32), classes=1000), count=2)
    maps = LRP().explain(task)
    inputs = (2 * task.images - 1).requires_grad_()
    edge = torch.ones(1, 3, 32, 32)
    rules = EpsilonGammaBox(-edge, edge, epsilon=1e-6, canonizers=[ResNetCanonizer()])
    with rules.context(network):
        logits = network(inputs)
        (expected,) = torch.autograd.grad(logits, inputs, logits * F.one_hot(task.labels, 1000))
    difference = (maps - expected.sum(1)).norm() / maps.norm()
    assert difference < 1e-2


def settle(network):
    """Batch norms that shift and scale, as after training."""
    draws = generator(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.2), (module.running_mean, -0.2)):
                tensor.data.uniform_(low, low + 0.4, generator=draws)
            module.running_var.uniform_(0.5, 1.5, generator=draws)


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet20", "vgg16_bn", "resnet18.tv_in1k"])
def test_what_relevance_runs_through_computes_what_the_subject_does(name):
    from methods.attribution.lrp import canonised

    network = networks.network_card(name).build((3, 32, 32), 10).eval()
    settle(network)
    inputs = torch.randn(2, 3, 32, 32, generator=generator())
    with torch.no_grad():
        torch.testing.assert_close(canonised(network)(inputs), network(inputs), atol=1e-4, rtol=1e-4)


def test_relevance_keeps_to_the_receptive_field_of_what_is_relevant():
    convolution = nn.Conv2d(1, 2, 3, bias=False)
    corner = nn.Linear(2 * 16, 2, bias=False)
    with torch.no_grad():
        corner.weight.zero_()[:, 0] = 1  # only the upper left of channel 0
        convolution.weight.copy_(torch.arange(1.0, 19.0).view(2, 1, 3, 3))
    network = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), corner)
    task = task_for(wrapped(network, (1, 6, 6), classes=2)).replace(images=torch.full((4, 1, 6, 6), 0.75))
    maps = LRP(rule="z_plus").explain(task)
    share = torch.arange(1.0, 10.0).view(3, 3) / 45  # equal inputs: in proportion to the weights
    expected = torch.zeros(6, 6)
    expected[:3, :3] = share * 45 * 0.5  # the logit
    torch.testing.assert_close(maps, expected.expand(4, 6, 6), atol=1e-4, rtol=1e-4)


# ---- all of them ---------------------------------------------------------------------------------------------------


def block(fan_in, fan_out):
    return nn.Sequential(nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.BatchNorm2d(fan_out), nn.ReLU())


@pytest.fixture(scope="module")
def pooling_classifier(digits):
    """Trained on 1200 digits; averages over positions at its end, which is what Grad-CAM was made for."""

    def trained():
        network = nn.Sequential(
            block(1, 16), block(16, 32), nn.MaxPool2d(2), block(32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ).append(nn.Linear(32, 10))
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(12):
            for chosen in torch.randperm(1200).split(100):
                loss = F.cross_entropy(network(2 * digits[0][chosen] - 1), digits[1][chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        return network

    return wrapped(seeded(trained), (1, 8, 8), taps={"block1": "0", "block2": "1", "block3": "3"})


@every_rival
def test_maps_of_real_digits_beat_chance(rival, pooling_classifier, digits):
    chosen = slice(1200, 1280)
    task = task_for(pooling_classifier, count=80, labels=digits[1][chosen], budget=500)
    task = task.replace(images=digits[0][chosen])
    areas = {
        name: {
            metric.__name__: metric(maps=maps, real=task.images, labels=task.labels, target=task.model).mean().item()
            for metric in (deletion_auc, insertion_auc_zero)
        }
        for name, maps in {"rival": rival.explain(task), "chance": RandomMap().explain(task)}.items()
    }
    assert areas["rival"]["deletion_auc"] < areas["chance"]["deletion_auc"] - 0.1
    assert areas["rival"]["insertion_auc_zero"] > areas["chance"]["insertion_auc_zero"] + 0.1


@every_rival
@pytest.mark.parametrize("limit", [0, 4], ids=["in the forward pass", "in the backward pass"])
def test_an_exception_leaves_nothing_behind(rival, limit):
    task = task_for(toy_classifier())
    before, plain = task.model.checksum(), Gradient().explain(task)
    task.model.passes = PassCounter(limit=limit)
    with pytest.raises(BudgetExceeded):
        rival.explain(task)
    task.model.passes = PassCounter()
    assert not has_leftovers(task.model)
    assert task.model.checksum() == before
    assert torch.equal(Gradient().explain(task), plain)


@pytest.mark.parametrize(
    ("name", "budget", "passes"),
    [
        ("gradient_times_input", 60, 2),
        ("guided_backpropagation", 60, 2),
        ("grad_cam", 60, 2),
        ("lrp", 60, 2),
        ("integrated_gradients", 60, 60),
        ("integrated_gradients", 501, 64),
        ("smooth_grad", 61, 60),
        ("smooth_grad", 501, 64),
        ("rise", 60, 60),
        ("rise", 501, 500),
    ],
)
def test_passes_an_image(name, budget, passes):
    task = task_for(toy_classifier(), count=3, budget=budget)
    RIVALS[name].explain(task)
    assert task.model.passes.total == 3 * passes


@every_rival
def test_too_small_a_budget_is_a_reason_to_skip(rival):
    needed = 49 if isinstance(rival, Rise) else 2
    model = toy_classifier()
    short = rival.why_not(task_for(model, budget=needed - 1))
    assert short == f"needs {needed} passes an image, the budget is {needed - 1}"
    assert rival.why_not(task_for(model, budget=needed)) is None


@pytest.mark.parametrize(
    ("rival", "name", "reason"),
    [
        (LRP(), "deit_pico", "has no rule for attention"),
        (LRP(), "densenet121.IMAGENET1K_V1", "has no rule for BatchNorm2d"),
        (LRP(), "seresnet50.ra2_in1k", "has no rule for mean"),
        (GuidedBackpropagation(), "deit_pico", "has a rule for rectifiers only, the network has GELU"),
        (GradCAM(), "deit_pico", "needs a tap with a convolutional map, the network has none"),
        (GradCAM(), "mlp", "needs a tap with a convolutional map, the network has none"),
        (GradCAM(tap="hidden1"), "cnn", "needs a convolutional map, the tap 'hidden1' is none"),
        (GradCAM(tap="block9"), "cnn", "needs the tap 'block9', the network has block1, block2, block3, hidden1, pen"),
    ],
)
def test_networks_that_a_method_has_no_rule_for(rival, name, reason):
    blank = networks.untrained(name, num_classes=10, image_shape=(3, 32, 32), mean=[0.5] * 3, std=[0.5] * 3, seed=0)
    model = networks.wrap(blank, name=name, num_classes=10, image_shape=(3, 32, 32))
    assert rival.why_not(task_for(model)).startswith(reason)
    assert model.passes.total == 0


def test_grad_cam_takes_the_deepest_tap_with_more_than_one_position():
    blank = networks.untrained("cnn", num_classes=10, image_shape=(1, 8, 8), mean=[0.5], std=[0.5], seed=0)
    model = networks.wrap(blank, name="cnn", num_classes=10, image_shape=(1, 8, 8))
    assert model.features(torch.zeros(1, 1, 8, 8), "block3").shape[2:] == (1, 1)
    task = task_for(model)
    assert torch.equal(GradCAM().explain(task), GradCAM(tap="block2").explain(task))
