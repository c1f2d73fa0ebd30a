"""Filters and concepts: against plain loops, scikit-learn, SciPy's own tests and planted filters."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from scipy.stats import fisher_exact
from sklearn.metrics import jaccard_score, matthews_corrcoef
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import SetupError, ShapeError
from bench.gating import FixedGate, Gate, attach
from bench.gating import concepts as concepts_module
from bench.gating.concepts import (
    EVERY,
    FIRST_RANDOM,
    PATH,
    UNIT,
    active_levels,
    association,
    best_levels,
    coarse,
    combine,
    concept_report,
    factor_report,
    fit_sums,
    label_report,
    layer_maps,
    path_sets,
    unit_iou,
)
from bench.gating.factors import FactorPictures, factor_pictures
from bench.zoo.classifier import Classifier


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_bits(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed)) < 0.4


class Threshold(Gate):
    """Filter c is on where the mean of input channel c % C_in is above that channel's level, or the level of all."""

    def __init__(self, fan_out: int, level: Tensor | float) -> None:
        super().__init__()
        self.fan_out, self.level = fan_out, level

    def scores(self, squeezed: Tensor) -> Tensor:
        places = torch.arange(self.fan_out) % squeezed.shape[1]
        return (squeezed - self.level)[:, places]


class Residual(nn.Module):
    """A stem and a block that adds its shortcut in place, as many networks do."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(channels, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.shortcut, self.head = nn.AvgPool2d(2), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images).relu()
        out = self.norm(self.conv(features))
        out += self.shortcut(features)
        return self.head(out.mean((2, 3)))


def gated(make_gate=None, channels: int = 3, side: int = 16) -> Classifier:
    """Each gate of its own is on for half of the factor pictures."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = Residual(channels).eval()
        read = network.stem(factor_pictures(64, (channels, side, side)).images).relu().mean((2, 3))
    make_gate = make_gate or (lambda fan_out: Threshold(fan_out, read.median(0).values))
    attach(network, lambda name, conv: make_gate(conv.out_channels))
    return Classifier(
        network,
        name="toy",
        image_shape=(channels, side, side),
        num_classes=4,
        mean=[0.0] * channels,
        std=[1.0] * channels,
        taps={},
    )


# ---- pictures of known factors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 8, 20)])
def test_factor_pictures_fit_any_shape_and_seed(shape):
    one, again, other = (factor_pictures(16, shape, seed) for seed in (0, 0, 1))
    assert one.images.shape == (16, *shape) and one.images.dtype == torch.float32
    assert one.images.min() >= 0 and one.images.max() <= 1
    assert torch.equal(one.images, again.images) and torch.equal(one.masks, again.masks)
    assert not torch.equal(one.images, other.images)


def test_each_level_of_each_factor_is_as_frequent_and_each_picture_has_one():
    pictures = factor_pictures(64, (3, 16, 16))
    assert len(set(pictures.concepts)) == 16
    assert pictures.present.sum(0).tolist() == [16] * 16
    assert pictures.present.sum(1).tolist() == [4] * 64


def test_a_concepts_mask_is_the_object_where_it_is_present_and_empty_elsewhere():
    pictures = factor_pictures(24, (3, 16, 16))
    for row in range(24):
        for place in range(16):
            expected = pictures.objects[row] if pictures.present[row, place] else torch.zeros(16, 16, dtype=torch.bool)
            assert torch.equal(pictures.masks[row, place], expected)


def of_level(pictures: FactorPictures, name: str) -> Tensor:
    return pictures.present[:, pictures.concepts.index(name)]


def test_objects_lie_in_their_quarter_and_have_their_colour():
    pictures = factor_pictures(64, (3, 32, 32))
    halves = {"upper": (slice(0, 16), slice(None)), "lower": (slice(16, 32), slice(None))}
    for name, (rows, columns) in halves.items():
        chosen = of_level(pictures, f"{name} left") | of_level(pictures, f"{name} right")
        inside = pictures.objects[chosen][:, rows, columns].sum()
        assert inside == pictures.objects[chosen].sum() > 0
    red = of_level(pictures, "red") & of_level(pictures, "plain")
    pixels = pictures.images.permute(0, 2, 3, 1)[red][pictures.objects[red]]
    assert pixels[:, 0].mean() > 0.9 and pixels[:, 1:].mean() < 0.2


