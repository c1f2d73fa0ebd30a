"""How soon the command line answers: ``python tests/perf/bench_cli.py``.

Each command runs three times in a process of its own, from its start to its end; the median counts. Bar: 2 s, for help,
lists, mistyped names of every kind, and ``rank`` on 100 records. The processor's seconds stand beside it: where they
are much fewer, the machine was busy with something else. Exit status 1 when the bar is missed, or when a command ends
with another status than it should.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.record import Store
from tests.perf.bench_rank import fill
from tests.perf.verdict import Verdict
from tests.perf.workplace import ROOT

BAR_S = 2.0
TIMES = 3
RECORDS = 100
VALUES = 100
LISTS = ("methods", "metrics", "subjects", "datasets", "suites")

MISTYPED = """\
suite: mistyped
version: 0.0.0
protocol: 1
dataset: {dataset}
seeds: [0]
subjects: [{subject}]
recipes: {{default: {{epochs: 1}}}}
tracks:
  inversion: {{methods: [{method}], metrics: [{metric}]}}
"""
RIGHT = {"dataset": "digits", "subject": "cnn.digits.sgd", "method": "pixel_ascent", "metric": "same_class_rmse"}
WRONG = {"dataset": "digit", "subject": "cn.digits.sgd", "method": "pixel_acsent", "metric": "same_clas_rmse"}


def seconds_of(words: Sequence[str], status: int, folder: Path) -> tuple[float, float]:
    """Median wall time and processor time of a command that should end with ``status``."""
    wall_s, cpu_s = [], []
    for _ in range(TIMES):
        started, spent = time.perf_counter(), spent_by_children()
        done = subprocess.run(
            [sys.executable, str(ROOT / "run_bench.py"), *words], cwd=folder, capture_output=True, text=True
        )
        wall_s.append(time.perf_counter() - started)
        cpu_s.append(spent_by_children() - spent)
        if done.returncode != status:
            raise SystemExit(f"{' '.join(words)} ended with {done.returncode}, not {status}:\n{done.stderr[-2000:]}")
    return statistics.median(wall_s), statistics.median(cpu_s)


def spent_by_children() -> float:
    """Processor seconds of all processes that this one has started and seen end."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Time the commands and print; 1 when one is too slow."""
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(Store.create(folder / "store"), RECORDS, VALUES)
        commands: dict[str, tuple[list[str], int]] = {
            "--help": (["--help"], 0),
            "run --help": (["run", "--help"], 0),
            **{f"list {kind}": (["list", kind], 0) for kind in LISTS},
            "a mistyped command": (["rnu", "smoke"], 2),
            "a mistyped suite": (["run", "smoek"], 2),
        }
        for kind, wrong in WRONG.items():
            (folder / f"{kind}.yaml").write_text(MISTYPED.format(**RIGHT | {kind: wrong}))
            commands[f"a mistyped {kind}"] = (["run", f"{kind}.yaml"], 2)
        commands[f"rank, {RECORDS} records"] = (["rank", "--store", "store", "--quiet"], 0)
        for what, (words, status) in commands.items():
            wall_s, cpu_s = seconds_of(words, status, folder)
            verdict.at_most(f"{what} (processor {cpu_s:.2f} s)", wall_s, BAR_S, "s")
    return verdict.end()


if __name__ == "__main__":
    sys.exit(main())
