"""How fast a large board is sorted, and how large pages are: ``python tests/perf/bench_site.py [rows] [boards]``.

A board of 2 000 rows is sorted in a headless Chromium by each of its columns, from the click to the layout of what is
seen then, five times; the slowest column's median counts. Bar: 200 ms. Beside it, without a bar: until the rows out of
sight stand in their places too, filtering, and how long the page takes to open. Then the pages of the published boards,
each with its data, style and scripts. Bar: 1 MB without pictures.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench.leaderboard import folders_of  # noqa: E402
from bench.report import write_site  # noqa: E402
from tests.browser import making  # noqa: E402
from tests.browser.reader import Reader, programs, start  # noqa: E402
from tests.browser.timing import filtering_ms, sorting_ms, whole_ms  # noqa: E402
from tests.perf.verdict import Verdict  # noqa: E402

SORT_BAR_MS, PAGE_BAR_MB = 200.0, 1.0
BOARD = "#reconstruction"


def main(rows: int = 2000, boards: str = "leaderboards") -> int:
    """Time one large page and weigh the real ones."""
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as name:
        _time(verdict, making.write_many(Path(name) / "large", rows), rows)
        _weigh(verdict, ROOT / boards, Path(name) / "site")
    return verdict.end()


def _time(verdict: Verdict, page: Path, rows: int) -> None:
    found = programs()
    if isinstance(found, str):
        print(f"not measured: {found}")
        return
    driver = start(*found)
    try:
        reader = Reader(driver)
        began = time.perf_counter()
        reader.open(page)
        verdict.only(f"{rows} rows opened", 1e3 * (time.perf_counter() - began), "ms")
        count = len(reader.all(f"{BOARD} thead th"))
        medians = [statistics.median(sorting_ms(reader, BOARD, column)) for column in range(1, count + 1)]
        verdict.at_most(f"{rows} rows sorted, slowest of {count} columns", max(medians), SORT_BAR_MS, "ms")
        whole = statistics.median(whole_ms(reader, BOARD, 4) for _ in range(5))
        verdict.only(f"{rows} rows sorted, those out of sight too", whole, "ms")
        verdict.only(f"{rows} rows filtered", statistics.median(filtering_ms(reader, BOARD, "network_3")), "ms")
    finally:
        driver.quit()


def _weigh(verdict: Verdict, boards: Path, to: Path) -> None:
    write_site(list(folders_of(boards).values()), to)
    shared = sum(path.stat().st_size for path in to.glob("glassbench.*")) + (to / "plots.js").stat().st_size
    for page in sorted(to.glob("*.html")):
        data = to / "data" / f"{page.stem}.js"
        size = page.stat().st_size + shared + (data.stat().st_size if data.exists() else 0)
        verdict.at_most(f"{page.name} with all that it loads", size / 1e6, PAGE_BAR_MB, "MB")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2]), *sys.argv[2:3]))