def test_shapes_cover_their_share_of_the_square_around_them():
    pictures = factor_pictures(400, (3, 96, 96))
    for name, share in (("square", 1), ("disc", math.pi / 4), ("triangle", 1 / 2), ("cross", 5 / 9)):
        objects = pictures.objects[of_level(pictures, name)]
        height, width = objects.any(2).sum(1), objects.any(1).sum(1)
        assert (objects.sum((1, 2)) / (height * width)).mean().item() == pytest.approx(share, abs=0.03)


def test_pictures_too_small_for_shapes_are_refused():
    with pytest.raises(SetupError, match="sides of 8 pixels or more, got 7 × 32"):
        factor_pictures(4, (3, 7, 32))


# ---- one gate ------------------------------------------------------------------------------------------------------


def test_phi_and_difference_are_those_of_scikit_learn_and_of_plain_counting():
    bits, present = random_bits(50, 5, seed=1), random_bits(50, 3, seed=2)
    found = association(bits, present)
    for c in range(5):
        for t in range(3):
            on, there = bits[:, c].numpy(), present[:, t].numpy()
            assert found.phi[c, t].item() == pytest.approx(matthews_corrcoef(there, on), abs=1e-12)
            assert found.difference[c, t].item() == pytest.approx(on[there].mean() - on[~there].mean(), abs=1e-12)


def test_p_is_twice_the_smaller_tail_of_fishers_test():
    bits, present = random_bits(30, 4, seed=3), random_bits(30, 3, seed=4)
    found = association(bits, present)
    for c in range(4):
        for t in range(3):
            table = [
                [int((present[:, t].eq(p) & bits[:, c].eq(b)).sum()) for b in (True, False)] for p in (True, False)
            ]
            tails = [fisher_exact(table, alternative)[1] for alternative in ("less", "greater")]
            assert found.p_value[c, t].item() == pytest.approx(min(1, 2 * min(tails)), rel=1e-9)


