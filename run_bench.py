#!/usr/bin/env python3
"""glassbench on the command line: plan, run, rank, compare. `run_bench.py --help` is the place to start."""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

if TYPE_CHECKING:
    from bench.execute.selftest import Outcome
    from bench.leaderboard import Boards, Judgement, Release
    from bench.plan.cells import Cell, Plan
    from bench.plan.suite import AnySuite
    from bench.record import Identity, Store

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""How well can one look inside this network, and with which method?

Start with [bold]run_bench.py run smoke[/]: real handwritten digits, all seven tracks, a few minutes on two CPU cores.
Then [bold]run_bench.py plan mnist[/] shows what a bigger suite would do, and [bold]run_bench.py list methods[/] what
there is.

Exit status: 0 all cells ok or skipped; 1 some cell or the selftest failed, or the disk is full; 2 the request was wrong
and nothing was written; 3 compare or nightly found something worse; 130 Ctrl-C (the same command goes on where it
stopped).""",
)
store_app = typer.Typer(no_args_is_help=True, help="Look after the folder where records lie.")
app.add_typer(store_app, name="store")

out = Console()
err = Console(stderr=True)

SuiteArg = Annotated[str, typer.Argument(help="A built-in suite (list suites), or the path of a YAML file.")]
Profile = Annotated[str, typer.Option(help="cpu: sized for two cores; full: for a GPU. They never share a board.")]
StoreOption = Annotated[Path, typer.Option("--store", envvar="GLASSBENCH_STORE", help="Where records and weights lie.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", envvar="GLASSBENCH_DATA", help="Folder of the data sets and public weights."),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="A .py file with a method, metric or network of yours; repeatable."),
]
Images = Annotated[
    Path | None, typer.Option("--images", help="Folder (or zip) of pictures, for data sets that take one.")
]
Dataset = Annotated[
    str | None,
    typer.Option(help="Run on another data set than the suite's own, e.g. cifar10_jpeg75; it gets boards of its own."),
]
NoSelftest = Annotated[
    bool, typer.Option("--no-selftest", help="Leave out the known answers; the records say that they were skipped.")
]
Boards_ = Annotated[Path, typer.Option("--leaderboards", help="Where the CSV boards are written, one folder a suite.")]


# ---- plan and run --------------------------------------------------------------------------------------------------


@app.command()
def run(
    suite: SuiteArg,
    profile: Profile = "cpu",
    store: StoreOption = Path("store"),
    data: Data = None,
    images: Images = None,
    dataset: Dataset = None,
    leaderboards: Boards_ = Path("leaderboards"),
    plugin: Plugins = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores, or one a GPU.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only cells whose key or name matches, e.g. 'inversion/*', '*/pgd/*' or 'mnist/*'."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N cells.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Run everything again, records or not; with --only, what matches.")
    ] = False,
    no_selftest: NoSelftest = False,
) -> None:
    """Run a suite to its leaderboards; the same command again goes on where it stopped."""
    _check_folder(leaderboards)
    plan, chosen, place, root = _prepare(suite, profile, store, data, images, dataset, plugin, only, limit)
    forced = [cell.key for cell in (_matching(plan, only) if only else chosen)] if force else []
    flags = {"no_selftest": no_selftest, "retry_failed": retry_failed}
    if _execute(plan, chosen, place, root, workers, force=forced, **flags):
        _publish(place, plan.suite.board, leaderboards, plan)


@app.command()
def plan(
    suite: SuiteArg,
    profile: Profile = "cpu",
    data: Data = None,
    images: Images = None,
    dataset: Dataset = None,
    plugin: Plugins = None,
    only: Annotated[list[str] | None, typer.Option(help="As for run.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="As for run.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="As for run; for the estimate.")] = None,
) -> None:
    """Show the cells of a suite: what would run, what would be skipped and why, passes and time."""
    loaded, root = _load(suite, profile, data, images, dataset, plugin)
    from bench.execute.environment import best_device
    from bench.plan.cells import make_plan
    from bench.plan.estimate import bytes_of, seconds_of

    made = make_plan(loaded, root)
    chosen = _choose(made, only, limit)
    seconds = seconds_of(made, root, best_device())
    table = _table("cell", "passes", "at most", "")
    for cell in chosen:
        note = f"{cell.skip[0]}: {cell.skip[1]}" if cell.skip else "" if cell.wanted else "needed by others"
        table.add_row(f"{cell}", f"{cell.passes:,}", _span(seconds[cell.key]), note)
    out.print(table)
    total = sum(seconds[cell.key] for cell in chosen) / _workers(workers, loaded.threads)
    room = sum(bytes_of(cell, made) for cell in chosen) / 2**20
    skipped = sum(cell.skip is not None for cell in chosen)
    out.print(
        f"{len(chosen)} cells, {skipped} to be skipped; about {_span(total)} with {_workers(workers, loaded.threads)}"
        f" workers, {room:.0f} MiB on disk. Methods may spend less than their budget."
    )


@app.command()
def score(
    suite: SuiteArg,
    profile: Profile = "cpu",
    store: StoreOption = Path("store"),
    data: Data = None,
    images: Images = None,
    dataset: Dataset = None,
    leaderboards: Boards_ = Path("leaderboards"),
    plugin: Plugins = None,
    workers: Annotated[int | None, typer.Option(min=1, help="As for run.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="As for run.")] = None,
    no_selftest: NoSelftest = False,
) -> None:
    """Take new or changed metrics over stored artifacts; no method is run."""
    _check_folder(leaderboards)
    plan, chosen, place, root = _prepare(
        suite, profile, store, data, images, dataset, plugin, only, None, recorded=True
    )
    if _execute(plan, chosen, place, root, workers, no_selftest=no_selftest, score_only=True):
        _publish(place, plan.suite.board, leaderboards, plan)


@app.command()
def rank(
    boards: Annotated[list[str] | None, typer.Argument(help="Boards in the store; all of them when left out.")] = None,
    store: StoreOption = Path("store"),
    leaderboards: Boards_ = Path("leaderboards"),
    intervals: Annotated[bool, typer.Option(help="--no-intervals leaves out the bootstrap.")] = True,
    values: Annotated[bool, typer.Option("--values", help="Also the per-image values, for paired compare.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not print the tables.")] = False,
) -> None:
    """Make the CSV boards anew from records; needs neither torch nor a GPU."""
    from bench.record import Store

    place = Store.open(store)
    names = boards or place.boards()
    if not names:
        raise _setup(f"no boards in {store}", "run a suite first")
    for name in names:
        if name not in place.boards():
            raise _setup(f"no board named {name!r} in {store}", f"there are: {', '.join(place.boards()) or 'none'}")
    for name in names:
        _publish(place, name, leaderboards, None, intervals=intervals, values=values, quiet=quiet)


@app.command()
def pictures(
    suite: SuiteArg,
    profile: Profile = "cpu",
    store: StoreOption = Path("store"),
    to: Annotated[
        Path | None, typer.Option("--to", help="Where they are written; default: beside the board's page in the store.")
    ] = None,
    dataset: Dataset = None,
    plugin: Plugins = None,
    only: Annotated[list[str] | None, typer.Option(help="As for run.")] = None,
) -> None:
    """Write every image of a suite's finished cells as a PNG of its own, at full size; needs neither torch nor data.

    Where a cell has transparency maps, each image has a masked twin. No file is written over.
    """
    loaded, _ = _load(suite, profile, None, None, dataset, plugin)
    from bench.execute.full_size import write_pictures
    from bench.record import Store

    place = Store.open(store)
    if loaded.board not in place.boards():
        raise _setup(f"no cell of {loaded.board} has a record in {store}", "run the suite first")
    listed = place.read_index(loaded.board).cells
    chosen = [cell for cell in listed if not only or any(_fits(cell.key, cell.identity, one) for one in only)]
    if not chosen:
        raise _no_match(only)
    folder = place.board(loaded.board) / "full_size" if to is None else to
    _check_folder(folder, "pictures", "--to")
    written = write_pictures(place, listed, chosen, folder)
    _say(f"pictures: {folder}")
    _say(f"{written.new} written, {written.known} there already; of {written.cells} cells")


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="A board's folder, a folder of boards, or a release.")],
    new: Annotated[Path, typer.Argument(help="Another one; boards of one name are compared.")],
    store: Annotated[
        Path | None,
        typer.Option(envvar="GLASSBENCH_STORE", help="Where per-image values are looked up; default: ./store, if any."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the bootstrap; the protocol's when left out.")] = None,
) -> None:
    """Show what changed between two boards beyond tolerance and chance; exit 3 when something got worse."""
    from bench.leaderboard import boards_in_both, check_released, worse
    from bench.leaderboard import compare as differences_between
    from bench.leaderboard.statistics import DRAW_SEED
    from bench.record import Store
    from bench.report import print_comparison

    for folder in (old, new):
        check_released(folder)
    if store is None and Path("store", "cells").is_dir():
        store = Path("store")
    pairs, alone = boards_in_both(old, new, Store.open(store) if store is not None else None)
    found = [differences_between(a, b, seed=DRAW_SEED if seed is None else seed) for a, b in pairs]
    for one in found:
        print_comparison(one, out)
    for line in alone:
        _say(line)
    if any(worse(one.differences) for one in found):
        raise typer.Exit(3)


@app.command()
def release(
    version: Annotated[str, typer.Argument(help="X.Y.Z; a release is never changed, so it must be new.")],
    boards: Annotated[list[str] | None, typer.Argument(help="Published boards; all of them when left out.")] = None,
    store: StoreOption = Path("store"),
    leaderboards: Boards_ = Path("leaderboards"),
    date: Annotated[str | None, typer.Option(help="YYYY-MM-DD; default: today, UTC.")] = None,
) -> None:
    """Freeze published boards, with the per-image values for paired compare, as leaderboards/releases/vX.Y.Z."""
    from bench.leaderboard import freeze
    from bench.record import Store

    made = freeze(Store.open(store), leaderboards, boards or (), version=version, date=_day(date))
    for name, facts in made.boards.items():
        cells, dirty = facts["cells"], facts["cells of commits with local changes"]
        note = f"; {len(dirty)} cells are of commits with local changes" if dirty else ""
        _say(f"{name}: {facts['rows']} rows, {cells['ok']} cells ok, {cells['not ok']} not ok{note}")
    size = sum(path.stat().st_size for path in made.folder.rglob("*") if path.is_file())
    _say(f"release: {made.folder}, {size / 2**20:.1f} MiB")


@app.command()
def nightly(
    suites: Annotated[list[str] | None, typer.Argument(help="Suites; those of the release when left out.")] = None,
    profile: Profile = "cpu",
    release: Annotated[
        Path | None, typer.Option(help="What is compared with; default: the last under leaderboards/releases.")
    ] = None,
    store: StoreOption = Path("store"),
    data: Data = None,
    plugin: Plugins = None,
    workers: Annotated[int | None, typer.Option(min=1, help="As for run.")] = None,
    folder: Annotated[
        Path, typer.Option("--out", help="Boards, site and report.json are written there, one folder a day.")
    ] = Path("nightly"),
    leaderboards: Annotated[
        Path | None, typer.Option(help="Where the boards are written instead; with --reuse the committed ones, say.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Where the site is written instead.")] = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Run in STORE itself, only what changed; not all afresh.")
    ] = False,
    advisory: Annotated[bool, typer.Option("--advisory", help="Show alarms, and end with 0 all the same.")] = False,
    date: Annotated[str | None, typer.Option(help="YYYY-MM-DD, to go on with an earlier night.")] = None,
) -> None:
    """Selftest, run, rank, publish; then compare with the last release and raise an alarm for what got worse.

    It measures afresh, in a store of its own for each day (UTC), STORE/nightly/DATE: the same command on the same day
    goes on where it stopped. A number that got worse is measured once more before it raises an alarm. Exit status: 3
    on an alarm, 0 with --advisory; 1 when the selftest failed, or cells that the release does not have.
    """
    from bench.execute.runner import index_of
    from bench.leaderboard import folders_of, last_release, open_release
    from bench.leaderboard.nightly import write_report
    from bench.plan.cells import make_plan
    from bench.record import Store
    from bench.report import print_judgement, write_site

    last = open_release(release) if release is not None else last_release(Path("leaderboards"))
    plans = [
        make_plan(*_load(suite, profile, data, None, None, plugin))
        for suite in dict.fromkeys(suites or _released_suites(last, profile))
    ]
    day = _day(date)
    boards, site = leaderboards or folder / day / "leaderboards", to or folder / day / "site"
    _check_folder(folder, "the report", "--out")
    _check_folder(boards)
    _check_folder(site, "the site", "--to")
    place = Store.create(store if reuse else store / "nightly" / day)
    for plan in plans:
        place.write_index(index_of(plan))
    if _tested(place).stamp == "fail":
        err.print("nothing was run: the selftest failed\n  mend what run_bench.py selftest shows", highlight=False)
        raise typer.Exit(1)
    nights = [_night(plan, place, data, boards, last, workers) for plan in plans]
    judgements = [night.judgement for night in nights if night.judgement is not None]
    alarms = sum(len(one.alarms) for one in judgements)
    global _status
    _status = 3 if alarms and not advisory else int(any(night.broken for night in nights))
    path = write_report(folder / day, judgements, last, date=day, profile=profile, exit_status=_status)
    for one in judgements:
        print_judgement(one, out)
    for plan in plans:
        if plan.suite.board not in last.boards:
            _say(f"{plan.suite.board}: not in release {last.version}, so it is compared with nothing")
    out.print(f"report: {path}", highlight=False, soft_wrap=True)
    first_page = write_site(list(folders_of(boards).values()), site, store=place)  # a page hides no alarm by failing
    out.print(f"site:   {first_page}", highlight=False, soft_wrap=True)


@app.command()
def cite(
    suite: Annotated[str, typer.Argument(help="A suite with boards in --leaderboards or in a release.")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            help="Rows: METHOD, METHOD/VARIANT, TRACK/METHOD or a cell's name, with * as for run --only: means over"
            " seeds; or the first digits of a cell's key: the row of its seed."
        ),
    ] = None,
    release: Annotated[
        Path | None,
        typer.Option(help="A release's folder. Default: the newest under --leaderboards, else the boards as they are."),
    ] = None,
    leaderboards: Annotated[Path, typer.Option(help="Folder of the published boards, one folder a suite.")] = Path(
        "leaderboards"
    ),
    metric: Annotated[
        list[str] | None, typer.Option(help="Metrics of the rows, as patterns; default: what ranks the board.")
    ] = None,
    rows: Annotated[Path | None, typer.Option("--rows", help="Write the rows as CSV to this file.")] = None,
    plugin: Plugins = None,
) -> None:
    """Print BibTeX of a suite's boards, the exact rows, and the papers of their methods; needs no torch."""
    from bench import registry
    from bench.report import cite as citing

    for path in plugin or ():
        registry.add_plugin(path)
    found = citing.published(suite, leaderboards, release)
    chosen = citing.cited_rows(found.boards, keys or (), metric or ())
    known = set(registry.method_names()) & {f"{row['track']}/{row['method']}" for row in chosen}
    sources = {name: citing.Source(**registry.said_of_method(name)) for name in known}
    entries = citing.bibtex(found, chosen, registry.ROOT / "CITATION.cff", sources)
    if rows is not None:  # first: what is printed may be pasted, so nothing is where the rows cannot be written
        citing.write_rows(chosen, rows)
    print(entries)
    if rows is not None:
        err.print(f"rows: {rows}", highlight=False, soft_wrap=True)


