"""Laws that every registered method and metric obeys. A new file is covered as soon as it lies in its folder."""

import dataclasses
import inspect
import json
import random
from functools import cache
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import contract, registry
from bench.contract import ROLES, TIMED_UNITS, TRACKS, MetricCard, ShapeError, Task, Undefined, Unsupported
from tests import toys

METHODS = registry.method_names()
TRAINERS = [name for name in METHODS if name.startswith("training/")]
LOOKERS = [name for name in METHODS if name not in TRAINERS]
METRICS = registry.metric_names()


def load(load_one: Any, name: str) -> Any:
    """What is registered under the name; the test is skipped when an optional library is missing."""
    try:
        return load_one(name)
    except Unsupported as missing:
        pytest.skip(f"{name}: {missing}")


def variants_of(name: str) -> list[str]:
    try:
        return sorted(registry.method_card(name).variants)
    except Unsupported:
        return ["default"]


def tracks_of(name: str) -> tuple[str, ...]:
    try:
        return registry.metric_card(name).tracks
    except Unsupported:
        return ()


def global_state() -> list[Any]:
    """Everything outside a task that a method could move: generators, gradients, precision, threads."""
    kind, numbers, *rest = np.random.get_state()  # noqa: NPY002 - the global generator is what is being watched
    return [
        torch.get_rng_state().tolist(),
        (kind, numbers.tolist(), *rest),
        random.getstate(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cpu"),
        [len(hooks) for hooks in (nn.modules.module._global_forward_hooks, nn.modules.module._global_backward_hooks)],
    ]


def hooks_on(network: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


def subject_state(model: Any) -> dict[str, Any]:
    return {
        "checksum": model.checksum(),
        "hooks": hooks_on(model),
        "learning": [(name, parameter.requires_grad) for name, parameter in model.named_parameters()],
        "gradients": [name for name, parameter in model.named_parameters() if parameter.grad is not None],
        "training": [name for name, module in model.named_modules() if module.training],
        "threads through": [name for name, buffer in model.named_buffers() if buffer.requires_grad],
    }


# ---- every method --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_a_frozen_keyword_only_dataclass_that_a_record_can_hold(name: str):
    cls = load(registry.load_method, name)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(cls))
    settings = dataclasses.asdict(cls())  # every setting has a default
    assert json.loads(json.dumps(settings)) == settings


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_its_source_and_says_what_it_does(name: str):
    cls = load(registry.load_method, name)
    card = registry.method_card(name)
    assert card.source.strip()
    assert isinstance(card.version, int) and card.version >= 1
    assert registry.entry("method", name).summary, "the file's docstring is its line in `list methods`"
    verb = getattr(cls, TRACKS[name.split("/")[0]].verb)
    assert inspect.getdoc(cls) and inspect.getdoc(verb)
    assert len(inspect.signature(verb).parameters) == 2  # self, task


@pytest.mark.parametrize("name", METHODS)
def test_every_variant_can_be_made(name: str):
    load(registry.load_method, name)
    made = {variant: registry.make_method(name, variant) for variant in variants_of(name)}
    assert "default" in made
    assert len(set(map(repr, made.values()))) == len(made), "two variants are the same"


# ---- methods that look into a subject ------------------------------------------------------------------------------


def conditions_of(name: str) -> tuple[str, ...]:
    return toys.CONDITIONS.get(name.split("/")[0], ("",))


def toy_task_for(name: str, condition: str, **changes: int) -> Task:
    reference = registry.method_card(name).reference
    return toys.toy_task(name.split("/")[0], condition, reference=reference, **changes)


def reason_against(name: str, variant: str, task: Task) -> str | None:
    made = registry.make_method(name, variant)
    return made.why_not(task) if hasattr(made, "why_not") else None


def cases_of(name: str) -> list[Any]:
    """Every variant under every condition that it does not refuse."""
    try:
        tasks = {condition: toy_task_for(name, condition) for condition in conditions_of(name)}
    except Unsupported as missing:
        return [pytest.param(name, "default", "", marks=pytest.mark.skip(reason=f"{name}: {missing}"))]
    return [
        pytest.param(name, variant, condition, id=f"{name}:{variant}{condition and '@'}{condition}")
        for variant in variants_of(name)
        for condition, task in tasks.items()
        if reason_against(name, variant, task) is None
    ]


CASES = [case for name in LOOKERS for case in cases_of(name)]
every_case = pytest.mark.parametrize(("name", "variant", "condition"), CASES)


def fitted(made: Any, task: Task) -> Task:
    return task.replace(fitted=made.fit(task)) if hasattr(made, "fit") else task


def look(made: Any, name: str, task: Task) -> Tensor:
    return getattr(made, TRACKS[name.split("/")[0]].verb)(task)


@cache
def outcome(name: str, variant: str, condition: str, seed: int = 0) -> SimpleNamespace:
    """One run of a method on a toy cell, with everything that was watched."""
    made, task = registry.make_method(name, variant), toy_task_for(name, condition, seed=seed)
    purposes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract.Task, "draws", _noting(purposes, contract.Task.draws))
        inputs = {field: tensor.clone() for field, tensor in toys.tensors_of(task).items()}
        before, state = subject_state(task.model), global_state()
        ready = fitted(made, task)
        result = look(made, name, ready)
    return SimpleNamespace(
        made=made,
        task=ready,
        purposes=purposes,
        inputs=inputs,
        result=result,
        spent=task.model.passes.total,
        before=before,
        after=subject_state(task.model),
        state_before=state,
        state_after=global_state(),
    )