def step_up(p_values: list[float], rate: float) -> list[bool]:
    """Benjamini's and Hochberg's procedure: all up to the last p that lies below its share of the rate."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    last = max((rank for rank, k in enumerate(order, 1) if p_values[k] <= rate * rank / len(order)), default=0)
    return [k in order[:last] for k in range(len(p_values))]


def test_significance_is_the_step_up_procedure_over_all_pairs():
    present = random_bits(60, 4, seed=5)
    noisy = torch.stack([present[:, k % 4] ^ (torch.rand(60, generator=generator(k)) < k / 16) for k in range(8)], 1)
    found = association(noisy, present)
    expected = step_up(found.p_value.flatten().tolist(), 0.05)
    assert found.significant.flatten().tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_random_gates_have_hardly_a_significant_association():
    found = association(random_bits(200, 40, seed=6), random_bits(200, 10, seed=7))
    assert found.significant.sum() <= 2


def test_a_gate_that_never_changes_has_no_phi_and_is_not_tested():
    bits, present = random_bits(40, 3), random_bits(40, 2, seed=1)
    bits[:, 0], bits[:, 1], bits[:, 2] = True, False, present[:, 1]
    found = association(bits, present)
    assert found.tested.tolist() == [[False, False], [False, False], [True, True]]
    assert found.phi[:2].isnan().all() and not found.significant[:2].any()
    assert found.phi[2, 1] == 1 and found.significant[2, 1]


def test_a_layer_whose_gates_are_all_fixed_has_no_association():
    found = association(torch.ones(10, 3, dtype=torch.bool), random_bits(10, 2))
    assert not found.tested.any() and not found.significant.any()


def test_a_concepts_path_are_the_gates_from_the_ninetieth_percentile_on():
    phi = torch.linspace(-0.5, 0.5, 21, dtype=torch.float64)[:, None]
    assert path_sets(phi)[0].nonzero().flatten().tolist() == [18, 19, 20]
    alone = torch.tensor([[math.nan], [0.3], [math.nan]])
    assert path_sets(alone)[0].tolist() == [False, True, False]
    assert not path_sets(-alone).any() and not path_sets(alone * math.nan).any()


# ---- one filter ----------------------------------------------------------------------------------------------------


def test_the_level_leaves_five_in_a_thousand_above_it():
    maps = torch.randn(10, 3, 20, 20, generator=generator())
    levels = active_levels(maps)
    assert [(maps[:, c] > levels[c]).sum().item() for c in range(3)] == [20, 20, 20]
    assert (active_levels(torch.zeros(4, 2, 10, 10)) == 0).all()


def test_unit_iou_is_scikit_learns_jaccard_score_of_the_enlarged_map():
    maps, masks = torch.randn(6, 3, 4, 4, generator=generator()), random_bits(6, 2, 9, 7, seed=1)
    found = unit_iou(maps, masks, share=0.1)
    for c in range(3):
        level = np.sort(maps[:, c].flatten().numpy())[-1 - int(0.1 * 96)]
        large = F.interpolate(maps[:, c : c + 1], (9, 7), mode="bilinear")[:, 0]
        for t in range(2):
            wanted = jaccard_score(masks[:, t].flatten().numpy(), (large > level).flatten().numpy())
            assert found[c, t].item() == pytest.approx(wanted, abs=1e-12)


def test_unit_iou_does_not_depend_on_how_many_pictures_are_held_at_once(monkeypatch):
    maps, masks = torch.randn(7, 3, 4, 4, generator=generator()), random_bits(7, 2, 8, 8, seed=1)
    whole = unit_iou(maps, masks, share=0.1)
    monkeypatch.setattr(concepts_module, "CHUNK", 2)
    torch.testing.assert_close(unit_iou(maps, masks, share=0.1), whole)


def test_a_planted_detector_reaches_one_and_a_dead_filter_zero():
    pictures = factor_pictures(64, (3, 16, 16))
    place = pictures.concepts.index("disc")
    maps = torch.stack([pictures.masks[:, place].float(), torch.zeros(64, 16, 16)], 1)
    found = unit_iou(maps, pictures.masks, share=pictures.masks[:, place].float().mean().item() + 1e-6)
    assert found[0, place] == 1 and found[0].argmax() == place
    assert (found[1] == 0).all()


def test_a_concept_without_a_pixel_is_nan_and_not_zero():
    masks = random_bits(4, 2, 6, 6)
    masks[:, 1] = False
    found = unit_iou(torch.rand(4, 3, 3, 3, generator=generator()), masks)
    assert found[:, 0].isfinite().all() and found[:, 1].isnan().all()


def test_a_large_mask_is_made_coarser_by_majority():
    masks = torch.zeros(1, 1, 64, 40, dtype=torch.bool)
    masks[0, 0, 8:16, :20] = True
    made = coarse(masks)
    assert made.shape == (1, 1, 32, 32)
    assert torch.equal(made[0, 0].any(1).nonzero()[:, 0], torch.arange(4, 8))
    small = random_bits(2, 1, 32, 20)
    assert coarse(small) is small


# ---- filters together ----------------------------------------------------------------------------------------------


def test_sums_are_scipys_bounded_least_squares():
    values, truth = torch.randn(5, 300, generator=generator(), dtype=torch.float64), random_bits(2, 300, seed=1)
    values[0] += truth[0].double()
    values[3] += truth[0].double() + truth[1]
    sets = torch.tensor([[True] * 5, [False, True, True, True, False]]).expand(2, 2, 5)
    found = fit_sums(values, truth, sets)
    for t in range(2):
        for s in range(2):
            members = sets[t, s]
            design = torch.cat([values[members], torch.ones(1, 300, dtype=torch.float64)]).T.numpy()
            bounds = [0.0] * int(members.sum()) + [-np.inf], np.inf
            expected = lsq_linear(design, truth[t].double().numpy(), bounds, tol=1e-14).x[:-1]
            np.testing.assert_allclose(found[t, s][members], expected, atol=1e-6)
            assert (found[t, s][~members] == 0).all()


def test_filters_that_are_empty_or_equal_leave_the_sum_solvable():
    values = torch.rand(1, 200, generator=generator()).repeat(3, 1)
    values[2] = 0
    found = fit_sums(values, values[:1] > 0.5, torch.ones(1, 1, 3, dtype=torch.bool))[0, 0]
    assert found.isfinite().all() and found[0] + found[1] > 0 and found[2] == 0
    assert (fit_sums(values * 0, values[:1] > 0.5, torch.ones(1, 1, 3, dtype=torch.bool)) == 0).all()


def test_the_best_level_is_that_of_trying_all():
    values, truth = torch.randn(3, 400, generator=generator(), dtype=torch.float64), random_bits(2, 400, seed=1)
    values[1] += 2 * truth[1]
    levels, found = best_levels(values, truth)
    for m in range(3):
        low, high = values[m].min(), values[m].max()
        tried = [low + k * (high - low) / 256 for k in range(0, 256, 3)]
        for t in range(2):
            scores = [jaccard_score(truth[t].numpy(), (values[m] >= level - 1e-12).numpy()) for level in tried]
            assert found[m, t].item() >= max(scores) - 1e-9
            reached = jaccard_score(truth[t].numpy(), (values[m] >= levels[m, t] - 1e-12).numpy())
            assert reached == pytest.approx(found[m, t].item(), abs=1e-9)


def planted(path_helps: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, masks and bits of 40 filters: two show one half each of concept 0 and are on where it is, or are noise."""
    masks = torch.zeros(80, 1, 8, 8, dtype=torch.bool)
    present = torch.rand(80, generator=generator(1)) < 0.5
    masks[present, 0, 2:6, 2:6] = True
    maps = 0.1 * torch.rand(80, 40, 8, 8, generator=generator(2))
    bits = random_bits(80, 40, seed=3)
    bits[:, 4], bits[:, 9] = present, present
    if path_helps:
        maps[:, 4, :, :4] += masks[:, 0, :, :4]
        maps[:, 9, :, 4:] += masks[:, 0, :, 4:]
    return maps, masks, bits