@app.command()
def site(
    boards: Annotated[list[str] | None, typer.Argument(help="Boards by name; all of them when left out.")] = None,
    leaderboards: Annotated[
        Path, typer.Option("--leaderboards", help="Folder of the boards: one folder each, or a release.")
    ] = Path("leaderboards"),
    store: StoreOption = Path("store"),
    to: Annotated[Path, typer.Option("--to", help="Folder of the pages; what else lies there stays.")] = Path("site"),
) -> None:
    """Write the boards as pages that open from disk and need nothing from elsewhere; needs neither torch nor a GPU.

    Pictures of what the methods made come from the store; without one the pages say where they are.
    """
    from bench.leaderboard import folders_of
    from bench.plan import listing
    from bench.record import Store
    from bench.report import write_site

    folders = list(folders_of(leaderboards, boards or ()).values())
    _check_folder(to, "pages", "--to")
    place = Store.open(store) if (store / "cells").is_dir() else None
    about = {name: said.rpartition(" (")[0] for name, said in listing.rows("suites")}
    page = write_site(folders, to, store=place, about=about)
    size = sum(path.stat().st_size for path in to.rglob("*") if path.suffix in (".html", ".css", ".js"))
    _say(f"boards: {len(folders)}, {size / 2**10:.0f} KiB without pictures{'' if place else f'; no store at {store}'}")
    _say(f"page:   {page}")


