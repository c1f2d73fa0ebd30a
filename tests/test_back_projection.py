"""Back-projection: what orthogonal weights make exact, each layer's step by plain loops, blocks, tokens, refusals."""

import pytest
import torch
from torch import Tensor, nn

from bench.back_projection import BackProjection, denormalised, top_tap
from bench.contract import SetupError, Unsupported
from bench.execute.tracks import has_leftovers
from bench.plan.cells import build_untrained
from bench.zoo import networks
from bench.zoo.classifier import Classifier
from bench.zoo.datasets import dataset_card


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(seed: int, count: int, *shape: int) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def semi_orthogonal(seed: int, rows: int, columns: int, amplitude: float = 1.0) -> Tensor:
    q = torch.linalg.qr(numbers(seed, max(rows, columns), min(rows, columns)))[0] * amplitude**0.5
    return q if rows >= columns else q.mT.contiguous()


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def orthogonal_conv(seed: int, fan_out: int, fan_in: int, kernel: int, amplitude: float = 1.0, **where) -> nn.Conv2d:
    layer = nn.Conv2d(fan_in, fan_out, kernel, bias=False, **where)
    with torch.no_grad():
        layer.weight.copy_(semi_orthogonal(seed, fan_out, fan_in * kernel**2, amplitude).view_as(layer.weight))
    return layer


def subject(body: nn.Module, image_shape: tuple[int, int, int], mean: float = 0.0, std: float = 1.0) -> Classifier:
    """A classifier whose only tap is ``body``'s output."""
    with torch.no_grad():
        width = body.eval()(torch.zeros(1, *image_shape)).flatten(1).shape[1]
    network = nn.Sequential()
    network.add_module("body", body)
    network.add_module("rest", nn.Flatten())
    network.add_module("head", nn.Linear(width, 3))
    channels = image_shape[0]
    return Classifier(
        network,
        name="small",
        image_shape=image_shape,
        num_classes=3,
        mean=[mean] * channels,
        std=[std] * channels,
        taps={"body": "body"},
    )


def there_and_back(body: nn.Module, images: Tensor, **ways) -> Tensor:
    model = subject(body, tuple(images.shape[1:]))
    with torch.no_grad():
        features = model.features(images, "body")
    return BackProjection(model, "body", **ways)(features)


# ---- exact for orthogonal weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("amplitude", [1.0, 2.5])
@pytest.mark.parametrize("rows", [16, 24])
def test_tall_and_square_orthogonal_layers_give_the_input_back(rows, amplitude):
    images = pictures(0, 5, 1, 4, 4)
    body = nn.Sequential(nn.Flatten(), linear(semi_orthogonal(1, rows, 16, amplitude), numbers(2, rows)))
    back = there_and_back(body, images, amplitude=amplitude)
    torch.testing.assert_close(back, images, rtol=0, atol=1e-5)


def test_a_wide_layer_gives_the_projection_that_has_the_same_features():
    images, weight = pictures(0, 5, 1, 4, 4), semi_orthogonal(1, 7, 16)
    back = there_and_back(nn.Sequential(nn.Flatten(), linear(weight)), images).flatten(1)
    projector = torch.linalg.pinv(weight) @ weight
    torch.testing.assert_close(back, images.flatten(1) @ projector, rtol=0, atol=1e-5)
    torch.testing.assert_close(back @ weight.T, images.flatten(1) @ weight.T, rtol=0, atol=1e-5)


