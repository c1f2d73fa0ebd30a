"""What holds for every metric of the folder, on random inputs made from the names of its parameters."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.contract import ROLES, TIMED_UNITS, TRACKS, MetricCard, ShapeError, Undefined
from bench.gating import ControllingModule, attach

STEMS = sorted(path.stem for path in (Path(__file__).parents[2] / "metrics").glob("[!_]*.py"))
N, M, K, D = 48, 44, 7, 5  # images, reference images, classes, features
REFERENCE_TRACKS = {"inversion", "visualization"}  # their `real` images are M others, not the N originals
REFERENCE_ROLES = {"real_labels", "real_referee_features", "real_inception_features", "real_dinov2_features"}
REFERENCE_ROLES |= {"training", "real_target_features", "reference_referee_features", "reference_labels"}
WHOLE = {"target", "lpips_alex", "lpips_vgg", "cost", "class_subspaces"}  # no axis of images

SIDES = {"ms_ssim": 176}  # px, where a metric needs more than the usual ones


def load(stem):
    function = getattr(importlib.import_module(f"metrics.{stem}"), stem)
    return function, function.__glassbench__


def roles_of(function):
    return [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]


# what a network or a cell costs does not depend on images, and time is never the same
OF_IMAGES = [
    stem for stem in STEMS if not set(roles_of(load(stem)[0])) <= WHOLE and load(stem)[1].unit not in TIMED_UNITS
]


class LinearTarget:
    """A subject with linear logits, as far as metrics look at one."""

    image_shape, num_classes = (2, 12, 12), K

    def __init__(self):
        weights = torch.linspace(-1, 1, K * 2 * 12 * 12).sin().view(K, -1)
        linear = torch.nn.Linear(2 * 12 * 12, K, bias=False).requires_grad_(False)
        linear.weight.copy_(weights)
        self.network = torch.nn.Sequential(torch.nn.Flatten(), linear)

    def __call__(self, images):
        return self.network(images)

    def normalise(self, images):
        return images


class GatedTarget(LinearTarget):
    """The same, behind a convolution with gates."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            convs = torch.nn.Sequential(torch.nn.Conv2d(2, 6, 1), torch.nn.Conv2d(6, 2, 3, padding=1), self.network)
            layers = attach(convs, lambda path, conv: ControllingModule(conv.in_channels, conv.out_channels))
        self.network = convs.eval().requires_grad_(False)
        gate, grey = layers["1"].gate, convs[0](torch.full((1, 2, 1, 1), 0.5))[0, :, 0, 0]
        gate.reduce.weight.copy_(100 * grey)  # from here: one filter for bright images, the other for dark ones
        gate.reduce.bias.copy_(10 - gate.reduce.weight @ grey)
        gate.expand.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        gate.expand.bias.copy_(torch.tensor([-10.0, 10.0]))


TARGET, GATED_TARGET = LinearTarget(), GatedTarget()
GATED_STEMS = {
    stem for stem in STEMS if stem.startswith(("gmacs_", "skip_", "mask_", "path_", "dynamic_", "silencing_"))
}
COST = {"wall_s": 3.0, "gpu_s": None, "gpu_peak_mib": 2.0, "forward_passes": 6, "backward_passes": 4, "n_images": 2}


def lpips(first, second):
    return (first - second).square().flatten(1).mean(1)


def toys(function, seed, count=N):
    """Random tensors for the function's roles; the sides of an image are 12 px, for some the least they take."""
    side = 32 if {"lpips_alex", "lpips_vgg"} & set(roles_of(function)) else SIDES.get(function.__name__, 12)
    generator = torch.Generator().manual_seed(seed)
    _, card = load(function.__name__)
    reference = M if REFERENCE_TRACKS & set(card.tracks) else count

    labels = torch.randint(0, K, (count,), generator=generator)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    def uniform(*shape):
        return torch.rand(shape, generator=generator)

    def mostly_right():
        return normal(count, K) + 2 * torch.nn.functional.one_hot(labels, K)

    makers = {
        "generated": lambda: uniform(count, 2, side, side),
        "real": lambda: uniform(reference, 2, side, side),
        "labels": lambda: labels,
        "real_labels": lambda: torch.randint(0, K, (reference,), generator=generator),
        "wanted_features": lambda: normal(count, D, 2, 2),
        "generated_features": lambda: normal(count, D, 2, 2),
        "training": lambda: uniform(reference, 2, side, side),
        "target_features": lambda: normal(count, D),
        "referee_features": lambda: normal(count, D),
        "real_referee_features": lambda: normal(reference, D),
        "real_target_features": lambda: normal(reference, D),
        "reference_referee_features": lambda: normal(reference, D),
        "reference_labels": lambda: torch.randint(0, K, (reference,), generator=generator),
        "panel_logits": lambda: torch.stack([mostly_right(), mostly_right()], 1),
        "real_activation": lambda: 1 + uniform(count),
        "latent_groups": lambda: torch.arange(count) // 4,
        "target_labels": lambda: (labels + 1) % K,
        "class_subspaces": lambda: {label: torch.linalg.qr(normal(2 * side**2, 3)).Q.T for label in range(K)},
        "activation": lambda: normal(count),
        "scores": lambda: normal(count),
        "attacked": lambda: torch.arange(count) % 2 == 0,
        "noisy": lambda: torch.arange(count) % 4 == 1,
        "maps": lambda: normal(count, 12, 12),
        "inception_features": lambda: normal(count, D),
        "real_inception_features": lambda: normal(reference, D),
        "dinov2_features": lambda: normal(count, D),
        "real_dinov2_features": lambda: normal(reference, D),
        "randomised_maps": lambda: normal(count, 12, 12),
        "wanted_distribution": lambda: normal(count, K).softmax(1),
        "target": lambda: GATED_TARGET if function.__name__ in GATED_STEMS else TARGET,
        "cost": lambda: COST,
        "lpips_alex": lambda: lpips,
        "lpips_vgg": lambda: lpips,
    }
    every_logits = (
        "target_logits",
        "referee_logits",
        "clean_logits",
        "clean_referee_logits",
        "clip_logits",
        "perturbation_referee_logits",
    )
    logits = dict.fromkeys(every_logits, mostly_right)
    return {role: (makers | logits)[role]() for role in roles_of(function)}


