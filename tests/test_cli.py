"""The command line: exit statuses, messages that say what to do, and no file written for a request that is wrong."""

import csv
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

import run_bench
from bench import registry
from bench.execute import selftest
from bench.execute.runner import index_of
from bench.execute.selftest import Check, near
from bench.execute.tracks import stored_tensors
from bench.plan.cells import Plan
from bench.record import Store
from bench.zoo.weights import public_card
from tests.execute import tiny
from tests.execute.test_score import METRIC

ROOT = Path(__file__).resolve().parent.parent
METHOD = tiny.FAULTY.read_text(encoding="utf-8")


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Give a command in ``tmp_path``, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_plugins", {})
    monkeypatch.setenv("COLUMNS", "200")
    for console in (run_bench.out, run_bench.err):  # they may have been made for another width
        monkeypatch.setattr(console, "width", 200)
    for name in ("GLASSBENCH_DATA", "GLASSBENCH_STORE"):
        monkeypatch.delenv(name, raising=False)

    def give(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["run_bench.py", *map(str, words)])
        monkeypatch.setattr(run_bench, "_status", 0)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_bench.main()
        said = capsys.readouterr()
        return Ended(int(end.value.code or 0), said.out, said.err)

    return give


def refused(command: Command, folder: Path, *words: object) -> str:
    """What a wrong request is told; it ends with status 2 and leaves no trace."""
    before = list(tiny.files_below(folder))
    ended = command(*words)
    assert ended.status == 2, ended
    assert list(tiny.files_below(folder)) == before, "a wrong request wrote something"
    assert "Traceback" not in ended.err
    return ended.err


def tracks(**blocks: Any) -> dict[str, Any]:
    return {"tracks": blocks}


def block(**changes: Any) -> dict[str, Any]:
    return {"methods": ["pixel_ascent"], "images": 10, "budget": 20, **changes}


RECIPE = tiny.SUITE["recipes"]["default"]