def _noting(purposes: list[str], draws: Any) -> Any:
    def noted(task: Task, purpose: str, *shape: int, **law: Any) -> Tensor:
        purposes.append(purpose)
        return draws(task, purpose, *shape, **law)

    return noted


@pytest.fixture
def run(name: str, variant: str, condition: str) -> SimpleNamespace:
    return outcome(name, variant, condition)


@pytest.mark.parametrize("name", LOOKERS)
def test_a_method_runs_somewhere_and_gives_reasons_elsewhere(name: str):
    load(registry.load_method, name)
    tasks = [toy_task_for(name, condition) for condition in conditions_of(name)]
    reasons = [reason_against(name, "default", task) for task in tasks]
    assert None in reasons, f"never runs: {reasons}"
    assert all(reason is None or (isinstance(reason, str) and reason.strip()) for reason in reasons)
    assert all(task.model.passes.total == 0 for task in tasks), "asking costs nothing"


@every_case
def test_the_result_has_the_tracks_shape_and_range(run: SimpleNamespace, name: str):
    count, (channels, height, width) = len(run.task), toys.SHAPE
    track, result = name.split("/")[0], run.result
    shape = {"detection": (count,), "attribution": (count, height, width)}.get(track, (count, channels, height, width))
    assert result.shape == shape
    assert result.dtype == torch.float32
    assert not result.requires_grad
    assert result.device == run.task.device
    assert result.isfinite().all()
    if len(shape) == 4:
        assert result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize(
    ("name", "variant", "condition"), [case for case in CASES if case.values[2] in ("linf_8_255", "l2_1_2")]
)
def test_perturbed_images_stay_within_the_bound(run: SimpleNamespace):
    bound = run.task.bound
    change = (run.result.double() - run.task.images.double()).flatten(1)
    size = change.abs().amax(1) if bound.norm == "linf" else change.norm(dim=1)
    assert (size <= bound.size * (1 + 1e-5)).all()


@every_case
def test_the_same_seed_gives_the_same_bits(run: SimpleNamespace, name: str, variant: str, condition: str):
    again = outcome.__wrapped__(name, variant, condition)
    assert torch.equal(run.result, again.result)


@every_case
def test_another_seed_gives_something_else_when_anything_is_drawn(
    run: SimpleNamespace, name: str, variant: str, condition: str
):
    other = outcome(name, variant, condition, seed=1)
    assert torch.equal(run.result, other.result) == (not run.purposes)


@every_case
def test_an_image_alone_comes_out_as_in_its_batch(run: SimpleNamespace, name: str):
    if not registry.method_card(name).alone:
        pytest.skip("its card says that images depend on each other")
    run.task.model.passes.limit = None
    for image in (0, len(run.task) - 1):
        alone = look(run.made, name, toys.only(run.task, image))
        torch.testing.assert_close(alone[0], run.result[image], atol=1e-5, rtol=1e-5)


@every_case
def test_the_subject_is_left_as_it_was(run: SimpleNamespace):
    assert run.after == run.before


@every_case
def test_global_state_is_left_as_it_was(run: SimpleNamespace):
    assert run.state_after == run.state_before


@every_case
def test_the_task_is_left_as_it_was(run: SimpleNamespace):
    for field, tensor in run.inputs.items():
        assert torch.equal(getattr(run.task, field), tensor), field


