"""What holds for every metric of the folder, on random inputs made from the names of its parameters."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.contract import ROLES, TRACKS, MetricCard, ShapeError, Undefined

STEMS = sorted(path.stem for path in (Path(__file__).parents[2] / "metrics").glob("[!_]*.py"))
N, M, K, D = 48, 44, 7, 5  # images, reference images, classes, features
REFERENCE_TRACKS = {"inversion", "visualization"}  # their `real` images are M others, not the N originals
REFERENCE_ROLES = {"real_labels", "real_referee_features"}


def load(stem):
    function = getattr(importlib.import_module(f"metrics.{stem}"), stem)
    return function, function.__glassbench__


def roles_of(function):
    return [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]


def linear_target(images):
    weights = torch.linspace(-1, 1, K * images.shape[1:].numel()).sin().view(K, -1)
    return images.flatten(1) @ weights.T


def toys(function, seed, count=N):
    """Random tensors for the function's roles; the sides of an image are 12 px."""
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
        "generated": lambda: uniform(count, 2, 12, 12),
        "real": lambda: uniform(reference, 2, 12, 12),
        "labels": lambda: labels,
        "real_labels": lambda: torch.randint(0, K, (reference,), generator=generator),
        "wanted_features": lambda: normal(count, D, 2, 2),
        "generated_features": lambda: normal(count, D, 2, 2),
        "referee_features": lambda: normal(count, D),
        "real_referee_features": lambda: normal(reference, D),
        "activation": lambda: normal(count),
        "scores": lambda: normal(count),
        "attacked": lambda: torch.arange(count) % 2 == 0,
        "maps": lambda: normal(count, 12, 12),
        "target": lambda: linear_target,
    }
    logits = dict.fromkeys(("target_logits", "referee_logits", "clean_logits", "clean_referee_logits"), mostly_right)
    return {role: (makers | logits)[role]() for role in roles_of(function)}


def in_order(inputs, card, images, references):
    """The same inputs with their images, and apart from them their reference images, in another order."""
    with_references = REFERENCE_ROLES | ({"real"} if REFERENCE_TRACKS & set(card.tracks) else set())
    return {
        role: value
        if role == "target"
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


@pytest.mark.parametrize("stem", STEMS)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_images_does_not_matter(stem, seed):
    function, card = load(stem)
    inputs = toys(function, seed)
    generator = torch.Generator().manual_seed(seed)
    images, references = torch.randperm(N, generator=generator), torch.randperm(M, generator=generator)
    expected = function(**inputs)
    value = function(**in_order(inputs, card, images, references))
    if card.per == "image":
        expected = expected[images]
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6, equal_nan=True)  # targets compute in float32


@pytest.mark.parametrize("stem", STEMS)
def test_inputs_and_the_global_generator_are_left_as_found(stem):
    function, _ = load(stem)
    inputs = toys(function, seed=0)
    before = {role: value.clone() for role, value in inputs.items() if role != "target"}
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
        if role not in {"target", "labels", "real_labels", "attacked"}
    ],
)
def test_a_nan_anywhere_is_refused(stem, role):
    function, _ = load(stem)
    inputs = toys(function, seed=0)
    inputs[role].view(-1)[3] = float("nan")
    with pytest.raises(ShapeError, match=role):
        function(**inputs)


@pytest.mark.parametrize("stem", STEMS)
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
