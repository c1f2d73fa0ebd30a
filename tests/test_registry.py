"""Which methods and metrics there are: from the folders, from plugins, from installed packages; and what is missing."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import registry
from bench.contract import MethodCard, SetupError, Unsupported
from tests.execute import tiny

ROOT = Path(__file__).resolve().parent.parent

CACHES = [kept for kept in vars(registry).values() if hasattr(kept, "cache_clear")]
METHOD = '''"""Leaves the images alone."""

from dataclasses import dataclass

from bench.contract import method
{imports}

@method(source="a test", variants={{"bold": {{"strength": 2.0}}}})
@dataclass(frozen=True, kw_only=True)
class Nothing:
    """No change."""

    strength: float = 1.0  # of nothing
    steps: int = 3
    sizes: tuple[int, ...] = (1, 2)

    def attack(self, task):
        """The images."""
        return task.images
'''


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing registered here is there afterwards."""
    monkeypatch.setattr(registry, "_plugins", {})
    yield
    monkeypatch.undo()
    for kept in CACHES:
        kept.cache_clear()


def write(folder: Path, name: str = "nothing", imports: str = "") -> Path:
    path = folder / f"{name}.py"
    path.write_text(METHOD.format(imports=imports), encoding="utf-8")
    return path


# ---- names ---------------------------------------------------------------------------------------------------------


def test_every_file_in_the_folders_is_registered_under_its_stem_and_nothing_else():
    files = [path for path in (ROOT / "methods").glob("*/*.py") if not path.stem.startswith("_")]
    assert registry.method_names() == sorted(f"{path.parent.name}/{path.stem}" for path in files)
    metrics = [path.stem for path in (ROOT / "metrics").glob("*.py") if not path.stem.startswith("_")]
    assert registry.metric_names() == sorted(metrics)


def test_the_names_of_one_track_are_its_own():
    assert registry.method_names("adversarial") == [n for n in registry.method_names() if n.startswith("adversarial/")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adversarial/pgdd", "no method named 'adversarial/pgdd'. Did you mean 'adversarial/pgd'"),
        ("fgsm", "Did you mean 'adversarial/fgsm'"),
        ("zzzzzz", "no method named 'zzzzzz'.\n  list them with: run_bench.py list methods"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, message: str):
    with pytest.raises(SetupError) as error:
        registry.entry("method", name)
    assert message in str(error.value)


# ---- settings ------------------------------------------------------------------------------------------------------


def test_settings_stand_over_the_variant_and_the_variant_over_the_defaults(tmp_path: Path):
    registry.add_plugin(write(tmp_path))
    made = [
        registry.make_method("adversarial/nothing"),
        registry.make_method("adversarial/nothing", "bold"),
        registry.make_method("adversarial/nothing", "bold", {"strength": 5, "sizes": [4]}),
        registry.make_method("adversarial/nothing", "my_own", {"steps": 1}),
    ]
    assert [(one.strength, one.steps, one.sizes) for one in made] == [
        (1.0, 3, (1, 2)),
        (2.0, 3, (1, 2)),
        (5.0, 3, (4,)),
        (1.0, 1, (1, 2)),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strenght": 1.0}, "adversarial/nothing has no setting 'strenght'. Did you mean 'strength'"),
        ({"steps": 1.5}, "adversarial/nothing: setting steps: Input should be a valid integer, got 1.5"),
        ({"steps": "3"}, "adversarial/nothing: setting steps: Input should be a valid integer, got '3'"),
        ({"steps": True}, "adversarial/nothing: setting steps: Input should be a valid integer, got True"),
        ({"strength": None}, "adversarial/nothing: setting strength: Input should be a valid number, got None"),
        ({"sizes": [1, "x"]}, "adversarial/nothing: setting sizes.1: Input should be a valid integer, got 'x'"),
    ],
)
def test_a_setting_that_is_unknown_or_of_another_type_is_refused(tmp_path: Path, settings, message: str):
    registry.add_plugin(write(tmp_path))
    with pytest.raises(SetupError) as error:
        registry.make_method("adversarial/nothing", "mine", settings)
    assert message in str(error.value)


# ---- plugins -------------------------------------------------------------------------------------------------------


def test_a_plugin_is_listed_loaded_and_named_as_one(tmp_path: Path):
    found = registry.add_plugin(write(tmp_path))
    assert (found.name, found.origin, found.summary) == ("adversarial/nothing", "plugin", "Leaves the images alone.")
    assert "adversarial/nothing" in registry.method_names("adversarial")
    assert isinstance(registry.method_card("adversarial/nothing"), MethodCard)
    assert registry.plugins() == [found]


def test_the_same_plugin_twice_is_one_and_two_of_one_name_are_refused(tmp_path: Path):
    (tmp_path / "other").mkdir()
    registry.add_plugin(write(tmp_path))
    registry.add_plugin(tmp_path / "nothing.py")
    assert len(registry.plugins()) == 1
    with pytest.raises(SetupError, match="two plugins are called 'adversarial/nothing'"):
        registry.add_plugin(write(tmp_path / "other"))


def test_a_method_and_a_metric_may_share_a_stem(tmp_path: Path):
    from tests.execute.test_score import METRIC

    (tmp_path / "metric").mkdir()
    metric = tmp_path / "metric" / "nothing.py"
    metric.write_text(METRIC.format(factor=1), encoding="utf-8")
    kinds = {registry.add_plugin(path).kind for path in (write(tmp_path), metric)}
    assert kinds == {"method", "metric"}


