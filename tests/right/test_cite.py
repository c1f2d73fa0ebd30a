"""What a paper pastes: BibTeX that parses, the rows that the boards hold, and errors that say what to do."""

import dataclasses
import hashlib
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import bibtexparser
import numpy as np
import pandas as pd
import pytest
from bibtexparser.middlewares import LatexDecodingMiddleware

from bench.leaderboard import BoardError, Boards, write
from bench.leaderboard.files import frozen
from bench.report.cite import Published, Source, bibtex, cited_rows, published, write_rows
from tests.right.making import boards_of, measured, reading, record

ROOT = Path(__file__).resolve().parents[2]
CITATION = ROOT / "CITATION.cff"
IMAGES = np.linspace(0.2, 0.8, 20)
HOSTILE = 'a_b}{%$#&~^\\"@x'  # what a plugin's file cannot be called, and a condition can


def values(*means: float) -> list[np.ndarray]:
    """One array of per-image values a seed."""
    return [IMAGES + mean for mean in means]


@pytest.fixture(scope="module")
def boards() -> Boards:
    found = boards_of([*measured("one", values(0.0, 0.1)), *measured("two", values(0.3, 0.3), variant="large")])
    keys = {key: f"{number}c{key}" for number, key in enumerate(sorted(set(found.long["cell_id"]) - {""}))}
    return dataclasses.replace(found, long=found.long.replace({"cell_id": keys}))


def parsed(text: str) -> dict[str, dict[str, str]]:
    """Key → fields of all entries, LaTeX read as the text that it shows."""
    library = bibtexparser.parse_string(text, append_middleware=[LatexDecodingMiddleware()])
    assert library.failed_blocks == [], text
    return {entry.key: {field.key: field.value for field in entry.fields} for entry in library.entries}


def cited(
    boards: Boards, *keys: str, sources: dict[str, Source] | None = None, **how: Any
) -> dict[str, dict[str, str]]:
    found = Published(boards=boards, release="", date="2026-09-01T00:00:01Z", digest="0123")
    return parsed(bibtex(found, cited_rows(boards, keys, **how), CITATION, sources or {}))


def released(boards: Boards, folder: Path, version: str, date: str) -> Path:
    files = {f"smoke/{name}": data for name, data in frozen(boards).items()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    content = {"schema": 1, "version": version, "date": date, "boards": {"smoke": {}}, "files": digests}
    place = folder / "releases" / f"v{version}"
    for name, data in (files | {"release.json": json.dumps(content).encode()}).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


# ---- the boards ----------------------------------------------------------------------------------------------------


def test_unreleased_boards_are_cited_as_such_with_the_digest_of_their_file(boards: Boards, tmp_path: Path):
    write(boards, tmp_path / "smoke")
    found = published("smoke", tmp_path)
    text = bibtex(found, [], CITATION, {})
    (entry,) = parsed(text).values()
    digest = hashlib.sha256((tmp_path / "smoke" / "results.csv").read_bytes()).hexdigest()
    assert entry["note"] == f"Unreleased, as of 2026-09-01. SHA-256 of results.csv: {digest}"
    assert entry["title"] == "glassbench 0.1.0: suite smoke, version 1.0.0, profile cpu"
    assert (entry["year"], "annote" in entry) == ("2026", False)
    assert "author = {{glassbench maintainers}}" in text, "a group's name is not to be taken apart"


def test_the_newest_release_that_has_the_suite_is_cited(boards: Boards, tmp_path: Path):
    write(boards, tmp_path / "smoke")
    older = released(boards, tmp_path, "0.9.0", "2027-01-02")
    newer = released(boards, tmp_path, "0.10.0", "2028-03-04")
    for found, place, version in [
        (published("smoke", tmp_path), newer, "0.10.0"),
        (published("smoke", tmp_path, older), older, "0.9.0"),
    ]:
        (entry,) = parsed(bibtex(found, [], CITATION, {})).values()
        packed = (place / "smoke" / "results.csv.xz").read_bytes()
        assert entry["note"].startswith(f"Release {version}. ")
        assert entry["note"].endswith(hashlib.sha256(lzma.decompress(packed)).hexdigest())
        assert (entry["version"], entry["year"]) == (version, {"0.10.0": "2028", "0.9.0": "2027"}[version])
    assert (
        published("smoke", tmp_path).digest == hashlib.sha256((tmp_path / "smoke/results.csv").read_bytes()).hexdigest()
    )


def test_a_suite_without_boards_is_refused_with_the_nearest_name(boards: Boards, tmp_path: Path):
    write(boards, tmp_path / "smoke")
    with pytest.raises(BoardError, match=r"no board named 'smok' in .*Did you mean 'smoke'\?\n  there are: smoke"):
        published("smok", tmp_path)


def test_a_path_out_of_a_release_is_no_suite_of_it(boards: Boards, tmp_path: Path):
    write(boards, tmp_path / "smoke")
    released(boards, tmp_path, "0.1.0", "2027-01-02")
    for name in ("../../smoke", "smoke/../../../smoke"):
        with pytest.raises(BoardError, match="no board named"):
            published(name, tmp_path)


def test_a_citation_file_that_is_missing_is_an_error_for_people(boards: Boards, tmp_path: Path):
    found = Published(boards=boards, release="", date="2026", digest="")
    with pytest.raises(BoardError, match=r"CITATION.cff cannot be read"):
        bibtex(found, [], tmp_path / "CITATION.cff", {})


# ---- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "methods"),
    [
        ("one", ["one"]),
        ("two/large", ["two"]),
        ("reconstruction/one", ["one"]),
        ("reconstruction/*", ["one", "two"]),
        ("reconstruction/cnn.digits.sgd/layer3/two/large", ["two"]),
        ("digits/*/one/default", ["one"]),
    ],
)
def test_a_key_names_means_over_seeds(boards: Boards, key: str, methods: list[str]):
    rows = cited_rows(boards, [key])
    assert [(row["method"], row["aggregate"], row["seeds"]) for row in rows] == [
        (one, "mean", "0 1") for one in methods
    ]