WRONG_SUITES: dict[str, tuple[dict[str, Any], str]] = {  # what → (change of the tiny suite, message)
    "key": ({"sedes": [0]}, "tiny.yaml: sedes: no key named 'sedes'. Did you mean 'seeds'"),
    "key of a block": (
        tracks(inversion=block(imges=3)),
        "tracks.inversion.0.imges: no key named 'imges'. Did you mean 'images'",
    ),
    "key of a recipe": (
        {"recipes": {"default": {**RECIPE, "epoch": 1}}},
        "recipes.default.epoch: no key named 'epoch'. Did you mean 'epochs'",
    ),
    "missing key": ({"version": None}, "tiny.yaml: version: Input should be a valid string"),
    "version": ({"version": "1"}, "tiny.yaml: version: String should match pattern"),
    "track": (tracks(inverson=block()), "no track named 'inverson'. Did you mean 'inversion'"),
    "method": (
        tracks(inversion=block(methods=["pixel_acsent"])),
        "no method named 'inversion/pixel_acsent'. Did you mean 'inversion/pixel_ascent'",
    ),
    "method of another track": (
        tracks(inversion=block(methods=["pgd"])),
        "no method named 'inversion/pgd'.",
    ),
    "metric": (
        tracks(inversion=block(metrics=["referee_agrement"])),
        "no metric named 'referee_agrement'. Did you mean 'referee_agreement'",
    ),
    "metric of another track": (
        tracks(inversion=block(metrics=["psnr"])),
        "metric psnr does not belong to the inversion track",
    ),
    "network": ({"subjects": ["mlpp.digits.sgd"]}, "no network named 'mlpp'. Did you mean 'mlp'?"),
    "training method": (
        {"subjects": ["mlp.digits.sgdd"]},
        "no method named 'training/sgdd'. Did you mean 'training/sgd'",
    ),
    "public weights": (
        {"subjects": ["resnet20.akamster"]},
        "no trained network named 'resnet20.akamster'. Did you mean 'resnet20.akamaster'",
    ),
    "network of a training cell": (
        tracks(training={"subjects": ["cmn"], "methods": ["sgd"]}),
        "no network named 'cmn'. Did you mean 'cnn'",
    ),
    "subject of a block": (
        tracks(inversion=block(subjects=["cnn.digits.sgd"])),
        "no subject of this suite named 'cnn.digits.sgd'.",
    ),
    "subject of other data": (
        {"subjects": ["mlp.mnist.sgd"]},
        "subject mlp.mnist.sgd was trained on mnist, the suite is on digits",
    ),
    "referee": ({"referee": "mlp.digits.adamx"}, "no method named 'training/adamx'. Did you mean 'training/adamw'"),
    "data set": ({"dataset": "digit"}, "no data set named 'digit'. Did you mean 'digits'"),
    "gate": ({"gates": {"mlp.digits.sdg": 0.9}}, "no subject with a gate named 'mlp.digits.sdg'."),
    "variant": (
        tracks(inversion=block(methods=[{"name": "pixel_ascent", "variant": "defualt"}])),
        "no variant named 'defualt'. Did you mean 'default'",
    ),
    "setting": (
        tracks(inversion=block(methods=[{"name": "pixel_ascent", "variant": "v", "settings": {"step_sise": 1.0}}])),
        "inversion/pixel_ascent has no setting 'step_sise'. Did you mean 'step_size'?",
    ),
    "type of a setting": (
        tracks(inversion=block(methods=[{"name": "pixel_ascent", "variant": "v", "settings": {"step_size": "big"}}])),
        "inversion/pixel_ascent: setting step_size: Input should be a valid number, got 'big'",
    ),
    "settings without a name": (
        tracks(inversion=block(methods=[{"name": "pixel_ascent", "settings": {"step_size": 1.0}}])),
        "inversion/pixel_ascent has settings but no variant name\n  give its row a name of yours: {name: …, variant:",
    ),
    "no target": (tracks(inversion=block(targets=[])), "inversion.0.targets: List should have at least 1 item"),
    "class": (tracks(inversion=block(targets=[3, 10])), "inversion: class 10 is out of range\n  digits has 0 to 9"),
    "negative class": (
        tracks(visualization=block(conditions=["class"], targets=[-1])),
        "visualization: class -1 is out of range\n  digits has 0 to 9",
    ),
    "channel": (
        tracks(visualization=block(conditions=["channel_hidden1"], targets=[100000])),
        "channel 100000 is out of range\n  hidden1 has 0 to",
    ),
    "tap": (
        tracks(reconstruction=block(methods=["feature_matching"], conditions=["hidden9"])),
        "mlp.digits.sgd has no tap 'hidden9'\n  it has: ",
    ),
    "tap of a channel": (
        tracks(visualization=block(conditions=["channel_hidden9"])),
        "mlp.digits.sgd has no tap 'hidden9'\n  it has: ",
    ),
    "bound": (
        tracks(adversarial=block(methods=["fgsm"], conditions=["linf_8"])),
        "condition 'linf_8' is not a bound\n  write linf_8_255 for 8/255",
    ),
    "attack of a detector": (
        tracks(detection=block(methods=["max_softmax"], conditions=["pgdd_linf_8_255"])),
        "no method named 'adversarial/pgdd'. Did you mean 'adversarial/pgd'",
    ),
    "condition where there is none": (
        tracks(inversion=block(conditions=["class"])),
        "the inversion track has no conditions, found 'class'",
    ),
    "too many images": (
        tracks(adversarial=block(methods=["fgsm"], conditions=["none"], images=100000)),
        "digits",
    ),
    "no recipe": ({"recipes": {}}, "suite tiny has no recipe for mlp"),
    "one seed twice": ({"seeds": [1, 1]}, "suite tiny names a seed twice: [1, 1]"),
    "its own judge": ({"referee_seed": 0}, "mlp.digits.sgd would judge itself"),
    "path separator in a variant": (
        tracks(inversion=block(methods=[{"name": "noise_search", "variant": "../x"}])),
        "variant '../x' of inversion/noise_search is not a name",
    ),
    "HTML in a variant": (
        tracks(inversion=block(methods=[{"name": "noise_search", "variant": "<b>x</b>"}])),
        "variant '<b>x</b>' of inversion/noise_search is not a name",
    ),
    "HTML in a method": (tracks(inversion=block(methods=["<script>"])), "no method named 'inversion/<script>'"),
    "path in a tap": (
        tracks(reconstruction=block(methods=["feature_matching"], conditions=["../../x"])),
        "has no tap '../../x'",
    ),
}