def in_order(inputs, card, images, references):
    """The same inputs with their images, and apart from them their reference images, in another order."""
    with_references = REFERENCE_ROLES | {"real"} if REFERENCE_TRACKS & set(card.tracks) else set()
    return {
        role: value
        if role in WHOLE
        else value[references]
        if role in with_references
        else value[images]
        for role, value in inputs.items()
    }  # fmt: skip


@pytest.mark.parametrize("stem", STEMS)
def test_a_file_holds_one_marked_function_of_its_own_name(stem):
    module = importlib.import_module(f"metrics.{stem}")
    marked = [
        name for name, value in vars(module).items() if isinstance(getattr(value, "__glassbench__", None), MetricCard)
    ]
    assert marked == [stem]


@pytest.mark.parametrize("stem", STEMS)
def test_parameters_are_roles_and_settings_are_keyword_only(stem):
    function, _ = load(stem)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is parameter.empty:
            assert parameter.name in ROLES
        else:
            assert parameter.kind is parameter.KEYWORD_ONLY


@pytest.mark.parametrize("stem", STEMS)
def test_the_card_names_known_tracks_and_the_docstring_its_source(stem):
    function, card = load(stem)
    assert card.tracks and set(card.tracks) <= set(TRACKS)
    assert "Source:" in function.__doc__
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in function.__doc__


@pytest.mark.parametrize("track", TRACKS.values(), ids=TRACKS)
def test_every_track_has_its_primary_metric(track):
    _, card = load(track.primary)
    assert track.name in card.tracks
    assert card.better != "neither"


@pytest.mark.parametrize("stem", STEMS)
def test_values_have_the_shape_dtype_and_bounds_of_the_card(stem):
    function, card = load(stem)
    value = function(**toys(function, seed=0))
    assert isinstance(value, torch.Tensor)
    assert value.dtype == torch.float64
    assert value.shape == ((N,) if card.per == "image" else ())
    known = value[~value.isnan()]
    assert len(known.flatten()) and known.isfinite().all()
    assert card.partial or not value.isnan().any()
    low, high = card.bounds
    assert low is None or known.min() >= low - 1e-9
    assert high is None or known.max() <= high + 1e-9


@pytest.mark.parametrize("stem", OF_IMAGES)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_images_does_not_matter(stem, seed):
    function, card = load(stem)
    inputs = toys(function, seed, count=M)  # as many as references: some metrics drop the last of the larger side
    generator = torch.Generator().manual_seed(seed)
    images, references = torch.randperm(M, generator=generator), torch.randperm(M, generator=generator)
    expected = function(**inputs)
    value = function(**in_order(inputs, card, images, references))
    if card.per == "image":
        expected = expected[images]
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6, equal_nan=True)  # targets compute in float32


@pytest.mark.parametrize("stem", STEMS)
def test_inputs_and_the_global_generator_are_left_as_found(stem):
    function, _ = load(stem)
    inputs = toys(function, seed=0)
    before = {role: value.clone() for role, value in inputs.items() if role not in WHOLE}
    state = torch.get_rng_state()
    function(**inputs)
    assert torch.equal(torch.get_rng_state(), state)
    for role, value in before.items():
        assert torch.equal(inputs[role], value)


@pytest.mark.parametrize(
    ("stem", "role"),
    [
        (stem, role)
        for stem in STEMS
        for role in roles_of(load(stem)[0])
        if role not in WHOLE | {"attacked", "noisy", "latent_groups"} and not role.endswith("labels")
    ],
)
def test_a_nan_anywhere_is_refused(stem, role):
    function, _ = load(stem)
    inputs = toys(function, seed=0)
    inputs[role].view(-1)[3] = float("nan")
    with pytest.raises(ShapeError, match=role):
        function(**inputs)


@pytest.mark.parametrize("stem", OF_IMAGES)
def test_no_images_give_no_value(stem):
    function, _ = load(stem)
    answer = function(**toys(function, seed=0, count=0))
    assert isinstance(answer, Undefined) or answer.shape == (0,)


@pytest.mark.parametrize("stem", [stem for stem in STEMS if load(stem)[1].per != "image"])
def test_an_undefined_number_is_a_reason_never_nan(stem):
    function, _ = load(stem)
    for count in (1, 2, 3):
        answer = function(**toys(function, seed=0, count=count))
        assert isinstance(answer, Undefined) or answer.isfinite().all()