def test_a_planted_path_beats_its_filters_and_random_ones():
    found = combine(*planted(path_helps=True))
    iou = found.iou()[0]
    assert found.judged.tolist() == [True]
    assert iou[PATH] > 0.99 and iou[EVERY] > 0.9
    assert iou[UNIT].item() == pytest.approx(0.5, abs=0.02)  # it shows one half of the square
    assert iou[FIRST_RANDOM:].mean() < 0.6


def test_a_path_of_noise_does_not_beat_random_filters():
    iou = combine(*planted(path_helps=False)).iou()[0]
    assert abs(iou[PATH] - iou[FIRST_RANDOM:].mean()) < 0.05


def test_what_is_fitted_is_judged_on_other_pictures():
    """A filter that shows the concept on pictures 0, 2, 4, … only is chosen, and is worth nothing."""
    maps, masks, bits = planted(path_helps=False)
    maps[::2, 7] += 5 * masks[::2, 0]
    maps[1::2, 7] = 0
    assert combine(maps, masks, bits).iou()[0, UNIT] < 0.3


def test_random_sets_are_as_large_as_the_path_and_never_hold_a_filter_that_is_always_off():
    sizes, pool = torch.tensor([1, 3, 0]), torch.tensor([True, False, True, True, True, False])
    sets = concepts_module._random_sets(sizes, pool, 20, seed=0)
    assert torch.equal(sets.sum(2), sizes.expand(20, -1))
    assert not sets[..., ~pool].any() and len({tuple(one.tolist()) for one in sets[:, 1]}) > 1


def test_concepts_without_a_path_or_without_pixels_in_one_half_are_not_judged():
    maps, masks, bits = planted(path_helps=True)
    empty, only_fitted = torch.zeros_like(masks), masks.clone()
    only_fitted[1::2] = False
    found = combine(maps, torch.cat([empty, only_fitted, masks], 1), bits)
    assert found.judged.tolist() == [False, False, True]
    assert found.iou()[:2].isnan().all() and found.iou()[2].isfinite().all()


def test_counting_a_picture_twice_is_having_it_twice():
    found = combine(*planted(path_helps=True))
    counts = torch.ones(1, 40, dtype=torch.float64)
    counts[0, :5] = 2
    both, either = (torch.cat([part, part[:5]]).sum(0) for part in (found.both, found.either))
    torch.testing.assert_close(found.iou(counts)[0], both / either)


# ---- a network -----------------------------------------------------------------------------------------------------


def test_maps_are_those_before_and_after_the_gates_also_where_a_shortcut_is_added_in_place():
    model = gated()
    images = factor_pictures(11, (3, 16, 16)).images  # no multiple of what batches are filled up to
    hooks = sum(len(module._forward_hooks) for module in model.network.modules())
    (found,) = layer_maps(model, images, ["conv"], batch_size=4).values()
    layer = model.network.conv
    features = model.network.stem(images).relu()
    h = layer.norm(layer.conv(features))
    gates = (features.mean((2, 3)) > layer.gate.level).float()
    assert 0 < gates.mean() < 1
    torch.testing.assert_close(found.unmasked, h, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.masked, h * gates[:, :, None, None], atol=1e-5, rtol=1e-5)
    assert sum(len(module._forward_hooks) for module in model.network.modules()) == hooks


