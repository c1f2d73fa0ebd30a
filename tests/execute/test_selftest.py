"""Known answers: they come out right here, a broken metric is found out, and every record says how they came out."""

import dataclasses
import importlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench import registry
from bench.contract import Undefined, Unsupported
from bench.execute import selftest
from bench.execute.cell import Run, rescore, run_cell, stamp_of
from bench.execute.lab import Lab
from bench.execute.selftest import Between, Check, Finding, Outcome, near
from bench.execute.state import todo
from bench.plan.cells import Cell, Plan
from bench.record import Record, Store
from tests.execute import tiny
from tests.test_contract import global_state

CPU = torch.device("cpu")
# Section 4 of the metrics specification: (check, numbers that must stand in its table).
SPECIFIED = {
    "Fréchet, means 0.5 apart in 64-d": (16.0,),
    "Fréchet, means 1 apart in 4-d": (4.0,),
    "Fréchet of a set with itself": (0.0,),
    "PRDC of normal sets, k = 5": (0.744, 0.740, 1.1352, 0.974),
    "PRDC of points on a line, k = 1": (0.75, 1.0, 1.5, 1.0),
    "Vendi of two alike and one other": (2.1573004833739833,),
    "PSNR of camera and noise": (22.40935,),
    "SSIM of camera and noise": (0.357964,),
    "the same, scikit-image's default": (0.3674518,),
    "GMACs of resnet18, deit_tiny": (1.819065856, 1.2584112),
    "pixels changed by bound-0 attacks": (0.0,),
}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """The selftest as it is, and that it leaves nothing behind."""
    fused = importlib.import_module("timm.layers").use_fused_attn()
    before = global_state()
    found = selftest.selftest(CPU)
    assert global_state() == before
    assert importlib.import_module("timm.layers").use_fused_attn() == fused
    return found


def test_every_known_answer_comes_out_here_in_time(outcome: Outcome):
    assert [finding for finding in outcome.findings if finding.status != "ok"] == []
    assert outcome.stamp == "pass"
    assert outcome.seconds < 60, "30 s on two free cores"
    assert str(outcome).startswith(f"{len(selftest.CHECKS)} checks pass (")


def test_the_same_numbers_come_out_again(outcome: Outcome):
    quick = [one for one in selftest.CHECKS if "LRP" not in one.name and "GMACs" not in one.name]
    again = [selftest._find(one, CPU) for one in quick]
    assert again == [finding for finding in outcome.findings if finding.name in {one.name for one in quick}]


@pytest.mark.parametrize("name", SPECIFIED)
def test_the_table_has_the_specified_numbers(name: str):
    assert find(name).expected.numbers == SPECIFIED[name]


def test_every_check_has_a_name_of_its_own():
    assert len({one.name for one in selftest.CHECKS}) == len(selftest.CHECKS)


def test_the_kernel_distance_of_a_set_with_itself_is_the_known_one():
    features = np.random.RandomState(0).randn(500, 64)
    kernel = (features @ features.T / 64 + 1) ** 3
    apart = [kernel[i, j] for i in range(500) for j in range(500) if i != j]
    (known,) = find("kernel distance of a set with itself").expected.numbers
    assert 2 * np.mean(apart) - 2 * kernel.mean() == pytest.approx(known, abs=1e-10)
    assert known < 0


def find(name: str) -> Check:
    (found,) = [one for one in selftest.CHECKS if one.name == name]
    return found


# ---- what fits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        ([1.0, 2.0], True),
        ([1.1, 1.9], True),
        ([1.2, 2.0], False),
        ([1.0], False),
        ([1.0, math.nan], False),
        ([], False),
    ],
)
def test_numbers_fit_within_their_tolerance(found: list[float], fits: bool):
    assert near(1.0, 2.0, tolerance=0.15).fits(found) == fits


def test_one_number_stands_for_all_and_without_tolerance_nothing_is_forgiven():
    assert near(0.0, tolerance=0.0).fits([0.0, 0.0, 0.0])
    assert not near(0.0, tolerance=0.0).fits([0.0, 1e-300])