@pytest.mark.parametrize("key", ["1c", "reconstruction/cnn.digits.sgd/layer3/one/default/1"])
def test_a_cell_gives_the_row_of_its_seed(boards: Boards, key: str):
    (row,) = cited_rows(boards, [key])
    assert (row["method"], row["aggregate"], row["seeds"]) == ("one", "seed", "1")
    assert row["value"] == pytest.approx(0.6)
    assert row["cells"].startswith("1c")


def test_the_row_in_the_annotation_has_the_numbers_of_the_board(boards: Boards):
    (entry,) = cited(boards, "two").values()
    board = boards.wide["reconstruction"].set_index("method").loc["two"]
    shown = f"ssim (version 1) = {board['ssim']:.4f} fraction [{board['ssim_ci_low']:.4f}, {board['ssim_ci_high']:.4f}]"
    assert entry["annote"].startswith(
        f"reconstruction, digits, cnn.digits.sgd, layer3: two (large) version 1, {shown} at 95%"
    )
    assert "seeds 0 1, n 20 20, torch 2.15.0" in entry["annote"]
    assert all(cell in entry["annote"] for cell in cited_rows(boards, ["two"])[0]["cells"].split())


def test_a_mean_over_seeds_of_different_versions_of_torch_names_both():
    (first, units), (second, others) = measured("one", values(0.0, 0.1))
    later = second.model_copy(update={"conditions": {**second.conditions, "torch": "2.16.0"}})
    (row,) = cited_rows(boards_of([(first, units), (later, others)]), ["one"])
    assert row["torch"] == "2.15.0 2.16.0"


def test_one_metric_may_be_asked_for_by_pattern_and_all_by_a_star():
    readings = [reading(0.5, metric="ssim"), reading(0.1, metric="rmse"), reading(30.0, metric="psnr")]
    boards = boards_of([(record(readings=readings), {})])
    assert [row["metric"] for row in cited_rows(boards, ["one"])] == ["ssim"]
    assert [row["metric"] for row in cited_rows(boards, ["one"], ["ps*"])] == ["psnr"]
    assert len(cited_rows(boards, ["one"], ["*"])) == 3


@pytest.mark.parametrize(
    ("keys", "metrics", "message"),
    [
        (["on"], [], r"no row or cell is called 'on'. Did you mean 'one'"),
        (["one", "zzz/*"], [], r"no row or cell is called 'zzz/\*'.\n  give a method"),
        (["one"], ["sim"], r"no metric 'sim' on the boards of smoke. Did you mean 'ssim'\?"),
    ],
)
def test_what_names_nothing_is_refused(boards: Boards, keys: list[str], metrics: list[str], message: str):
    with pytest.raises(BoardError, match=message):
        cited_rows(boards, keys, metrics)


def test_digits_that_begin_several_keys_are_refused():
    boards = boards_of(measured("one", values(0.0, 0.1)))  # keys are names here, and begin alike
    with pytest.raises(BoardError, match=r"2 cells have a key that begins with 'reconstruction_'\n  give more"):
        cited_rows(boards, ["reconstruction_"])


def test_a_row_without_the_metric_is_refused():
    made = [(record("one", readings=[reading()]), {}), (record("two", readings=[reading(metric="rmse")]), {})]
    with pytest.raises(BoardError, match=r"'two' has no row of the metrics asked for\n  --metric '\*'"):
        cited_rows(boards_of(made), ["two"], ["ssim"])