def test_behind_a_relu_a_wide_layer_still_gives_the_same_features():
    images, weight = pictures(0, 6, 1, 4, 4) - 0.5, semi_orthogonal(1, 9, 16)
    back = there_and_back(nn.Sequential(nn.Flatten(), linear(weight), nn.ReLU()), images).flatten(1)
    torch.testing.assert_close((back @ weight.T).relu(), (images.flatten(1) @ weight.T).relu(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns", "cosine"), [(12, 20, 0.53), (20, 12, 0.81)])
def test_behind_a_relu_the_cosine_with_a_gaussian_input_is_the_one_that_was_measured(rows, columns, cosine):
    """Figures of the specification, section 2.2, here the mean over 40 matrices; and ⟨x̂, x⟩ = ‖z‖² / a."""
    images, amplitude, found = numbers(0, 100, 1, 1, columns), 2.0, []
    for seed in range(40):
        weight = semi_orthogonal(seed, rows, columns, amplitude)
        back = there_and_back(nn.Sequential(nn.Flatten(), linear(weight), nn.ReLU()), images, amplitude=amplitude)
        features = (images.flatten(1) @ weight.T).relu()
        inner = (back * images).flatten(1).sum(1)
        torch.testing.assert_close(inner, features.square().sum(1) / amplitude, rtol=1e-4, atol=1e-4)
        found.append(torch.nn.functional.cosine_similarity(back.flatten(1), images.flatten(1)).mean().item())
    assert sum(found) / 40 == pytest.approx(cosine, abs=0.04)  # one matrix differs from another by about as much


def test_a_leaky_network_of_orthogonal_layers_is_inverted_end_to_end():
    images = pictures(0, 4, 2, 6, 6)
    body = nn.Sequential(
        orthogonal_conv(1, 20, 2, 3, padding=1),  # 20 rows, 18 columns: overlapping patches, each known whole
        nn.LeakyReLU(0.2),
        orthogonal_conv(2, 80, 20, 2, stride=2),  # no overlap
        nn.LeakyReLU(0.5),
        nn.Flatten(),
        linear(semi_orthogonal(3, 800, 720), numbers(4, 800)),
        nn.LeakyReLU(0.1),
    )
    torch.testing.assert_close(there_and_back(body, images), images, rtol=0, atol=1e-5)


def test_a_wide_kernel_with_overlapping_patches_is_only_approximate():
    images = pictures(0, 4, 3, 8, 8)
    back = there_and_back(orthogonal_conv(1, 8, 3, 3, padding=1), images)
    error = (back - images).square().mean()
    assert 1e-3 < error < images.square().mean()


def test_row_norms_are_wrong_for_tall_kernels_where_the_amplitude_is_right():
    """Figures of the specification, section 4.1: 2.0 dB against 320 dB in double precision, 3 → 64 channels."""
    images = pictures(0, 8, 3, 16, 16)
    layer = orthogonal_conv(1, 64, 3, 3, padding=1)
    errors = [(there_and_back(layer, images, inverse=way) - images).square().mean() for way in ("rownorm", "transpose")]
    psnr = [-10 * error.log10().item() for error in errors]
    assert psnr[0] < 5
    assert psnr[1] > 100


# ---- single steps by plain loops -----------------------------------------------------------------------------------


def by_patches(layer: nn.Conv2d, output: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Each output place multiplied by its group's (m, n) matrix, patches added up and divided by their number."""
    (step, _), (border, _), (kernel, _) = layer.stride, layer.padding, layer.kernel_size
    fan_in = layer.in_channels // layer.groups
    height, width = size[0] + 2 * border, size[1] + 2 * border
    total, count = torch.zeros(len(output), layer.in_channels, height, width), torch.zeros(height, width)
    output = output if layer.bias is None else output - layer.bias[:, None, None]
    for row in range(output.shape[2]):
        for column in range(output.shape[3]):
            place = (slice(row * step, row * step + kernel), slice(column * step, column * step + kernel))
            for group, matrix in enumerate(matrices):
                own = output[:, group * matrix.shape[1] : (group + 1) * matrix.shape[1], row, column]
                channels = slice(group * fan_in, (group + 1) * fan_in)
                total[:, channels, place[0], place[1]] += (own @ matrix.T).view(-1, fan_in, kernel, kernel)
            count[place] += 1
    total = total / count.clamp(min=1)
    return total[:, :, border : border + size[0], border : border + size[1]]


CONVOLUTIONS = {
    "padded": (nn.Conv2d(3, 5, 3, padding=1), 7),
    "strided, the last column unseen": (nn.Conv2d(3, 5, 3, stride=2), 8),
    "strided and padded": (nn.Conv2d(2, 40, 5, stride=2, padding=2), 9),
    "strided and padded, an even side": (nn.Conv2d(2, 20, 3, stride=2, padding=1), 8),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), 6),
    "depthwise, no bias": (nn.Conv2d(4, 4, 3, groups=4, bias=False), 6),
}


@pytest.mark.parametrize("inverse", ["transpose", "rownorm", "pinv"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_is_handed_back_patch_by_patch(case, inverse):
    layer, side = CONVOLUTIONS[case]
    images = pictures(0, 2, layer.in_channels, side, side)
    weight = layer.weight.detach().view(layer.groups, layer.out_channels // layer.groups, -1)
    matrices = {
        "transpose": weight.mT / 1.7,
        "rownorm": torch.stack([(row / row.square().sum(1, keepdim=True)).T for row in weight]),
        "pinv": torch.linalg.pinv(weight),
    }[inverse]
    with torch.no_grad():
        wanted = by_patches(layer, layer(images), matrices, (side, side))
    torch.testing.assert_close(there_and_back(layer, images, inverse=inverse, amplitude=1.7), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("inverse", ["transpose", "rownorm", "pinv"])
def test_a_linear_layer_is_handed_back_by_its_matrix(inverse):
    images, layer = pictures(0, 3, 1, 3, 3), nn.Linear(9, 5)
    output = images.flatten(1) @ layer.weight.T
    matrix = {"transpose": layer.weight / 1.7, "rownorm": layer.weight, "pinv": torch.linalg.pinv(layer.weight).T}
    back = there_and_back(nn.Sequential(nn.Flatten(), layer), images, inverse=inverse, amplitude=1.7)
    torch.testing.assert_close(back.flatten(1), (output @ matrix[inverse]).detach(), rtol=0, atol=1e-5)


def norm_with_history(seed: int, channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).eval()
    with torch.no_grad():
        for tensor, shift in ((norm.weight, 1.0), (norm.bias, 0.0), (norm.running_mean, 0.0)):
            tensor.copy_(shift + 0.3 * numbers(seed, channels))
        norm.running_var.copy_(0.5 + numbers(seed + 1, channels).square())
    return norm


def test_a_folded_batch_norm_is_inverted_with_the_layer_before_it():
    images, layer, norm = pictures(0, 3, 2, 5, 5), orthogonal_conv(1, 18, 2, 3, padding=1), norm_with_history(2, 18)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    matrix = (layer.weight.flatten(1) * factor[:, None]).detach()
    with torch.no_grad():  # what is left of the output once the folded bias is taken off
        linear_part = layer(images) * factor[:, None, None]
    wanted = by_patches(layer, linear_part, matrix.T[None], (5, 5))
    torch.testing.assert_close(there_and_back(nn.Sequential(layer, norm), images), wanted, rtol=0, atol=1e-5)


def test_an_undone_batch_norm_leaves_orthogonal_weights_exact():
    images = pictures(0, 3, 2, 5, 5)
    body = nn.Sequential(orthogonal_conv(1, 18, 2, 3, padding=1), norm_with_history(2, 18))
    torch.testing.assert_close(there_and_back(body, images, batch_norm="undo"), images, rtol=0, atol=1e-4)


def test_a_channel_that_batch_norm_switches_off_comes_back_as_its_mean():
    norm = norm_with_history(0, 2)
    with torch.no_grad():
        norm.weight[0] = 0.0
    back = there_and_back(norm, pictures(0, 2, 2, 3, 3), batch_norm="undo")
    torch.testing.assert_close(back[:, 0], norm.running_mean[0].expand(2, 3, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [6, 7])
def test_a_pooled_winner_fills_its_window_and_what_no_window_saw_repeats_its_neighbour(side):
    images = pictures(0, 2, 1, side, side)
    back = there_and_back(nn.MaxPool2d(2), images)
    for row in range(side):
        for column in range(side):
            top, left = 2 * min(row // 2, 2), 2 * min(column // 2, 2)
            winner = images[:, 0, top : top + 2, left : left + 2].amax((1, 2))
            assert torch.equal(back[:, 0, row, column], winner)


def test_a_mean_is_spread_over_all_it_was_taken_of():
    images = pictures(0, 2, 3, 4, 4)
    back = there_and_back(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), images)
    torch.testing.assert_close(back, images.mean((2, 3), keepdim=True).expand_as(images))


def test_guided_relus_keep_what_was_and_is_positive():
    layer = nn.Conv2d(2, 4, 1, bias=False)
    body, images = nn.Sequential(layer, nn.ReLU()), pictures(0, 3, 2, 4, 4) - 0.5
    model = subject(body, (2, 4, 4))
    handed = numbers(1, 3, 4, 4, 4)
    with torch.no_grad():
        kept = torch.where((layer(images) > 0) & (handed > 0), handed, torch.zeros(()))
        wanted = torch.einsum("bnhw, nm -> bmhw", kept, layer.weight[:, :, 0, 0])
    g = BackProjection(model, "body", guided=True)
    torch.testing.assert_close(g(handed, g.record(images)), wanted, rtol=0, atol=1e-6)
    plain = torch.einsum("bnhw, nm -> bmhw", handed, layer.weight[:, :, 0, 0].detach())
    torch.testing.assert_close(g(handed), plain, rtol=0, atol=1e-6)


# ---- blocks and tokens ---------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """x + share · F(x), or its ReLU."""

    def __init__(self, share: float, last: bool = False, linear: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            middle = nn.Identity() if linear else nn.ReLU()
            self.inside = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), middle, nn.Conv2d(6, 3, 1))
        self.share, self.act = share, nn.ReLU(inplace=True) if last else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.act(features + self.share * self.inside(features))


class Narrowing(nn.Module):
    """A block whose shortcut changes the shape, as between the stages of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.shortcut = nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.Conv2d(3, 12, 2, 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.shortcut(features) + 0.1 * self.inside(features)


def test_a_residual_block_that_contracts_is_solved():
    images = pictures(0, 4, 3, 6, 6)
    torch.testing.assert_close(there_and_back(Residual(0.5), images, steps=12), images, rtol=0, atol=1e-4)


def test_a_residual_block_that_does_not_contract_is_solved_by_conjugate_gradients():
    images, block = pictures(0, 4, 3, 6, 6), Residual(6.0, linear=True)
    point, wanted = block(images).detach(), block(images).detach()
    for _ in range(30):
        point = (point + wanted - block(point)).detach()
    assert not point.isfinite().all() or (point - images).abs().max() > 10  # the fixed point runs away
    back = there_and_back(block, images, steps=40)
    with torch.no_grad():
        assert (block(back) - wanted).norm() < 0.05 * wanted.norm()


def test_a_block_that_changes_the_shape_is_solved_by_least_squares():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = Narrowing()
    images = pictures(0, 2, 3, 6, 6)
    with torch.no_grad():
        matrix = torch.stack([block(one.view(1, 3, 6, 6)).flatten() for one in torch.eye(108)], 1)  # it is linear
        wanted = block(images).flatten(1) @ torch.linalg.pinv(matrix).T
    torch.testing.assert_close(there_and_back(block, images, steps=60).flatten(1), wanted, rtol=0, atol=1e-3)


def test_with_a_recording_a_block_is_inverted_by_its_transposed_jacobian_there():
    model, images, handed = subject(Residual(0.8), (3, 5, 5)), pictures(0, 2, 3, 5, 5), numbers(1, 2, 3, 5, 5)
    g = BackProjection(model, "body")
    found = g(handed, g.record(images))
    for image, vector, back in zip(images, handed, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(model.network.body, image[None]).view(75, 75)
        torch.testing.assert_close(back.flatten(), vector.flatten() @ jacobian, rtol=0, atol=1e-5)


def test_a_block_that_ends_with_a_layer_of_its_own_is_taken_whole():
    images = pictures(0, 3, 3, 6, 6)
    back = there_and_back(nn.Sequential(nn.Conv2d(3, 3, 1), Residual(0.3, last=True)), images, inverse="pinv", steps=20)
    assert back.shape == images.shape
    assert back.isfinite().all()


@pytest.mark.parametrize(("name", "tap"), [("deit_pico", "stem"), ("deit_pico", "block6"), ("resnet20", "layer1")])
def test_real_architectures_are_followed_to_the_tap(name, tap):
    card = dataset_card("cifar10")
    model = networks.wrap(build_untrained(name, card, 0), name=name, num_classes=10, image_shape=card.image_shape)
    images = pictures(0, 2, 3, 32, 32)
    g = BackProjection(model, tap, inverse="pinv")
    recording = g.record(images)
    with torch.no_grad():
        torch.testing.assert_close(recording.features, model.features(images, tap), rtol=1e-3, atol=1e-4)
    back = denormalised(model, g(recording.features))
    if name == "deit_pico":  # 48 numbers a patch become 96: nothing is lost
        torch.testing.assert_close(back, images, rtol=0, atol=0.02)
    else:
        with torch.no_grad():
            found, grey = model.features(back, tap), model.features(torch.full_like(images, 0.5), tap)
        assert (found - recording.features).norm() < 0.8 * (grey - recording.features).norm()


# ---- refusals, counts and leftovers --------------------------------------------------------------------------------


class Between(nn.Module):
    """Does something of its own between two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(2 * self.first(images))


@pytest.mark.parametrize(
    "body",
    [
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.GELU()),
        nn.Sequential(nn.Flatten(), nn.LayerNorm(16)),
        nn.Sequential(nn.MaxPool2d(2, stride=1, dilation=2)),
        nn.Sequential(nn.Conv2d(1, 2, 3, padding="same")),
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")),
    ],
    ids=["gelu", "layer norm", "dilated pool", "padding by name", "circular padding"],
)
def test_a_layer_without_an_inverse_step_is_refused(body):
    with pytest.raises(Unsupported, match="no inverse step"):
        BackProjection(subject(body, (1, 4, 4)), "body")


@pytest.mark.parametrize("wrong", [{"amplitude": 0.0}, {"amplitude": -1.0}, {"amplitude": float("nan")}, {"steps": 0}])
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(SetupError, match=f"{next(iter(wrong))} should be"):
        BackProjection(subject(nn.Conv2d(1, 2, 1), (1, 4, 4)), "body", **wrong)


def test_work_between_the_modules_is_not_overlooked():
    """As a block it is solved whole; its own modules are no chain."""
    images = pictures(0, 2, 1, 4, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = Between()
    back = there_and_back(body, images, steps=40)
    with torch.no_grad():
        torch.testing.assert_close(body(back), body(images), rtol=0, atol=1e-3)


def test_passes_are_those_announced_and_the_subject_is_as_before():
    model, images = subject(Residual(0.5), (3, 5, 5)), pictures(0, 4, 3, 5, 5)
    before = model.checksum()
    g = BackProjection(model, "body")
    assert model.passes.total == 0
    recording = g.record(images)
    assert (model.passes.forward, model.passes.backward) == (4, 0)
    g(recording.features, recording)
    assert model.passes.total == 4 + 4 * g.passes
    g(recording.features)
    assert model.passes.total == 4 + 4 * g.passes + 4 * g.passes_alone
    assert model.checksum() == before
    assert not has_leftovers(model)


def test_an_image_alone_comes_back_as_it_does_among_others():
    model, images = subject(nn.Sequential(nn.Conv2d(3, 3, 1), Residual(3.0)), (3, 5, 5)), pictures(0, 4, 3, 5, 5)
    g = BackProjection(model, "body")
    features = g.record(images).features
    together = g(features)
    for row in range(4):
        assert torch.equal(g(features[row : row + 1])[0], together[row])


def test_a_repeated_recording_keeps_each_image_together():
    model, images = subject(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), (3, 5, 5)), pictures(0, 2, 3, 5, 5)
    g = BackProjection(model, "body", guided=True)
    recording, handed = g.record(images), numbers(1, 6, 4, 5, 5)
    together = g(handed, recording.repeat(3))
    for row in range(6):
        single = g(handed[row : row + 1], g.record(images[row // 3 : row // 3 + 1]))
        torch.testing.assert_close(together[row : row + 1], single, rtol=0, atol=1e-6)


def test_intensities_are_the_inputs_without_normalisation():
    model, images = subject(nn.Conv2d(3, 4, 1), (3, 5, 5), mean=0.4, std=0.2), pictures(0, 2, 3, 5, 5)
    torch.testing.assert_close(denormalised(model, model.normalise(images)), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dataset", "name", "tap"),
    [
        ("mnist", "mlp", "hidden2"),
        ("mnist", "cnn", "block2"),  # block3 has 3 × 3 places: no inside
        ("cifar10", "resnet20", "layer3"),
        ("cifar10", "deit_pico", "block6"),
    ],
)
def test_the_top_tap_is_the_deepest_map_with_an_inside(dataset, name, tap):
    card = dataset_card(dataset)
    model = networks.wrap(build_untrained(name, card, 0), name=name, num_classes=10, image_shape=card.image_shape)
    assert top_tap(model) == tap
    assert model.passes.total == 0