@pytest.mark.parametrize(("found", "fits"), [(0.8, True), (1.2, True), (1.21, False), (math.nan, False)])
def test_a_range_includes_its_ends(found: float, fits: bool):
    assert Between(0.8, 1.2).fits([found]) == fits


# ---- what is found out ---------------------------------------------------------------------------------------------


def changed(function: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda **roles: change(function(**roles))


def exchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Generated and real in each other's place."""
    return lambda referee_features, real_referee_features, **settings: function(
        referee_features=real_referee_features, real_referee_features=referee_features, **settings
    )


BROKEN: dict[str, tuple[str, Callable[[Callable[..., Any]], Callable[..., Any]], set[str]]] = {  # what is found out
    "clipped at 0": (
        "kernel_referee_penultimate",
        lambda f: changed(f, lambda value: value.clamp(min=0)),
        {"kernel distance of a set with itself"},
    ),
    "sides exchanged": ("precision", exchanged, {"PRDC of normal sets, k = 5", "PRDC of points on a line, k = 1"}),
    "a millionth more": (
        "frechet_referee_penultimate",
        lambda f: changed(f, lambda value: value + 1e-6),
        {"Fréchet of a set with itself"},
    ),
    "in bits": (
        "vendi_referee_cosine",
        lambda f: changed(f, lambda value: value.log2().exp()),
        {"Vendi of two alike and one other", "Vendi of 8 equal, 8 orthogonal"},
    ),
    "to the power": ("psnr", lambda f: changed(f, lambda value: value / 2), {"PSNR of camera and noise"}),
    "an absent value": ("ssim_gauss11_s15", lambda f: lambda **r: Undefined("no"), {"SSIM of camera and noise"}),
    "upside down": ("auroc", lambda f: changed(f, lambda value: 1 - value), {"AUROC and AUPR of four scores"}),
    "in bits too": ("nll", lambda f: changed(f, lambda value: value / math.log(2)), {"NLL of a guess among 10"}),
    "no gap": ("ece_15", lambda f: changed(f, lambda value: value * 0), {"ECE, 80 % sure and half right"}),
    "least first": (
        "deletion_auc",
        lambda f: lambda **roles: f(**(roles | {"maps": -roles["maps"]})),
        {"deletion, what counts first, last"},
    ),
}
SLOW = ("LRP", "GMACs", "pixels", "the same")  # nothing that is broken here is in them


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_metric_fails_its_checks_and_no_other(monkeypatch: pytest.MonkeyPatch, how: str):
    stem, breaking, checks = BROKEN[how]
    load = registry.load_metric
    monkeypatch.setattr(registry, "load_metric", lambda name: breaking(load(name)) if name == stem else load(name))
    monkeypatch.setattr(selftest, "CHECKS", [one for one in selftest.CHECKS if not one.name.startswith(SLOW)])
    found = selftest.selftest(CPU)
    assert {finding.name for finding in found.failures} == checks
    assert found.stamp == "fail"
    assert f"{len(checks)} of {len(found.findings)} checks FAIL" in str(found)


def test_an_attack_that_moves_one_pixel_by_one_bit_is_named(monkeypatch: pytest.MonkeyPatch):
    make = registry.make_method

    class Moving:
        def attack(self, task: Any) -> torch.Tensor:
            images = task.images.clone()
            images[2, 1, 3, 3] = torch.nextafter(images[2, 1, 3, 3], torch.tensor(1.0))
            return images

    monkeypatch.setattr(registry, "make_method", lambda name: Moving() if name == "adversarial/pgd" else make(name))
    found = selftest._find(find("pixels changed by bound-0 attacks"), CPU)
    assert (found.status, found.found) == ("fail", "pgd (linf) 1, pgd (l2) 1")


def crash(device: torch.device) -> float:
    raise RuntimeError("out of paper\nand ink")


def without_library(device: torch.device) -> float:
    raise ModuleNotFoundError("No module named 'abacus.beads'", name="abacus.beads")


def without_weights(device: torch.device) -> float:
    raise Unsupported("needs abacus")


def without_ourselves(device: torch.device) -> float:
    raise ModuleNotFoundError("No module named 'metrics._gone'", name="metrics._gone")


@pytest.mark.parametrize(
    ("compute", "status", "found"),
    [
        (crash, "fail", "RuntimeError: out of paper"),
        (without_library, "skipped", "needs abacus"),
        (without_weights, "skipped", "needs abacus"),
        (without_ourselves, "fail", "ModuleNotFoundError: No module named 'metrics._gone'"),
    ],
)
def test_a_check_that_crashes_fails_and_one_without_its_library_is_skipped(
    compute: selftest.Compute, status: str, found: str
):
    finding = selftest._find(Check("one", near(1.0), compute), CPU)
    assert finding == Finding("one", "1 ± 1e-9", found, status)  # type: ignore[arg-type]


def outcome_of(*statuses: Any, **facts: Any) -> Outcome:
    return Outcome(tuple(Finding("a check", "1", "2", status) for status in statuses), seconds=6.2, **facts)


@pytest.mark.parametrize(
    ("ended", "stamp", "text"),
    [
        (outcome_of("ok", "ok"), "pass", "2 checks pass (6 s)"),
        (outcome_of("ok", "ok", known=True), "pass", "2 checks pass (as before)"),
        (outcome_of("ok", "skipped"), "pass", "pass, 1 of 2 skipped (6 s)"),
        (outcome_of("ok", "fail", "skipped"), "fail", "1 of 3 checks FAIL, 1 of 3 skipped (6 s)"),
        (outcome_of("skipped"), "skipped", "skipped"),
        (Outcome(), "skipped", "skipped"),
    ],
)
def test_one_failure_decides_and_skipped_checks_are_said(ended: Outcome, stamp: str, text: str):
    assert (ended.stamp, str(ended)) == (stamp, text)


# ---- what is remembered --------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A table of one check; it finds the last number of the list, and each look at it takes that number away."""
    numbers: list[float] = []
    monkeypatch.setattr(selftest, "CHECKS", [Check("one", near(1.0), lambda device: numbers.pop())])
    return numbers


def test_a_pass_is_remembered_until_the_code_changes(
    store: Store, counted: list[float], monkeypatch: pytest.MonkeyPatch
):
    counted[:] = [1.0, 1.0]
    first = selftest.ensure(store, CPU)
    second = selftest.ensure(store, CPU)
    assert (first.known, second.known, counted) == (False, True, [1.0])
    assert first.findings == second.findings
    monkeypatch.setattr(registry, "source_digest", lambda kind, name: "another")
    assert not selftest.ensure(store, CPU).known
    assert counted == []


def test_a_failure_is_not_remembered(store: Store, counted: list[float]):
    counted[:] = [1.0, 2.0]
    assert selftest.ensure(store, CPU).stamp == "fail"
    assert selftest.ensure(store, CPU).stamp == "pass"


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"half'])
def test_a_file_that_remembers_nothing_is_written_anew(store: Store, counted: list[float], text: str):
    (store.root / "selftest.json").write_text(text, encoding="utf-8")
    counted[:] = [1.0]
    assert selftest.ensure(store, CPU).stamp == "pass"
    assert len(json.loads((store.root / "selftest.json").read_text(encoding="utf-8"))) == 1
    assert selftest.ensure(store, CPU).known


# ---- the stamp on records ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Bench:
    """An attack's cell with its record, and ways to measure it again."""

    cell: Cell
    store: Store
    lab: Lab

    @property
    def record(self) -> Record:
        return self.store.read(self.cell.key)

    def stamped(self, stamp: str, missing: str = "") -> Record:
        """The record as it would be if it had been measured under that stamp, without one reading."""
        record = self.record
        readings = tuple(one for one in record.readings if one.stem != missing)
        values = {name: array for name, array in self.store.values(record).items() if name.split(".")[0] != missing}
        provenance = record.provenance | {"selftest": stamp}
        spoilt = [one.model_copy(update={"value": -1.0}) if one.value is not None else one for one in readings]
        changes = {"provenance": provenance, "readings": tuple(spoilt)}
        return self.store.rewrite(record.model_copy(update=changes), values)

    def retaken(self) -> set[str]:
        return {one.stem for one in self.record.readings if one.value is not None and one.value != -1.0}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("measured")
    plan, store = tiny.plan_of(folder, referee=None), tiny.make_store(folder)
    cell = tiny.find(plan, "adversarial", "fgsm")
    lab = Lab(store, None, CPU)
    needed = [one for one in plan.cells if one.key in cell.needs]
    for one in (*needed, cell):
        run_cell(one, lab, Run("test", "tiny", "0.1.0", "fail"))
    return Bench(cell, store, lab)


def test_a_run_stamps_its_records(measured: Bench):
    stamps = [stamp_of(measured.store.read(key)) for key in (*measured.cell.needs, measured.cell.key)]
    assert stamps == ["fail", "fail"]


ONE = "l2_size"


@pytest.mark.parametrize(
    ("before", "missing", "now", "what", "after", "all_anew"),
    [
        ("fail", "", "pass", "score", "pass", True),
        ("fail", ONE, "pass", "score", "pass", True),
        ("fail", "", "fail", "nothing", "fail", False),
        ("fail", "", "skipped", "nothing", "fail", False),
        ("fail", ONE, "skipped", "score", "fail", False),
        ("skipped", "", "pass", "nothing", "skipped", False),
        ("skipped", ONE, "pass", "score", "pass", True),
        ("skipped", ONE, "fail", "score", "fail", False),
        ("pass", "", "pass", "nothing", "pass", False),
        ("pass", ONE, "pass", "score", "pass", False),
        ("pass", ONE, "fail", "score", "fail", False),
        ("pass", ONE, "skipped", "score", "skipped", False),
    ],
)
def test_a_stamp_holds_for_all_readings_of_a_record(
    measured: Bench, before: str, missing: str, now: str, what: str, after: str, all_anew: bool
):
    record = measured.stamped(before, missing)
    assert todo(measured.cell, measured.store, record, selftest=now) == what
    again = rescore(measured.cell, measured.lab, record, selftest=now)
    assert stamp_of(again) == stamp_of(measured.record) == after
    ok = {one.stem for one in measured.record.readings if one.status == "ok"}
    assert measured.retaken() == (ok if all_anew else {missing} & ok)
    assert todo(measured.cell, measured.store, measured.record, selftest=now) == "nothing"


def test_a_reading_that_cannot_be_taken_anew_does_not_outlive_a_failed_selftest(measured: Bench):
    record = measured.stamped("fail")
    gone = record.readings[0].model_copy(update={"stem": "gone", "metric": "gone", "values": None, "replicates": None})
    record = measured.store.rewrite(
        record.model_copy(update={"readings": (gone, *record.readings)}), measured.store.values(record)
    )
    rescore(measured.cell, measured.lab, record, selftest="pass")
    assert "gone" not in {one.stem for one in measured.record.readings}


@pytest.mark.usefixtures("in_this_process")
def test_a_later_run_with_a_passing_selftest_mends_what_a_failing_one_measured(plan: Plan, store: Store):
    cell = tiny.find(plan, "attribution", "gradient")
    cells = [one for one in plan.cells if one.key in (*cell.needs, cell.key)]
    stamps = []
    for stamp, ran in (("fail", len(cells)), ("pass", len(cells)), ("pass", 0)):
        ended, _ = tiny.run_in_workers(plan, store, cells, selftest=stamp)
        assert (ended.exit_status, ended.ran) == (0, ran)
        stamps.append({stamp_of(store.read(one.key)) for one in cells})
    assert stamps == [{"fail"}, {"pass"}, {"pass"}]