# ---- looking -------------------------------------------------------------------------------------------------------


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="methods, metrics, subjects, datasets or suites")],
    names: Annotated[list[str] | None, typer.Argument(help="Only these, with their cards (metrics, methods).")] = None,
    plugin: Plugins = None,
    long: Annotated[bool, typer.Option("--long", help="The whole card of every metric or method.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The cards of all metrics or methods as one page.")
    ] = False,
) -> None:
    """Name what there is, one line each, or show cards: what a number is, and when not to trust it."""
    from bench import registry
    from bench.plan import listing

    if kind not in registry.LISTS:
        raise registry.unknown("list", kind, registry.LISTS)
    for path in plugin or ():
        registry.add_plugin(path)
    rows = dict(listing.rows(kind))
    for name in names or ():
        if name not in rows:
            raise registry.unknown(kind.removesuffix("s"), name, rows)
    if markdown and kind in ("methods", "metrics"):
        from bench.plan import cards, method_cards

        warnings.simplefilter("ignore")
        print(cards.page() if kind == "metrics" else method_cards.page(), end="")
    elif (names or long) and kind in ("methods", "metrics"):
        for name in names or rows:
            _print_card(kind, name, rows[name])
    else:
        width = max(map(len, rows), default=0)
        for name in names or rows:
            out.print(f"[bold]{name:<{width}}[/]  {_escape(rows[name])}", soft_wrap=True, highlight=False)