@pytest.mark.parametrize("what", WRONG_SUITES)
def test_a_wrong_suite_is_refused_with_the_place_and_the_nearest_name(command: Command, tmp_path: Path, what: str):
    changes, message = WRONG_SUITES[what]
    assert message in refused(command, tmp_path, "run", tiny.write_suite(tmp_path, **changes))


@pytest.mark.parametrize("name", ["a/b", "../a", "<b>bold</b>", "a b", "", ".hidden", "x" * 200])
@pytest.mark.parametrize("key", ["suite", "profile"])
def test_names_that_are_no_folders_or_hold_markup_are_refused(command: Command, tmp_path: Path, key: str, name: str):
    path = tmp_path / "tiny.yaml"
    text = {**tiny.SUITE, "suite": name} if key == "suite" else {**tiny.SUITE, "profiles": {name: {}}}
    tiny.write_yaml(path, text)
    assert f"{name!r} is not a name" in refused(
        command, tmp_path, "run", path, *([] if key == "suite" else ["--profile", name])
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite: [", "tiny.yaml is not YAML"),
        ("just words", "tiny.yaml should be a mapping with suite, version, dataset"),
        ("", "tiny.yaml should be a mapping"),
        ("profiles: [cpu]", "no profile named 'cpu'"),
    ],
)
def test_a_suite_file_that_is_none_is_refused(command: Command, tmp_path: Path, text: str, message: str):
    path = tmp_path / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    assert message in refused(command, tmp_path, "run", path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "smok"], "no suite named 'smok'. Did you mean 'smoke'?"),
        (["plan", "smok"], "no suite named 'smok'. Did you mean 'smoke'?"),
        (["run", "nowhere.yaml"], "suite file nowhere.yaml does not exist"),
        (["run", "smoke", "--profile", "ful"], "no profile named 'ful'. Did you mean 'full'?"),
        (["run", "smoke", "--data", "nowhere"], "data folder nowhere does not exist"),
        (["run", "smoke", "--plugin", "nowhere.py"], "nowhere.py is not a Python file"),
        (["run", "smoke", "--limit", "0"], "Invalid value for '--limit'"),
        (["run", "smoke", "--worker", "2"], "No such option"),
        (["list", "method"], "no list named 'method'. Did you mean 'methods'"),
        (["fetch", "inception"], "fetch needs a data root"),
        (["fetch", "mnis"], "no data set or judge named 'mnis'. Did you mean 'mnist'"),
        (["fetch", "inceptoin"], "no data set or judge named 'inceptoin'. Did you mean 'inception'"),
        (["rank"], "no store at store"),
        (["pictures", "smok"], "no suite named 'smok'. Did you mean 'smoke'?"),
        (["pictures", "smoke", "--profile", "ful"], "no profile named 'ful'. Did you mean 'full'?"),
        (["pictures", "smoke"], "no store at store"),
        (["show", "0123"], "no store at store"),
        (["compare", "old", "new"], "old"),
        (["store", "size"], "no store at store"),
        (["store", "gc"], "no store at store"),
        (["runn"], "No such command"),
    ],
)
def test_a_wrong_command_is_refused(command: Command, tmp_path: Path, words: list[str], message: str):
    assert message in refused(command, tmp_path, *words)


def test_cells_that_no_pattern_matches_are_refused(command: Command, tmp_path: Path):
    suite = tiny.write_suite(tmp_path)
    assert "no cell matches inversions/*" in refused(command, tmp_path, "run", suite, "--only", "inversions/*")


def test_scoring_what_was_never_run_is_refused(command: Command, tmp_path: Path):
    suite = tiny.write_suite(tmp_path)
    assert "no store at store" in refused(command, tmp_path, "score", suite)
    tiny.make_store(tmp_path)
    assert "no cell of tiny has a record in store" in refused(command, tmp_path, "score", suite)


def test_pictures_of_what_was_never_run_are_refused(command: Command, tmp_path: Path):
    suite = tiny.write_suite(tmp_path)
    tiny.make_store(tmp_path)
    assert "no cell of tiny has a record in store\n  run the suite first" in refused(
        command, tmp_path, "pictures", suite
    )


@pytest.mark.parametrize("place", ["--store", "--leaderboards"])
@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_a_file_in_place_of_a_folder_is_refused(command: Command, tmp_path: Path, place: str, below: str):
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    message = refused(command, tmp_path, "run", tiny.write_suite(tmp_path), place, f"taken{below}")
    assert "taken" in message and ("folder" in message)
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