# ---- missing libraries ---------------------------------------------------------------------------------------------


def test_a_method_whose_library_is_missing_is_unsupported_and_all_else_works(tmp_path: Path):
    registry.add_plugin(write(tmp_path, imports="import no_such_library.part"))
    with pytest.raises(Unsupported, match=r"^needs no_such_library$"):
        registry.load_method("adversarial/nothing")
    plan = tiny.plan_of(
        tmp_path,
        tracks={
            "adversarial": {"methods": ["nothing", "fgsm"], "conditions": ["linf_8_255"], "images": 4, "budget": 10}
        },
    )
    skips = {cell.method: cell.skip for cell in plan.wanted}
    assert skips == {"nothing": ("unsupported", "needs no_such_library"), "fgsm": None}


def test_a_plugin_that_misspells_a_part_of_the_project_is_no_missing_library(tmp_path: Path):
    registry.add_plugin(write(tmp_path, imports="from bench.opps import finite"))
    with pytest.raises(SetupError, match=r"cannot be imported: ModuleNotFoundError: No module named 'bench.opps'"):
        registry.load_method("adversarial/nothing")


# ---- digests -------------------------------------------------------------------------------------------------------


def digest(path: Path) -> str:
    """Of the file's source, as a process sees it that has not seen another of that name."""
    registry._plugins.clear()
    for kept in CACHES:
        kept.cache_clear()
    registry.add_plugin(path)
    return registry.source_digest("method", "adversarial/nothing")


def test_comments_docstrings_and_blank_lines_do_not_change_a_digest_and_code_does(tmp_path: Path):
    path = write(tmp_path)
    text, before = path.read_text(encoding="utf-8"), digest(path)
    path.write_text(text.replace("# of nothing", "# of everything").replace("No change.", "None."), encoding="utf-8")
    assert digest(path) == before
    path.write_text(text.replace("return task.images", "\n\n        return (task.images)"), encoding="utf-8")
    assert digest(path) == before
    path.write_text(text.replace("return task.images", "return task.images * 1"), encoding="utf-8")
    assert digest(path) != before
    path.write_text(text.replace("strength: float = 1.0", "strength: float = 1.5"), encoding="utf-8")
    assert digest(path) != before


OPS = """
LIMIT = 3

def half(images):
    return deeper(images) / 2

def deeper(images):
    return images * LIMIT

def unused(images):
    return images
"""


@pytest.mark.parametrize(
    ("old", "new", "matters"),
    [
        ("/ 2", "/ 4", True),
        ("images * LIMIT", "images + LIMIT", True),
        ("LIMIT = 3", "LIMIT = 4", True),
        ("return images\n", "return -images\n", False),
    ],
)
def test_a_digest_covers_what_is_used_of_the_project_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, matters: bool
):
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    (tmp_path / "bench").mkdir()
    path = write(tmp_path, imports="from bench.ops import half")
    path.write_text(path.read_text(encoding="utf-8").replace("task.images", "half(task.images)"), encoding="utf-8")
    digests = []
    for text in (OPS, OPS.replace(old, new)):
        (tmp_path / "bench" / "ops.py").write_text(text, encoding="utf-8")
        digests.append(digest(path))
    assert (digests[0] != digests[1]) is matters


def test_a_digest_does_not_depend_on_the_place_of_the_file(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    assert digest(write(tmp_path)) == digest(write(tmp_path / "elsewhere"))


# ---- installed packages --------------------------------------------------------------------------------------------


def install(folder: Path, points: str, **modules: str) -> None:
    """Make ``folder`` look like a place where a package with entry points is installed."""
    info = folder / "glass_extras-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: glass-extras\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    for name, text in modules.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path; what it offers is looked for anew."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    registry._from_packages.cache_clear()
    return folder


def test_an_installed_package_offers_its_methods_without_being_imported(site: Path):
    points = "[glassbench.methods]\nnothing = extras_nothing\n"
    install(site, points, extras_nothing=METHOD.format(imports=""))
    found = registry.entry("method", "adversarial/extras_nothing")
    assert found.origin == "glass-extras"
    assert "extras_nothing" not in sys.modules
    assert registry.make_method(found.name).strength == 1.0


def test_an_installed_package_cannot_take_a_built_in_name(site: Path):
    install(site, "[glassbench.methods]\nfgsm = fgsm\n", fgsm=METHOD.format(imports=""))
    assert registry.entry("method", "adversarial/fgsm").origin == "built-in"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("extras_nowhere", None),
        ("extras_package.nowhere", None),
        ("extras_broken", "def f(:\n"),
        ("extras_unmarked", "x = 1\n"),
        ("extras_raising.part", "raise RuntimeError('at import')\n"),
    ],
)
def test_a_broken_package_is_left_out_with_a_warning_and_stops_nothing(site: Path, module: str, text: str | None):
    files = {} if text is None else {module.split(".")[0]: text}
    install(site, f"[glassbench.methods]\nbad = {module}\n", **files)
    with pytest.warns(UserWarning, match="glass-extras: entry point bad is left out: "):
        names = registry.method_names()
    assert "adversarial/fgsm" in names
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.method_names() == names, "it is said once"