def _print_card(kind: str, name: str, summary: str) -> None:
    from rich.padding import Padding
    from rich.table import Table

    from bench.plan import cards, method_cards

    warnings.simplefilter("ignore")  # of the libraries that are imported for it
    out.print(f"[bold]{name}[/]  {_escape(summary)}", highlight=False)
    facts = Table.grid(padding=(0, 2))
    for what, said in cards.metric_facts(name) if kind == "metrics" else method_cards.facts(name):
        facts.add_row(f"[dim]{what}[/]", _escape(said.replace("``", "")))
    out.print(Padding(facts, (0, 0, 1, 4)))


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="The key of a cell, or its first digits.")],
    store: StoreOption = Path("store"),
) -> None:
    """Show one record: what was run, what came out, what it took."""
    from bench.record import DamagedRecord, Store
    from bench.report import show as print_record

    place = Store.open(store)
    every = place.keys()
    found = [known for known in every if known.startswith(key)]
    if not found:
        raise _setup(
            f"no cell in {store} has a key that begins with {key!r}", "they are the column cell_id of results.csv"
        )
    if len(found) > 1:
        raise _setup(f"{len(found)} cells have a key that begins with {key!r}", "give more of its digits")
    try:
        print_record(place.read(found[0]), out)
    except DamagedRecord as problem:
        raise _setup(f"{found[0]}: {problem}", "run its suite again: the record is then set aside") from problem


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set (list datasets) or a judge network (doctor).")],
    data: Data = None,
) -> None:
    """Download a data set or a judge network, with checksums; where that cannot work, say what is expected where."""
    from bench import registry
    from bench.zoo.datasets import dataset_names
    from bench.zoo.datasets import fetch as download
    from bench.zoo.foundations import fetch_judge, judge_names

    if name not in (known := [*dataset_names(), *judge_names()]):
        raise registry.unknown("data set or judge", name, known)
    if name in judge_names():
        path, digest = fetch_judge(name, data)
        out.print(f"{path}\n  sha256 {digest}", highlight=False, soft_wrap=True)
        out.print("run_bench.py score SUITE takes its readings over what was run before", highlight=False)
        return
    for path in download(name, data):
        out.print(f"{path}")