# ---- plugins -------------------------------------------------------------------------------------------------------

WRONG_PLUGINS = {  # file name → (text, message)
    "broken.py": (METHOD.replace("class Faulty:", "class Faulty"), "line 49: "),
    "twice.py": (
        METHOD + "\n\n@method(source='a test')\nclass Other:\n    def attack(self, task): ...\n",
        "should mark exactly one class with @method or one function with @metric, found Faulty, Other",
    ),
    "unmarked.py": (
        "import os\n",
        "should mark exactly one class with @method or one function with @metric, found none",
    ),
    "fgsm.py": (METHOD, "cannot take the built-in name 'adversarial/fgsm'"),
    "verbless.py": (METHOD.replace("def attack", "def atack"), "Faulty should define exactly one verb, found 0"),
    "two_verbs.py": (METHOD + "\n    def invert(self, task): ...\n", "Faulty should define exactly one verb, found 2"),
    "<b>bold.py": (METHOD, "'<b>bold' cannot be a name"),
    "with space.py": (METHOD, "'with space' cannot be a name"),
    "binary.py": ("\0\0", "binary.py"),
}


@pytest.mark.parametrize("name", WRONG_PLUGINS)
def test_a_wrong_plugin_is_refused(command: Command, tmp_path: Path, name: str):
    text, message = WRONG_PLUGINS[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    suite = tiny.write_suite(tmp_path)
    assert message in refused(command, tmp_path, "run", suite, "--plugin", name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raise ValueError('at once')", "cannot be imported: ValueError: at once"),
        ("import bench.nothing", "cannot be imported: ModuleNotFoundError: No module named 'bench.nothing'"),
        ("undefined_name", "cannot be imported: NameError: name 'undefined_name' is not defined"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_refused(command: Command, tmp_path: Path, line: str, message: str):
    (tmp_path / "faulty.py").write_text(f"{METHOD}\n\n{line}\n", encoding="utf-8")
    suite = tiny.write_suite(tmp_path, tiny.faults("none"))
    assert message in refused(command, tmp_path, "run", suite, "--plugin", "faulty.py")


def test_a_setting_of_a_plugin_is_checked_like_any_other(command: Command, tmp_path: Path):
    (tmp_path / "faulty.py").write_text(METHOD, encoding="utf-8")
    suite = tiny.faults("none")
    suite["tracks"]["adversarial"]["methods"][0]["settings"] = {"fault": 3}
    path = tiny.write_suite(tmp_path, suite)
    message = refused(command, tmp_path, "run", path, "--plugin", "faulty.py")
    assert "adversarial/faulty: setting fault: Input should be a valid string, got 3" in message


# ---- data and weights ----------------------------------------------------------------------------------------------


def on_mnist(folder: Path) -> Path:
    subject = "mlp.mnist.sgd"
    return tiny.write_suite(folder, dataset="mnist", subjects=[subject], referee=None, tracks={"inversion": block()})


def test_missing_data_are_named_with_their_place(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    suite = on_mnist(tmp_path)
    assert "GLASSBENCH_DATA" in refused(command, tmp_path, "run", suite)
    (tmp_path / "data").mkdir()
    message = refused(command, tmp_path, "run", suite, "--data", tmp_path / "data")
    assert "train-images-idx3-ubyte" in message and "sha256" in message


def test_a_damaged_data_file_is_refused(command: Command, tmp_path: Path):
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{part}-ubyte").write_bytes(b"\0\0\x08\x03nothing")
    message = refused(command, tmp_path, "run", on_mnist(tmp_path), "--data", tmp_path / "data")
    assert "ubyte" in message and "sha256" in message


def on_pictures(folder: Path, subject: str) -> Path:
    """A suite on a few pictures of one ImageNet class."""
    pictures = folder / "pictures" / "n01440764"
    pictures.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (240, 240), (60 * number, 90, 120)).save(pictures / f"{number}.png")
    attribution = {"methods": ["random_map"], "images": 2, "budget": 10}
    return tiny.write_suite(
        folder,
        dataset="imagenet",
        folder=str(folder / "pictures"),
        subjects=[subject],
        referee=None,
        real_images=2,
        tracks={"attribution": attribution},
    )


def test_public_weights_that_are_missing_or_others_are_refused(command: Command, tmp_path: Path):
    suite, card = on_pictures(tmp_path, "squeezenet1_1.caffe"), public_card("squeezenet1_1.caffe")
    assert "squeezenet1_1.caffe needs the file" in refused(command, tmp_path, "run", suite)
    weights = tmp_path / "data" / card.path
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"no weights")
    message = refused(command, tmp_path, "run", suite, "--data", tmp_path / "data")
    assert f"{weights} should have sha256 {card.sha256}, has " in message


def test_weights_of_the_wrong_shape_are_refused(command: Command, tmp_path: Path):
    suite = on_pictures(tmp_path, "resnet18.tv_in1k")
    weights = tmp_path / "data" / "weights" / "resnet18.tv_in1k.safetensors"
    weights.parent.mkdir(parents=True)
    network = timm.create_model("resnet18.tv_in1k", pretrained=False, num_classes=7)
    save_file(network.state_dict(), weights)
    message = refused(command, tmp_path, "run", suite, "--data", tmp_path / "data")
    assert f"{weights} does not give resnet18.tv_in1k" in message
    assert "fc.weight" in message and "[7, 512]" in message


# ---- known answers and cards ---------------------------------------------------------------------------------------


def answering(found: float) -> list[Check]:
    """A table of two checks whose second finds this number where 2 is expected."""
    return [Check("one and one", near(2.0), lambda device: 2.0), Check("the other", near(2.0), lambda device: found)]


def test_selftest_shows_what_was_expected_and_ends_with_1_when_something_else_was_found(
    command: Command, monkeypatch: pytest.MonkeyPatch
):
    for found, status, last in ((2.0, 0, "2 checks pass"), (2.5, 1, "1 of 2 checks FAIL")):
        monkeypatch.setattr(selftest, "CHECKS", answering(found))
        ended = command("selftest")
        assert ended.status == status
        rows = [line.split() for line in ended.out.splitlines()]
        assert rows[0] == ["check", "expected", "found", "ok"]
        word = "fail" if status else "ok"
        assert rows[2] == ["the", "other", "2", "±", "1e-9", *f"{found:g} {word}".split()]
        assert ended.out.splitlines()[-1].startswith(f"selftest: {last} (")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_whose_selftest_fails_keeps_its_records_and_ranks_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bench.execute.runner._Worker", tiny.ThreadWorker)
    attribution = {"methods": ["gradient", "random_map"], "images": 4, "budget": 10}
    suite = tiny.write_suite(tmp_path, referee=None, tracks={"attribution": attribution})
    words = [word for word in tiny.run_command(tmp_path, suite) if word != "--no-selftest"]
    boards = tmp_path / "boards" / "tiny"

    monkeypatch.setattr(selftest, "CHECKS", answering(2.5))
    ended = command(*words)
    assert ended.status == 1
    assert "the other: expected 2 ± 1e-9, found 2.5" in ended.out
    assert "no boards were made: the selftest failed\n  mend what run_bench.py selftest shows" in ended.err
    assert not boards.exists()
    store = Store.open(tmp_path / "store")
    assert {store.read(key).provenance["selftest"] for key in store.keys()} == {"fail"}  # noqa: SIM118 - no mapping

    ended = command("rank", "--store", tmp_path / "store", "--leaderboards", tmp_path / "boards")
    assert ended.status == 0 and "no rank: gradient: selftest failed" in ended.out
    assert {(row["rank"], row["insertion_auc_blur"] != "") for row in rows_of(boards / "attribution.csv")} == {
        ("", True)
    }
    assert {row["selftest"] for row in rows_of(boards / "results.csv")} == {"fail"}

    monkeypatch.setattr(selftest, "CHECKS", answering(2.0))
    ended = command(*words)
    assert ended.status == 0 and "selftest: 2 checks pass (0 s)" in ended.out
    assert {row["rank"] for row in rows_of(boards / "attribution.csv")} == {"1", "2"}
    assert {row["selftest"] for row in rows_of(boards / "results.csv")} == {"pass"}
    assert "selftest: 2 checks pass (as before)" in command(*words).out


def test_without_a_selftest_records_say_so(command: Command, tmp_path: Path, done: Plan):
    ended = command(*tiny.run_command(tmp_path, tmp_path / "tiny.yaml"))
    assert ended.status == 0 and "selftest:" not in ended.out
    assert {row["selftest"] for row in rows_of(tmp_path / "boards" / "tiny" / "results.csv")} == {"skipped"}
    assert not (tmp_path / "store" / "selftest.json").exists()


def test_a_metrics_card_is_shown_by_its_name(command: Command):
    ended = command("list", "metrics", "psnr", "precision")
    assert ended.status == 0
    said = " ".join(ended.out.split())
    for part in ("on boards psnr_dr1, version 1", "Unit: db; at least 0; higher is better.", "beware", "source"):
        assert part in said
    assert said.index("psnr_dr1") < said.index("precision_k5_{referee}_penultimate")
    assert "rmse" not in said.split()


def test_a_card_that_is_not_there_is_refused_with_the_nearest(command: Command, tmp_path: Path):
    assert "no metric named 'psmr'. Did you mean 'psnr'" in refused(command, tmp_path, "list", "metrics", "psmr")


# ---- what is answered at once --------------------------------------------------------------------------------------

LIGHT = [
    ["--help"],
    ["run", "--help"],
    *(["list", kind] for kind in ("methods", "metrics", "subjects", "datasets", "suites")),
    ["list", "metods"],
    ["run", "smoek"],
    ["plan", "wrong.yaml"],
    ["run", "smoke", "--plugin", "nowhere.py"],
    ["rank", "--store", "nowhere"],
    ["pictures", "smoke", "--store", "nowhere"],
]
LIGHT_SCRIPT = """
import sys
import run_bench
for words in {commands}:
    sys.argv = ["run_bench.py", *words]
    try:
        run_bench.main()
    except SystemExit as end:
        heavy = [name for name in ("torch", "torchvision", "timm", "sklearn", "scipy") if name in sys.modules]
        print("ENDED", words, end.code, heavy)
"""


def test_help_lists_and_mistyped_names_load_nothing_heavy(tmp_path: Path):
    wrong = {**tiny.SUITE, "tracks": {"inversion": block(methods=["pixel_acsent"])}}
    tiny.write_yaml(tmp_path / "wrong.yaml", wrong)
    script = LIGHT_SCRIPT.format(commands=LIGHT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", script]
    said = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    ends = [line for line in said.splitlines() if line.startswith("ENDED")]
    fine = sum(words[-1] == "--help" or words in LIGHT[2:7] for words in LIGHT)
    assert ends == [f"ENDED {words} {0 if place < fine else 2} []" for place, words in enumerate(LIGHT)]


# ---- runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The tiny suite with all its cells, run in this process; its store lies in ``tmp_path``."""
    monkeypatch.setattr(registry, "_plugins", {})
    plan, store = tiny.plan_of(tmp_path), tiny.make_store(tmp_path)
    tiny.run_here(plan.cells, store)
    return plan


def test_a_finished_suite_ends_with_0_and_the_same_boards_each_time(command: Command, tmp_path: Path, done: Plan):
    boards = []
    for _ in range(2):
        ended = command(*tiny.run_command(tmp_path, tmp_path / "tiny.yaml"))
        assert ended.status == 0 and "0 cells worked on" in ended.out
        boards.append({path.name: path.read_bytes() for path in (tmp_path / "boards" / "tiny").glob("*.*")})
        shutil.rmtree(tmp_path / "boards")
    assert boards[0] == boards[1]
    assert {"results.csv", "schema.json", *(f"{track}.csv" for track in done.suite.tracks)} <= boards[0].keys()


def test_score_adds_a_new_metric_to_the_board_and_runs_no_method(
    command: Command, tmp_path: Path, done: Plan, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "darkest.py").write_text(METRIC.format(factor=1.0), encoding="utf-8")
    monkeypatch.setattr("bench.execute.runner._Worker", tiny.ThreadWorker)
    words = tiny.run_command(tmp_path, tmp_path / "tiny.yaml", "--plugin", "darkest.py", "--only", "adversarial/*")
    ended = command("score", *words[1:])
    assert ended.status == 0
    with (tmp_path / "boards" / "tiny" / "adversarial.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    store = Store.open(tmp_path / "store")
    for method in ("fgsm", "pgd"):
        cell = tiny.find(done, "adversarial", method)
        images = stored_tensors(store, cell.key)["generated"].numpy()
        by_hand = sum(float(image.min()) for image in images) / len(images)
        assert float(rows[method]["darkest"]) == pytest.approx(by_hand, abs=1e-4)
        assert store.read(cell.key).provenance["run_id"] == "test", "the method's run is the old one"


def test_a_failed_cell_ends_with_1_and_stands_on_the_board_without_a_number(command: Command, tmp_path: Path):
    registry.add_plugin(tiny.FAULTY)
    suite = tiny.faults("raises", "none")
    plan, store = tiny.plan_of(tmp_path, suite), tiny.make_store(tmp_path)
    tiny.run_here(plan.cells, store)
    ended = command(*tiny.run_command(tmp_path, tmp_path / "faults.yaml", "--plugin", tiny.FAULTY))
    assert ended.status == 1
    assert "1 × failed: RuntimeError: first line" in ended.out
    with (tmp_path / "boards" / "faults" / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"] == "raises"]
    assert rows and {(row["status"], row["value"]) for row in rows} == {("failed", "")}


def test_too_little_room_ends_with_1_before_the_first_step(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", "total used free")(10, 10, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    ended = command(*tiny.run_command(tmp_path, tiny.write_suite(tmp_path)))
    assert ended.status == 1
    assert "has 0 MiB free" in ended.err and "give the same command again" in ended.err
    assert not (tmp_path / "boards").exists()


def test_plan_shows_cells_reasons_and_passes_and_writes_nothing(command: Command, tmp_path: Path):
    registry.add_plugin(tiny.FAULTY)
    path = tiny.write_suite(tmp_path, tiny.faults("refuses", "none"))
    before = list(tiny.files_below(tmp_path))
    ended = command("plan", path, "--plugin", tiny.FAULTY)
    assert ended.status == 0
    assert "skipped: needs a rainy day, the sun shines" in " ".join(ended.out.split())
    assert "900" in ended.out and "needed by others" in ended.out
    assert list(tiny.files_below(tmp_path)) == before


def test_show_prints_one_record_by_the_first_digits_of_its_key(command: Command, done: Plan):
    cell = tiny.find(done, "adversarial", "pgd")
    ended = command("show", cell.key[:10])
    assert ended.status == 0
    assert "pgd" in ended.out and "success_rate" in ended.out
    unknown = command("show", "x")
    assert unknown.status == 2 and "has a key that begins with 'x'\n  they are the column cell_id" in unknown.err


@pytest.fixture
def finished_board(tmp_path: Path) -> Path:
    """The folder of a board of three tracks, all cells run, in the store in ``tmp_path``."""
    attack = {"methods": ["fgsm", "pgd"], "conditions": ["linf_51_255"], "images": 10, "budget": 90, "metrics": []}
    maps = {"methods": ["random_map"], "images": 2, "budget": 10, "metrics": []}
    shown = {**tiny.SUITE["tracks"]["visualization"], "metrics": []}
    tracks = {"adversarial": attack, "attribution": maps, "visualization": shown}
    plan, store = tiny.plan_of(tmp_path, referee=None, tracks=tracks), tiny.make_store(tmp_path)
    tiny.run_here(plan.cells, store)
    store.write_index(index_of(plan))
    return store.board("tiny")


def test_pictures_of_finished_cells_are_written_where_asked_and_counted(
    command: Command, tmp_path: Path, finished_board: Path
):
    words = ("pictures", "tiny.yaml", "--only", "visualization/*", "--only", "adversarial/*/pgd/*")
    ended = command(*words, "--to", tmp_path / "to")
    assert ended.status == 0
    assert ended.out.splitlines() == [f"pictures: {tmp_path / 'to'}", "20 written, 0 there already; of 2 cells"]
    made = {path.parent.relative_to(tmp_path / "to").as_posix() for path in (tmp_path / "to").rglob("*.png")}
    assert made == {
        "visualization/mlp.digits.sgd/class/pixel_ascent/seed0",
        "adversarial/mlp.digits.sgd/linf_51_255/pgd/seed0",
    }
    assert "0 written, 20 there already; of 2 cells" in command(*words, "--to", tmp_path / "to").out
    assert "20 written" in command(*words).out
    assert len(list((finished_board / "full_size").rglob("*.png"))) == 20


def test_pictures_that_cannot_be_written_are_refused(command: Command, tmp_path: Path, finished_board: Path):
    def wrong(*words: object) -> str:
        return refused(command, tmp_path, "pictures", "tiny.yaml", *words)

    assert "no cell matches visualisation/*\n  names look like" in wrong("--only", "visualisation/*")
    assert "no finished cell among those chosen made images" in wrong("--only", "attribution/*")
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    assert "pictures cannot be written to taken/deeper" in wrong("--to", "taken/deeper")
    Image.new("L", (8, 8)).save(tmp_path / "000_class0.png")
    place = tmp_path / "to" / "visualization/mlp.digits.sgd/class/pixel_ascent/seed0"
    place.mkdir(parents=True)
    (tmp_path / "000_class0.png").rename(place / "000_class0.png")
    assert f"{place / '000_class0.png'} is another picture\n  remove it" in wrong("--to", tmp_path / "to")


# ---- several data sets ---------------------------------------------------------------------------------------------


def test_a_suite_on_two_data_sets_makes_one_set_of_boards_and_goes_on_where_it_stopped(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bench.execute.runner._Worker", tiny.ThreadWorker)
    suite = tiny.write_suite(tmp_path, tiny.on_two_data_sets(tmp_path))
    words, boards = tiny.run_command(tmp_path, suite), tmp_path / "boards" / "two"

    ended = command(*words, "--only", "imagefolder/*")
    assert ended.status == 0 and "4 cells worked on" in ended.out, ended
    reasons = {row["dataset"]: row["reason"] for row in rows_of(boards / "claims.csv")}
    assert reasons["digits"] == "mlp.digits.sgd · pixel_ascent: no record" and reasons["imagefolder"] == ""

    ended = command(*words)
    assert ended.status == 0 and "7 cells worked on" in ended.out, ended
    assert "digits · mlp.digits.sgd: pixel_ascent against noise_search" in ended.out
    lines = {(row["dataset"], row["method"]): row for row in rows_of(boards / "inversion.csv")}
    assert lines.keys() == {
        (name, one) for name in ("digits", "imagefolder") for one in ("pixel_ascent", "noise_search")
    }
    for (name, method), line in lines.items():
        assert line["n_ok"] == line["n_cells"] == ("2" if name == "digits" else "1")
        rival = lines[name, "noise_search" if method == "pixel_ascent" else "pixel_ascent"]
        is_best = float(line["referee_agreement_mlp"]) >= float(rival["referee_agreement_mlp"])
        assert (line["rank"] == "1") == is_best, "ranks compare rows of one data set only"
    for answer in rows_of(boards / "claims.csv"):
        of, against = (lines[answer["dataset"], answer[f"{side}_method"]] for side in ("of", "against"))
        gain = float(of["referee_agreement_mlp"]) - float(against["referee_agreement_mlp"])
        assert float(answer["difference"]) == pytest.approx(gain, abs=1e-4)
        assert float(answer["ci_low"]) <= gain <= float(answer["ci_high"])
    page = (tmp_path / "store" / "suites" / "two" / "index.html").read_text(encoding="utf-8")
    for name in ("digits", "imagefolder"):
        assert f"<b>{name} · mlp.{name}.sgd</b>" in page

    before = {path.name: path.read_bytes() for path in boards.glob("*.*")}
    for again in (words, ["rank", "two", *words[2:6]], ["score", *words[1:]]):
        ended = command(*again)
        assert ended.status == 0, ended
        assert again[0] == "rank" or "0 cells worked on" in ended.out
        assert {path.name: path.read_bytes() for path in boards.glob("*.*")} == before
    assert command("store", "gc", "--store", tmp_path / "store", "--dry-run").out.startswith("0.0 MiB would be freed")


def test_plan_lists_the_cells_of_every_data_set_under_names_of_their_own(command: Command, tmp_path: Path):
    suite = tiny.write_suite(tmp_path, tiny.on_two_data_sets(tmp_path))
    ended = command("plan", suite)
    assert ended.status == 0 and "11 cells" in ended.out
    for line in ("training · digits · mlp · sgd · seed 1", "training · imagefolder · mlp · sgd · seed 7"):
        assert line in ended.out
    assert "training · digits" not in command("plan", suite, "--only", "imagefolder/*").out


def test_a_suite_on_two_data_sets_is_not_run_on_a_third(command: Command, tmp_path: Path):
    suite = tiny.write_suite(tmp_path, tiny.on_two_data_sets(tmp_path))
    message = refused(command, tmp_path, "run", suite, "--dataset", "mnist")
    assert "two.yaml holds several data sets: it cannot be run on mnist instead\n  leave --dataset out" in message