def test_a_layer_without_gates_is_refused_by_name():
    with pytest.raises(SetupError, match=r"no gated layer 'stem'\n  it has: conv"):
        layer_maps(gated(), torch.rand(2, 3, 16, 16), ["stem"])


@pytest.mark.parametrize(("channels", "side"), [(3, 40), (1, 16)])
def test_a_report_on_factors_is_json_with_all_concepts(channels, side):
    model = gated(channels=channels, side=side)
    before = model.checksum()
    report = factor_report(model, ["conv"], count=48)
    assert report == json.loads(json.dumps(report, allow_nan=False)) == factor_report(model, ["conv"], count=48)
    layer = report["layers"]["conv"]
    assert set(layer) == {"gates", "units", "combinations"}
    assert set(layer["units"]) == set(layer["combinations"]) == {"masked", "unmasked"}
    for combinations in layer["combinations"].values():
        assert set(combinations["concepts"]) == set(report["concepts"]) and len(report["concepts"]) == 16
        assert combinations["judged"] + len(combinations["excluded"]) == 16
        for rival in ("path_beats_random", "path_beats_unit"):
            found = combinations[rival]
            assert found["low"] <= found["difference"] <= found["high"]
            wanted = "holds" if found["low"] > 0 else "fails" if found["high"] < 0 else "unclear"
            assert found["verdict"] == wanted
    assert model.checksum() == before


def test_fixed_gates_have_no_paths_to_judge_and_say_so():
    model = gated(lambda fan_out: FixedGate(torch.arange(fan_out) % 2 == 0))
    layer = factor_report(model, ["conv"], count=32)["layers"]["conv"]
    assert layer["gates"]["constant"] == layer["gates"]["filters"] == 6 and layer["gates"]["tested"] == 0
    combinations = layer["combinations"]["unmasked"]
    assert combinations["judged"] == 0 and len(combinations["excluded"]) == 16
    assert combinations["path_beats_random"] == {
        "difference": None,
        "low": None,
        "high": None,
        "concepts_ahead": 0,
        "verdict": "undefined",
    }


def test_pictures_with_labels_alone_are_looked_at_for_gates_alone():
    images, labels = torch.rand(12, 3, 30, 20, generator=generator()), torch.arange(12) % 3
    report = label_report(gated(channels=1), images, labels, ["a", "b", "c"], ["conv"])
    assert set(report["layers"]["conv"]) == {"gates"}
    assert list(report["layers"]["conv"]["gates"]["concepts"]) == ["a", "b", "c"]


def test_a_gate_that_follows_a_concept_is_found_by_the_report():
    """Gates read red, green or blue; dark pictures and pictures of pure red differ in the first alone."""
    images = torch.full((20, 3, 16, 16), 0.1)
    images[::2, 0] = 0.9
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(6, 4))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3)[:, :, None, None])
        network[0].bias.zero_()
    attach(network.eval(), lambda name, conv: Threshold(conv.out_channels, 0.5))
    shape, zeros = (3, 16, 16), (0.0,) * 3
    model = Classifier(network, name="toy", image_shape=shape, num_classes=4, mean=zeros, std=(1.0,) * 3, taps={})
    found = label_report(model, images, torch.arange(20) % 2, ["red", "dark"], ["2"])["layers"]["2"]["gates"]
    assert found["constant"] == 4 and found["tested"] == 4 and found["significant"] == 4
    assert found["concepts"]["red"] == {"significant": 2, "filter": 0, "phi": 1.0, "difference": 1.0}


def test_masks_of_another_size_than_the_pictures_are_refused():
    model, pictures = gated(), factor_pictures(8, (3, 16, 16))
    with pytest.raises(ShapeError, match="masks should be"):
        concept_report(
            model, pictures.images, pictures.present, pictures.concepts, ["conv"], masks=pictures.masks[..., :8]
        )
    with pytest.raises(ShapeError, match="16 concepts need as many names, got 2"):
        concept_report(model, pictures.images, pictures.present, ["a", "b"], ["conv"])