@every_case
def test_the_result_shares_no_memory_with_the_task(run: SimpleNamespace):
    owned = {tensor.untyped_storage().data_ptr() for tensor in toys.tensors_of(run.task).values()}
    assert run.result.untyped_storage().data_ptr() not in owned


@every_case
def test_the_budget_is_kept(run: SimpleNamespace):
    assert run.spent <= run.task.budget * len(run.task)


@every_case
def test_without_a_budget_a_method_says_why_not_or_spends_nothing(name: str, variant: str, condition: str):
    task = toy_task_for(name, condition, budget=0)
    if reason_against(name, variant, task) is None:
        made = registry.make_method(name, variant)
        look(made, name, fitted(made, task))
    assert task.model.passes.total == 0


# ---- training methods ----------------------------------------------------------------------------------------------

# They go on with a trained network: from random weights without batch norm their default steps are too large.
SMALLER_STEPS = {f"training/{stem}": {"step_size": 0.03} for stem in ("feature_boosting", "magnitude_pruning")}


@cache
def trained(name: str, seed: int = 0) -> SimpleNamespace:
    task = toys.toy_training_task(seed)
    inputs, state = {field: tensor.clone() for field, tensor in toys.tensors_of(task).items()}, global_state()
    network = registry.make_method(name, "default", SMALLER_STEPS.get(name, {})).train(task)
    return SimpleNamespace(
        task=task,
        inputs=inputs,
        network=network,
        state_before=state,
        state_after=global_state(),
        hooks=hooks_on(network),
    )


def loss_on(network: nn.Module, task: contract.TrainingTask) -> float:
    with torch.no_grad():
        return nn.functional.cross_entropy(network(task.images.float() / 255), task.labels).item()


def weights(network: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])


@pytest.mark.parametrize("name", TRAINERS)
def test_training_returns_a_network_in_eval_mode_that_gives_logits(name: str):
    load(registry.load_method, name)
    ran = trained(name)
    assert isinstance(ran.network, nn.Module)
    assert not any(module.training for module in ran.network.modules())
    with torch.no_grad():
        logits = ran.network(ran.task.images.float() / 255)
    assert logits.shape == (len(ran.task.images), toys.CLASSES)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert ran.hooks == 0


@pytest.mark.parametrize("name", TRAINERS)
def test_training_lowers_the_loss(name: str):
    load(registry.load_method, name)
    ran = trained(name)
    untrained = toys.toy_training_task().network.eval()
    assert loss_on(ran.network, ran.task) < 0.5 * loss_on(untrained, ran.task)


@pytest.mark.parametrize("name", TRAINERS)
def test_training_depends_on_the_seed_and_on_nothing_else(name: str):
    load(registry.load_method, name)
    assert torch.equal(weights(trained(name).network), weights(trained.__wrapped__(name).network))
    assert not torch.equal(weights(trained(name).network), weights(trained(name, seed=1).network))


@pytest.mark.parametrize("name", TRAINERS)
def test_training_leaves_global_state_and_data_as_they_were(name: str):
    load(registry.load_method, name)
    ran = trained(name)
    assert ran.state_after == ran.state_before
    for field, tensor in ran.inputs.items():
        assert torch.equal(getattr(ran.task, field), tensor), field


# ---- every metric --------------------------------------------------------------------------------------------------

METRIC_CASES = [pytest.param(name, track, id=f"{name}@{track}") for name in METRICS for track in tracks_of(name)]
every_metric_case = pytest.mark.parametrize(("name", "track"), METRIC_CASES)


def measure(name: str, roles: dict[str, Any]) -> Any:
    """Call a metric as the harness does: by keyword, with the roles that its signature names."""
    function = load(registry.load_metric, name)
    return function(**{role: roles[role] for role in inspect.signature(function).parameters if role in roles})


def looks_at_images(name: str) -> bool:
    """Whether any role has an axis of images; what a network or a cell costs has none, and time is never the same."""
    if registry.metric_card(name).unit in TIMED_UNITS:
        return False
    return not set(inspect.signature(registry.load_metric(name)).parameters) & ROLES.keys() <= set(toys.WHOLE)


every_case_of_images = pytest.mark.parametrize(
    ("name", "track"), [case for case in METRIC_CASES if looks_at_images(case.values[0])]
)


def roles_for(name: str, track: str, **sizes: int) -> dict[str, Any]:
    side = toys.SIDES.get(name, toys.SHAPE[1])
    gated, one_class = name in toys.GATED, registry.metric_card(name).per == "class"
    return toys.toy_roles(track, one_class=one_class, side=side, gated=gated, **sizes)