@app.command()
def doctor(data: Data = None, store: StoreOption = Path("store")) -> None:
    """Say what this machine has: versions, device, data sets and weights found."""
    from bench.execute.doctor import findings

    table = _table("what", "found")
    for what, found in findings(data):
        table.add_row(what, _escape(found))
    table.add_row("store", f"{store.resolve()}{'' if store.exists() else ' (not there yet)'}")
    out.print(table)


@app.command()
def selftest() -> None:
    """Compute every known answer that needs no download, and say which come out wrong; run does it by itself."""
    from bench.execute import environment
    from bench.execute.selftest import selftest as check_all

    with out.status("computing known answers"):
        outcome = check_all(environment.best_device())
    table = _table("check", "expected", "found", "ok")
    for finding in outcome.findings:
        table.add_row(*map(_escape, (finding.name, finding.expected, finding.found, finding.status)))
    out.print(table)
    _say(f"selftest: {outcome}")
    global _status
    _status = int(outcome.stamp == "fail")


@store_app.command("size")
def store_size(store: StoreOption = Path("store")) -> None:
    """Say what takes how much room."""
    from bench.record import Store

    sizes = Store.open(store).size()
    for kind, size in sizes.items():
        out.print(f"{kind:<10} {size / 2**20:10.1f} MiB", highlight=False)
    out.print(f"{'all':<10} {sum(sizes.values()) / 2**20:10.1f} MiB", highlight=False)


