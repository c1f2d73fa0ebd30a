"""The README's answer to "which method is best, and is the lead real?" is what the boards hold."""

import csv
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOARD = ROOT / "leaderboards" / "cifar10_jpeg75"


@pytest.fixture(scope="module")
def answer() -> list[list[str]]:
    """The rows that the README's block of pandas prints, without the head."""
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    run = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=True)
    return [line.split() for line in run.stdout.splitlines()[1:]]


def measured() -> dict[str, dict[tuple[str, str], float]]:
    """Subject → (method, variant) → mean SSIM over seeds, from the long file, read by the csv module."""
    found: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    with (BOARD / "results.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            wanted = row["track"] == "reconstruction" and row["condition"] == "layer3" and row["aggregate"] == "seed"
            if (
                wanted
                and row["metric"] == "ssim_gauss11_s1.5_dr1_rgb"
                and row["value"]
                and row["subject"].startswith("resnet20.")
            ):
                found[row["subject"]][row["method"], row["variant"]].append(float(row["value"]))
    return {subject: {who: fmean(values) for who, values in rows.items()} for subject, rows in found.items()}


def test_the_block_has_three_lines_beside_the_import():
    (block,) = re.findall(r"```python\nimport pandas as pd\n\n(.*?)```", README, re.DOTALL)
    assert len(block.splitlines()) == 3


def test_its_first_row_of_each_subject_is_the_method_that_reconstructs_best(answer):
    first = {}
    for subject, _, _, _, method, variant, _ in answer:
        first.setdefault(subject, (method, variant))
    assert first == {subject: max(rows, key=lambda who: rows[who]) for subject, rows in measured().items()}


def test_its_tiers_say_whether_the_lead_is_real(answer):
    for subject in {row[0] for row in answer}:
        low, high, tiers = zip(*(map(float, row[1:4]) for row in answer if row[0] == subject), strict=True)
        assert tiers[0] == 1
        assert tiers.count(1) > 1 or (low[0], high[0]) == (1, 1), "alone in its tier, but its rank is not certain"
