"""The same bits whatever ran before, in which order and in how many workers; nearly the same in other batches."""

from pathlib import Path

import pytest
import torch

from bench.contract import DetectionTask
from bench.execute.lab import Lab
from bench.execute.tracks import batches, stored_tensors, whole_task
from bench.plan.cells import Plan
from bench.record import Store
from tests.execute import tiny
from tests.execute.conftest import Finished

# Ten steps each: a step is one forward and one backward pass.
ALIKE = {  # (track, method) → largest difference of a pixel between batches of one and of all
    ("reconstruction", "feature_matching"): 1e-5,
    ("inversion", "pixel_ascent"): 1e-5,
    ("visualization", "pixel_ascent"): 1e-5,
    ("adversarial", "fgsm"): 1e-6,
    ("adversarial", "pgd"): 1e-6,
}


def test_another_order_and_two_workers_give_the_same_bits(tmp_path: Path, plan: Plan, finished: Finished):
    store = tiny.make_store(tmp_path)
    detection = tiny.find(plan, "detection")
    first = [cell for cell in plan.cells if cell.key in (*detection.needs, detection.key)]
    tiny.run_here(first, store)
    rest = [cell for cell in reversed(plan.cells) if cell not in first]
    outcome, watcher = tiny.run_in_workers(plan, store, [*first, *rest], workers=2)
    assert outcome.exit_status == 0
    assert sorted(watcher.ran) == sorted(cell.key for cell in rest)
    assert tiny.all_numbers(store, plan.cells) == tiny.all_numbers(finished.store, plan.cells)


def test_a_process_that_has_seen_every_cell_gives_the_bits_of_one_that_has_seen_none(
    plan: Plan, store: Store, finished: Finished
):
    lab = Lab(store, None, torch.device("cpu"))
    for _ in range(2):
        tiny.run_here(plan.cells, store, lab)
    assert tiny.all_numbers(store, plan.cells) == tiny.all_numbers(finished.store, plan.cells)


def test_keys_are_the_same_in_another_process(plan: Plan, finished: Finished):
    assert finished.store.keys() == sorted(cell.key for cell in plan.cells)


@pytest.fixture(scope="module")
def two_batch_sizes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan, Plan]:
    """One store with the tiny suite in batches of one image and of 64."""
    folder = tmp_path_factory.mktemp("batches")
    store = tiny.make_store(folder)
    ones, many = (tiny.plan_of(folder, batch_size=size) for size in (1, 64))
    for plan in (ones, many):
        tiny.run_here([cell for cell in plan.cells if not store.has(cell.key)], store)
    return store, ones, many


@pytest.mark.parametrize(("track", "method"), ALIKE)
def test_one_image_at_a_time_or_all_at_once(two_batch_sizes: tuple[Store, Plan, Plan], track: str, method: str):
    store, *plans = two_batch_sizes
    cells = [tiny.find(plan, track, method) for plan in plans]
    assert cells[0].key != cells[1].key, "the size of a batch is a condition of the key"
    one, many = (stored_tensors(store, cell.key)["generated"] for cell in cells)
    assert (one - many).abs().max() <= ALIKE[track, method]
    costs = [store.read(cell.key).cost for cell in cells]
    assert costs[0].forward_passes == costs[1].forward_passes


@pytest.mark.parametrize("track", ["reconstruction", "inversion", "visualization", "adversarial", "attribution"])
def test_an_images_draws_do_not_depend_on_its_batch(two_batch_sizes: tuple[Store, Plan, Plan], track: str):
    store, plan, _ = two_batch_sizes
    lab = Lab(store, None, torch.device("cpu"))
    cell = next(cell for cell in plan.wanted if cell.track == track)
    task, _ = whole_task(cell, lab, lab.model(cell, cell.subject, cell.subject_key))
    for law in ("normal", "uniform", "sign"):
        whole = task.draws("jitter", 3, 2, law=law)
        for size in (1, 3):
            parts = [part.draws("jitter", 3, 2, law=law) for part in batches(task, size)]
            assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(torch.cat([part.noise() for part in batches(task, 1)]), task.noise())
    assert len({row.numpy().tobytes() for row in task.noise()}) == len(task), "no two images start alike"


def test_a_batch_has_its_images_and_all_of_what_is_shared(two_batch_sizes: tuple[Store, Plan, Plan]):
    store, plan, _ = two_batch_sizes
    lab = Lab(store, None, torch.device("cpu"))
    cell = tiny.find(plan, "detection")
    task, extra = whole_task(cell, lab, lab.model(cell, cell.subject, cell.subject_key))
    parts = list(batches(task, 7))
    assert isinstance(task, DetectionTask)
    assert len(parts) > 1 and [len(part) for part in parts[:-1]] == [7] * (len(parts) - 1)
    assert torch.equal(torch.cat([part.images for part in parts]), task.images)
    for name in ("clean", "clean_labels", "known", "known_attacked", "known_originals", "known_labels"):
        assert all(torch.equal(getattr(part, name), getattr(task, name)) for part in parts)
    assert 3 * extra["attacked"].sum() == len(task)