@store_app.command("gc")
def store_gc(
    store: StoreOption = Path("store"),
    unlisted: Annotated[bool, typer.Option("--unlisted", help="Also cells that no board lists.")] = False,
    damaged: Annotated[bool, typer.Option("--damaged", help="Also what was set aside as damaged.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove what killed runs left behind, and more when asked."""
    from bench.record import Store

    gone = Store.open(store).gc(unlisted=unlisted, damaged=damaged, dry_run=dry_run)
    for item in gone:
        out.print(f"{item.size_bytes / 2**20:8.1f} MiB  {item.path}  {item.reason}", highlight=False, soft_wrap=True)
    verb = "would be freed" if dry_run else "freed"
    out.print(f"{sum(item.size_bytes for item in gone) / 2**20:.1f} MiB {verb}", highlight=False)


# ---- parts ---------------------------------------------------------------------------------------------------------


def _load(
    suite: str, profile: str, data: Path | None, images: Path | None, dataset: str | None, plugin: list[Path] | None
) -> tuple[AnySuite, Path | None]:
    """The suite with all names checked, before anything heavy is loaded."""
    from bench import registry
    from bench.plan.suite import load_suite

    for path in plugin or ():
        registry.add_plugin(path)
    if data is not None and not data.is_dir():
        raise _setup(f"data folder {data} does not exist", "give --data DIR, or set GLASSBENCH_DATA")
    return load_suite(suite, profile, {"folder": str(images.resolve())} if images else None, dataset), data


def _prepare(
    suite: str,
    profile: str,
    store: Path,
    data: Path | None,
    images: Path | None,
    dataset: str | None,
    plugin: list[Path] | None,
    only: list[str] | None,
    limit: int | None,
    *,
    recorded: bool = False,
) -> tuple[Plan, list[Cell], Store, Path | None]:
    """Plan first and touch the store last, so that a wrong request leaves nothing behind.

    Args:
        recorded: choose only cells that have a record.
    """
    loaded, root = _load(suite, profile, data, images, dataset, plugin)
    from bench.execute.runner import index_of
    from bench.plan.cells import make_plan
    from bench.record import Store

    made = make_plan(loaded, root)
    chosen = _choose(made, only, limit)
    if recorded:
        known = Store.open(store)
        chosen = [cell for cell in chosen if known.has(cell.key)]
        if not chosen:
            raise _setup(f"no cell of {loaded.board} has a record in {store}", "run the suite first")
    place = Store.create(store)
    place.write_index(index_of(made))
    return made, chosen, place, root


def _check_folder(folder: Path, what: str = "boards", option: str = "--leaderboards") -> None:
    """The folder is there or can be made: found out before hours of work, not after."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise _setup(f"{what} cannot be written to {folder}: {there} is not a writable folder", f"give {option}")
    if (folder / "release.json").exists():
        raise _setup(f"{what} cannot be written to {folder}: a release is never changed", f"give {option}")


def _choose(made: Plan, only: list[str] | None, limit: int | None) -> list[Cell]:
    """The wanted cells that match, and all that they need."""
    wanted = _matching(made, only)
    if not wanted:
        raise _no_match(only)
    return _with_needs(made, [cell.key for cell in wanted[:limit]])


def _with_needs(made: Plan, keys: Collection[str]) -> list[Cell]:
    keep = set(keys)
    for cell in reversed(made.cells):  # needs stand before what needs them
        if cell.key in keep:
            keep.update(cell.needs)
    return [cell for cell in made.cells if cell.key in keep]


def _matching(made: Plan, only: list[str] | None) -> list[Cell]:
    return [cell for cell in made.wanted if not only or any(_fits(cell.key, cell, pattern) for pattern in only)]


def _fits(key: str, who: Cell | Identity, pattern: str) -> bool:
    name = "/".join((who.track, who.subject, who.condition, who.method, who.variant, str(who.seed)))
    return key.startswith(pattern) or any(fnmatch.fnmatch(text, pattern) for text in (name, f"{who.dataset}/{name}"))


def _no_match(only: list[str] | None) -> Exception:
    return _setup(
        f"no cell matches {', '.join(only or ())}",
        "names look like inversion/cnn.digits.sgd//pixel_ascent/default/0; '*/pixel_ascent/*' finds all of a method",
    )


def _execute(
    plan: Plan,
    cells: list[Cell],
    place: Store,
    root: Path | None,
    workers: int | None,
    *,
    no_selftest: bool,
    force: Collection[str] = (),
    **flags: bool,
) -> bool:
    """Run the cells; a failure ends the command with status 1 after the boards of what there is were made.

    Args:
        force: keys of the cells to run again, records or not.

    Returns:
        Whether boards may be made: not of what was measured while the selftest failed.
    """
    from bench.execute.environment import best_device
    from bench.execute.progress import Progress
    from bench.execute.runner import Runner
    from bench.plan.estimate import bytes_of, seconds_of
    from bench.record import StoreFull

    count = _workers(workers, plan.suite.threads)
    new = [cell for cell in cells if cell.key in force or not place.has(cell.key)]
    every = seconds_of(plan, root, best_device()) if new else {}
    seconds = {cell.key: every[cell.key] for cell in new}
    room = sum(bytes_of(cell, plan) for cell in new)
    free = shutil.disk_usage(place.root).free
    out.print(
        f"{plan.suite.board}: {len(cells)} cells, {count} workers with {plan.suite.threads} threads each; at most "
        f"{_span(sum(seconds.values()) / count)};"
        f" {room / 2**20:.0f} MiB on disk needed, {free / 2**20:,.0f} free",
        highlight=False,
    )
    if room > free:
        raise StoreFull(
            f"{place.root} has {free / 2**20:.0f} MiB free, {room / 2**20:.0f} are needed",
            "make space and give the same command again",
        )
    stamp = "skipped" if no_selftest else _tested(place).stamp
    with Progress(out, cells, seconds, count) as progress:
        outcome = Runner(plan, cells, place, root, progress, workers=count, force=force, selftest=stamp, **flags).go()
    progress.summary(outcome)
    global _status
    _status = outcome.exit_status
    if stamp == "fail":
        _status = 1
        err.print(
            "no boards were made: the selftest failed\n"
            "  mend what run_bench.py selftest shows and give the same command again: it takes the readings anew",
            highlight=False,
            soft_wrap=True,
        )
    return stamp != "fail"


def _tested(place: Store) -> Outcome:
    """The selftest's outcome, with what failed in full; a store remembers a pass."""
    from bench.execute import environment
    from bench.execute.selftest import ensure

    with out.status("selftest"):
        outcome = ensure(place, environment.best_device())
    _say(f"selftest: {outcome}")
    for finding in outcome.failures:
        _say(f"  {finding.name}: expected {finding.expected}, found {finding.found}")
    return outcome


class _Night(NamedTuple):
    """One board of a nightly run."""

    judgement: Judgement | None  # None when the release does not have the board
    broken: bool  # cells failed that the release does not have


def _night(
    plan: Plan, place: Store, root: Path | None, leaderboards: Path, last: Release, workers: int | None
) -> _Night:
    """Run and publish a suite, compare it with the release, and run again what would raise an alarm."""
    from bench.leaderboard import compare, load_boards
    from bench.leaderboard.nightly import cells_of, judge, known_failures, suspects

    board = plan.suite.board
    _execute(plan, _choose(plan, None, None), place, root, workers, no_selftest=False)
    failed = _status != 0
    _publish(place, board, leaderboards, plan, quiet=True)
    if board not in last.boards:
        return _Night(None, failed)
    old, new = load_boards(last.folder / board), load_boards(leaderboards / board, place)
    first = compare(old, new)
    rerun = None
    if keys := cells_of(new, suspects(first)):
        _say(f"{board}: {len(keys)} cells got worse than release {last.version} and are run again")
        _execute(plan, _with_needs(plan, keys), place, root, workers, no_selftest=False, force=keys)
        _publish(place, board, leaderboards, plan, quiet=True)
        new = load_boards(leaderboards / board, place)
        rerun = compare(old, new)
    return _Night(judge(first, rerun), failed and not known_failures(old, new))


def _released_suites(last: Release, profile: str) -> list[str]:
    """Built-in suites whose boards, in this profile, are in the release."""
    from bench.plan.listing import rows

    built_in = dict(rows("suites"))
    found = [
        facts["suite"]
        for board, facts in last.boards.items()
        if facts["profile"] == profile
        and facts["suite"] in built_in
        and _load(facts["suite"], profile, None, None, None, None)[0].board == board
    ]
    if not found:
        raise _setup(f"release {last.version} has no board of a built-in suite, profile {profile}", "name the suites")
    return found


def _publish(
    place: Store,
    board: str,
    leaderboards: Path,
    plan: Plan | None,
    *,
    intervals: bool = True,
    values: bool = False,
    quiet: bool = False,
) -> None:
    """Boards as CSV and in the terminal, and a page; after a run a contact sheet beside it."""
    from bench.leaderboard import build, write
    from bench.report import print_boards, write_page

    boards: Boards = build(place, board, intervals=intervals)
    write(boards, leaderboards / board, values=values)
    pictures = []
    if plan is not None:
        from bench.execute.pictures import suite_sheets

        pictures = suite_sheets(plan, place)
    elif (place.board(board) / "pictures").is_dir():
        pictures = sorted((place.board(board) / "pictures").glob("*.png"))
    page = write_page(boards, place.board(board), store=place, sheets=pictures)
    if not quiet:
        print_boards(boards, out)
    out.print(f"boards: {leaderboards / board}", highlight=False, soft_wrap=True)
    out.print(f"page:   {page}", highlight=False, soft_wrap=True)
    for picture in pictures:
        out.print(f"sheet:  {picture}", highlight=False, soft_wrap=True)


def _workers(asked: int | None, threads: int) -> int:
    from bench.execute import environment

    if asked is not None:
        return asked
    if environment.best_device().type == "cuda":
        import torch

        return torch.cuda.device_count()
    return max(1, environment.cpus() // threads)


def _day(text: str | None) -> str:
    """A date as given, or today's in UTC, ISO 8601."""
    from datetime import UTC, date, datetime

    try:
        return (datetime.now(UTC).date() if text is None else date.fromisoformat(text)).isoformat()
    except ValueError:
        raise _setup(f"date should be YYYY-MM-DD, got {text!r}", "leave it out for today") from None


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(*heads: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, justify="right" if head in ("passes", "at most") else "left", overflow="fold")
    return table


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _setup(message: str, hint: str = "") -> Exception:
    from bench.contract import SetupError

    return SetupError(message, hint)


# ---- the end -------------------------------------------------------------------------------------------------------

_status = 0


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Errors that are the user's to mend are shown without a traceback, with their exit status."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("\nstopped; the same command goes on from here", highlight=False)
        sys.exit(130)
    except Exception as problem:
        status = _status_of(problem)
        if status is None:
            raise
        err.print(f"{type(problem).__name__}: {problem}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(status)


def _status_of(problem: Exception) -> int | None:
    """Exit status of an error that the user can mend; None for one that is ours. Loads nothing unless one happened."""
    from bench.contract import SetupError

    if isinstance(problem, SetupError):  # a mistyped name is told before the boards' library is loaded
        return 2
    from bench.leaderboard import BoardError
    from bench.record import StoreError, StoreFull

    if isinstance(problem, StoreFull) or (
        isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return 1
    return 2 if isinstance(problem, StoreError | BoardError) else None


def main() -> None:
    """The console script."""
    with _readable_errors():
        try:
            app(standalone_mode=True)
        except SystemExit as end:
            if end.code == 130:  # what typer makes of Ctrl-C
                raise KeyboardInterrupt from None
            sys.exit(end.code or _status)


if __name__ == "__main__":
    main()
