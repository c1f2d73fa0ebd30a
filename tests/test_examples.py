"""The examples of CONTRIBUTING.md, written to disk and run as they stand there."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
METHOD, METRIC = "methods/attribution/gradient_times_image.py", "metrics/worst_pixel.py"


def files_in(guide: str) -> dict[str, str]:
    """File name → text of each code block that has its name on the line above."""
    return dict(re.findall(r"^`([^`\n]+)`\n\n```\w+\n(.*?)^```$", guide, re.M | re.S))


def commands_in(guide: str) -> list[list[str]]:
    """The words of each command in a shell block."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", guide, re.M | re.S)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file of the guide at its place."""
    folder = tmp_path_factory.mktemp("example")
    for name, text in files_in(GUIDE).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def python(*words: str, folder: Path) -> str:
    """Run Python in ``folder`` with the project, and what lies in ``folder``, importable; returns what it printed."""
    places = os.pathsep.join([str(folder), str(ROOT)])
    ran = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_guide_shows_a_method_a_metric_a_network_and_a_suite():
    assert {METHOD, METRIC, "two_layers.py", "pictures.yaml"} <= files_in(GUIDE).keys()


def test_the_tests_of_the_examples_pass(example: Path):
    own = [name for name in files_in(GUIDE) if Path(name).name.startswith("test_")]
    printed = python("-m", "pytest", "-q", "-p", "tests.conftest", "--rootdir", ".", *own, folder=example)
    assert f"{len(own)} passed" in printed


def test_the_laws_hold_for_the_examples(example: Path):
    plugins = [word for name in (METHOD, METRIC) for word in ("--plugin", str(example / name))]
    laws = [str(ROOT / "tests" / "test_contract.py"), "-k", "gradient_times_image or worst_pixel"]
    printed = python("-m", "pytest", "-q", "-rA", *laws, *plugins, folder=ROOT)
    held = [line for line in printed.splitlines() if line.startswith("PASSED")]
    assert sum("gradient_times_image:default]" in line for line in held) >= 9
    assert sum("worst_pixel@reconstruction]" in line for line in held) >= 7
    assert "SKIPPED" not in printed


def test_the_examples_follow_the_projects_style(example: Path):
    settings = ["--config", str(ROOT / "pyproject.toml")]
    names = [str(example / name) for name in files_in(GUIDE) if name.endswith(".py")]
    python("-m", "ruff", "check", *settings, *names, folder=example)
    python("-m", "ruff", "format", "--check", *settings, *names, folder=example)


def test_ones_own_method_network_and_pictures_reach_the_boards(example: Path):
    numbers = np.random.default_rng(0)
    for name, brightness in (("cats", 60), ("dogs", 180)):
        folder = example / "photos" / name
        folder.mkdir(parents=True)
        for number in range(60):
            pixels = np.clip(numbers.normal(brightness, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    for name in (METHOD, METRIC):
        (example / Path(name).name).write_text(files_in(GUIDE)[name], encoding="utf-8")
    (command,) = [words for words in commands_in(GUIDE) if "--images" in words]
    assert command[:2] == ["python", "run_bench.py"]
    python(str(ROOT / "run_bench.py"), *command[2:], folder=example)
    with (example / "leaderboards" / "pictures" / "attribution.csv").open(newline="", encoding="utf-8") as stream:
        methods = {row["method"]: row["subject"] for row in csv.DictReader(stream)}
    assert methods == dict.fromkeys(("gradient_times_image", "random_map"), "two_layers.imagefolder.sgd")
    with (example / "leaderboards" / "pictures" / "claims.csv").open(newline="", encoding="utf-8") as stream:
        answers = {row["metric"]: row for row in csv.DictReader(stream)}
    assert answers.keys() == {"deletion_auc_zero", "insertion_auc_blur"}
    for answer in answers.values():
        assert answer["verdict"] in ("holds", "fails", "unclear")
        assert float(answer["ci_low"]) <= float(answer["difference"]) <= float(answer["ci_high"])