@pytest.mark.parametrize("name", METRICS)
def test_a_metrics_card_can_be_believed(name: str):
    load(registry.load_metric, name)
    card, hints = registry.metric_card(name), get_type_hints(MetricCard)
    for field in ("better", "per", "resample"):
        assert getattr(card, field) in get_args(hints[field])
    low, high = card.bounds
    assert low is None or high is None or low < high
    assert card.unit.strip()
    assert card.tracks and set(card.tracks) <= set(TRACKS)
    assert card.version >= 1 and card.decimals >= 0 and card.replicates >= 0
    assert card.per == "set" or card.resample == card.per
    assert card.unit not in TIMED_UNITS or card.resample == "none", "time is not a property of the images"


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_asks_for_roles_by_name(name: str):
    for role, parameter in inspect.signature(load(registry.load_metric, name)).parameters.items():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        assert role in ROLES or parameter.default is not parameter.empty, f"{role} is neither a role nor a setting"


@pytest.mark.parametrize("name", METRICS)
def test_a_metrics_docstring_names_its_source_its_weakness_and_what_it_returns(name: str):
    lines = (inspect.getdoc(load(registry.load_metric, name)) or "").splitlines()
    for start in ("Source: ", "Beware: ", "Returns:"):
        assert sum(line.startswith(start) for line in lines) == 1, f"one line should start with {start!r}"


@pytest.mark.parametrize("track", TRACKS.values(), ids=lambda track: track.name)
def test_the_metric_that_ranks_a_board_exists_and_has_a_direction(track: contract.Track):
    card = registry.metric_card(track.primary)
    assert track.name in card.tracks
    assert card.better != "neither"


def check_value(value: Any, name: str, count: int) -> None:
    """The value has the shape its card promises, no NaN but for single images, and lies within its bounds."""
    card = registry.metric_card(name)
    assert isinstance(value, Tensor), f"got {value}"
    assert value.shape == ((count,) if card.per == "image" else ())
    assert value.dtype == torch.float64
    assert not value.requires_grad
    there = value[~value.isnan()] if card.per == "image" else value
    assert there.isfinite().all()
    low, high = card.bounds
    assert low is None or (there >= low - 1e-9).all()
    assert high is None or (there <= high + 1e-9).all()


@every_metric_case
def test_a_metric_is_defined_on_an_ordinary_cell(name: str, track: str):
    roles = roles_for(name, track)
    value = measure(name, roles)
    check_value(value, name, len(roles["generated"]))
    assert not value.isnan().all()


@every_metric_case
def test_a_metric_is_a_function_of_its_roles_alone(name: str, track: str):
    roles = roles_for(name, track)
    kept = {role: value.clone() for role, value in roles.items() if isinstance(value, Tensor)}
    state, subject = global_state(), subject_state(roles["target"])
    first, second = measure(name, roles), measure(name, roles)
    if registry.metric_card(name).unit not in TIMED_UNITS:
        assert torch.equal(first.nan_to_num(-9.0), second.nan_to_num(-9.0))
    assert global_state() == state
    assert subject_state(roles["target"]) == subject
    for role, tensor in kept.items():
        assert torch.equal(roles[role], tensor), role


@every_case_of_images
def test_the_order_of_images_does_not_matter(name: str, track: str):
    roles = roles_for(name, track, references=48)  # as many as images: some metrics drop the last of the larger side
    order = torch.randperm(len(roles["generated"]), generator=toys.generator(8))
    other = torch.randperm(len(roles["real_labels"]), generator=toys.generator(9))
    shuffled = toys.rows(toys.rows(roles, track, order), track, other, references=True)
    before, after = measure(name, roles), measure(name, shuffled)
    expected = before[order] if registry.metric_card(name).per == "image" else before
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-7, equal_nan=True)


@every_case_of_images
@pytest.mark.parametrize("references", [False, True], ids=["images", "references"])
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images_give_a_reason_or_a_value_never_a_crash(name: str, track: str, count: int, references: bool):
    few = toys.rows(roles_for(name, track), track, torch.arange(count), references=references)
    try:
        value = measure(name, few)
    except ShapeError:
        return
    if isinstance(value, Undefined):
        assert value.reason.strip()
    else:
        check_value(value, name, len(few["generated"]))
        assert len(few["generated"]) or registry.metric_card(name).per == "image", "a value made of nothing"