def test_rows_are_written_in_full(boards: Boards, tmp_path: Path):
    write_rows(cited_rows(boards, ["*"]), tmp_path / "rows.csv")
    read = pd.read_csv(tmp_path / "rows.csv", dtype={"seeds": str})
    means = boards.long[boards.long["aggregate"] == "mean"]
    assert list(read["value"]) == list(means["value"]) and list(read["ci_low"]) == list(means["ci_low"])
    assert list(read["seeds"]) == ["0 1", "0 1"]
    with pytest.raises(BoardError, match="cannot be written"):
        write_rows([], tmp_path / "no" / "folder" / "rows.csv")


# ---- BibTeX --------------------------------------------------------------------------------------------------------


def test_any_name_is_escaped_and_its_braces_do_not_count():
    boards = boards_of(measured(HOSTILE, values(0.0), condition=HOSTILE))
    found = Published(boards=boards, release="", date="2026", digest="")
    source = {f"reconstruction/{HOSTILE}": Source(source=HOSTILE, differs=HOSTILE)}
    text = bibtex(found, cited_rows(boards, [HOSTILE]), CITATION, source)
    assert len(parsed(text)) == 2
    assert text.count("{") == text.count("}")
    fields = "".join(line for line in text.splitlines() if not line.startswith("@"))
    for sign in "_%$#&":
        assert fields.count(sign) == fields.count(f"\\{sign}") > 0, sign


def test_underscores_come_back_as_they_were():
    boards = boards_of(measured("bort_sgd", values(0.0)))
    (entry,) = cited(boards, "bort_sgd").values()
    assert ": bort_sgd (default)" in entry["annote"]


def test_a_paper_that_the_citation_file_knows_is_cited_in_full_and_once(boards: Boards):
    known = Source(source="Zhang et al. 2023, arXiv:2212.09062", differs="gamma is ours")
    entries = cited(boards, "*", sources={"reconstruction/one": known, "reconstruction/two": known})
    paper = entries["arxiv-2212.09062"]
    assert paper["title"].startswith("Bort: Towards Explainable") and paper["author"].startswith(
        "Zhang, B. and Zheng, W."
    )
    assert (paper["year"], paper["eprint"], paper["booktitle"]) == ("2023", "2212.09062", "ICLR 2023")
    assert len(entries) == 4
    assert entries["glassbench-method-reconstruction-one"]["annote"] == "glassbench differs: gamma is ours"


def test_another_source_stays_a_note_in_the_words_of_the_method(boards: Boards):
    entries = cited(
        boards, "one", sources={"reconstruction/one": Source(source="Doe 2001, arXiv:1234.56789", differs="")}
    )
    note = entries["glassbench-method-reconstruction-one"]
    assert (note["note"], note["eprint"], "annote" in note) == ("Doe 2001, arXiv:1234.56789", "1234.56789", False)


# ---- the command ---------------------------------------------------------------------------------------------------

COMMAND = (
    "import sys, run_bench\ntry:\n    run_bench.main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
)


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", COMMAND, *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_prints_bibtex_writes_rows_and_loads_no_torch(tmp_path: Path):
    boards = boards_of(measured("pixel_ascent", values(0.0, 0.1), track="inversion"), primary={"inversion": "ssim"})
    write(boards, tmp_path / "smoke")
    ended = command("cite", "smoke", "pixel_ascent", "--leaderboards", tmp_path, "--rows", tmp_path / "rows.csv")
    assert ended.returncode == 0, ended.stderr
    entries = parsed(ended.stdout)
    assert "Simonyan" in entries["glassbench-method-inversion-pixel_ascent"]["note"]
    assert len(pd.read_csv(tmp_path / "rows.csv")) == 1
    assert ended.stderr.splitlines()[-1] == "False"


def test_the_command_refuses_what_is_not_there_with_status_2(tmp_path: Path):
    ended = command("cite", "smoke", "--leaderboards", tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"BoardError: no board in {tmp_path}" in ended.stderr and "Traceback" not in ended.stderr


def test_the_command_prints_nothing_where_the_rows_cannot_be_written(tmp_path: Path):
    boards = boards_of(measured("pixel_ascent", values(0.0, 0.1), track="inversion"), primary={"inversion": "ssim"})
    write(boards, tmp_path / "smoke")
    rows = tmp_path / "none" / "rows.csv"
    ended = command("cite", "smoke", "pixel_ascent", "--leaderboards", tmp_path, "--rows", rows)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"{rows} cannot be written" in ended.stderr and "give --rows another path" in ended.stderr
