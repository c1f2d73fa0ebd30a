"""The boards as pages: what they say without a browser. ``tests/browser`` opens them."""

import base64
import builtins
import json
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.leaderboard import BoardError, folders_of, write
from bench.record import Cost, Store
from bench.report import write_page, write_site
from bench.report.site.rows import lead_of, tracks_of
from tests.right.making import boards_of, measured, noise, reading, record

VALUES = 0.5 + 0.1 * noise(0, 2, 40)
HOSTILE = "<script>alert(1)</script>\u2028</script>"
ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """Tags with their attributes, the text of each table row, and all text outside scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.rows, self.text = [], {}, ""
        self._row = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "tr":
            self._row = attributes.get("id", f"line {self.getpos()}")
            self.rows[self._row] = ""
        elif tag == "td" or tag == "th":
            self.handle_data("|")

    def handle_endtag(self, tag):
        if tag == "table":
            self._row = None

    def handle_data(self, data):
        self.text += data
        if self._row:
            self.rows[self._row] += data

    def row(self, words):
        """The one row of a board that holds the words."""
        (found,) = [text for name, text in self.rows.items() if words in text and name.startswith("r")]
        return " ".join(found.split())


def data_of(path):
    """What a data file hands over, unpacked."""
    packed = re.fullmatch(r'glassbench\.board\("([A-Za-z0-9+/=]*)"\);\n', path.read_text())[1]
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def some_records():
    return [
        *measured("good", VALUES + 0.3, cost=Cost(wall_s=12.34, forward_passes=10, backward_passes=20, n_images=4)),
        *measured("bad", VALUES),
        *measured("real_images", VALUES + 0.4, is_reference=True),
        (record("broken", status="oom", error="no memory [left] <b>"), {}),
    ]


def some_boards():
    return boards_of(some_records(), planned=[record("late")])


def site_of(tmp_path, boards=None, name="smoke", **changes):
    write(boards or some_boards(), tmp_path / "boards" / name)
    return write_site(list(folders_of(tmp_path / "boards").values()), tmp_path / "site", **changes)


def with_pictures(store, made=None):
    """A store with the records, and a picture of each cell."""
    for place, (one, values) in enumerate(made or some_records()):
        staged = store.stage(one.key)
        (staged / "artifacts").mkdir()
        Image.fromarray(np.full((60, 800, 3), place, dtype=np.uint8)).save(staged / "artifacts" / "contact_sheet.png")
        store.commit(one, values, staged)
    return store


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_a_row_shows_rank_tier_value_interval_seeds_and_time(tmp_path):
    page = Page(site_of(tmp_path).parent / "smoke.html")
    made = some_boards().wide["reconstruction"].set_index("method").loc["good"]
    interval = f"{made['ssim']:.4f} [{made['ssim_ci_low']:.4f}, {made['ssim_ci_high']:.4f}]"
    assert page.row("|good") == f"|1 [1–1]|1|good|{interval}|2/2|12.3"


def test_the_bar_holds_the_numbers_of_the_text(tmp_path):
    page = Page(site_of(tmp_path).parent / "smoke.html")
    made = some_boards().wide["reconstruction"].set_index("method")
    ends = made[["ssim_ci_low", "ssim_ci_high"]].round(4)
    bars = [dict(re.findall(r"--(\w):([-\d.e]+)", given["style"])) for tag, given in page.tags if tag == "i"]
    drawn = sorted([float(number) for number in bar.values()] for bar in bars)
    rows = made.dropna(subset="ssim")[["ssim", "ssim_ci_low", "ssim_ci_high"]]
    assert drawn == sorted([[round(number, 4) for number in row] for row in rows.to_numpy()]) and len(drawn) == 3
    (table,) = [attributes for tag, attributes in page.tags if attributes.get("class") == "board"]
    low, span = (float(number) for number in re.findall(r"--(?:lo|span):([-\d.e]+)", table["style"]))
    assert low == pytest.approx(ends.min().min()) and low + span == pytest.approx(ends.max().max())


def test_rows_without_a_rank_and_cells_without_a_result_say_why(tmp_path):
    page = Page(site_of(tmp_path).parent / "smoke.html")
    assert "0 of 1 cells ok" in page.row("broken") and "seed 0: oom: no memory [left] <b>" in page.row("broken")
    assert "seed 0: not run yet" in page.row("late")
    assert "reference: shows real images" in page.row("real_images")
    assert "Cells without a result: 2" in page.text


def test_notes_warnings_and_the_number_of_comparisons_are_shown(tmp_path):
    absent = reading(None, metric="fid", stem="fid", status="unsupported", error="needs FILE: fetch x")
    boards = boards_of(
        [(record("one", readings=[reading(), absent]), {})], track_notes={"reconstruction": ("Mind <the> gap.",)}
    )
    text = Page(site_of(tmp_path, boards).parent / "smoke.html").text
    assert "Mind <the> gap." in text and "no value of fid: unsupported: needs FILE: fetch x" in text
    assert "0 comparisons" in text


def test_a_row_keeps_its_id_when_the_others_change():
    ids = [
        {row.name["method"]: row.id for row in tracks_of(boards)[0].rows}
        for boards in (some_boards(), boards_of(measured("good", VALUES)))
    ]
    assert ids[0]["good"] == ids[1]["good"] and len(set(ids[0].values())) == len(ids[0])


# ---- leads ---------------------------------------------------------------------------------------------------------


def lead(*per_method, **changes):
    made = [cell for place, values in enumerate(per_method) for cell in measured(f"m{place}", values)]
    (track,) = tracks_of(boards_of(made, **changes))
    return lead_of(track.rows, "ssim", 2)


def test_a_lead_is_real_where_tier_1_holds_one_row_and_its_rank_is_certain():
    said, short = lead(VALUES + 0.3, VALUES)
    assert short == "real" and re.match(r"m0 is first with 0\.8\d \[0\.\d\d, 0\.\d\d\]\. The lead is real", said)


def test_a_lead_that_several_rows_share_is_none():
    said, short = lead(VALUES, 0.001 + 0.5 + 0.1 * noise(1, 2, 40))
    assert short == "shared by 2 rows" and "cannot be told apart at 95 %" in said


def test_a_lead_in_every_draw_whose_intervals_overlap_is_narrow():
    said, short = lead(VALUES + 0.01, VALUES)  # image by image better, by less than either interval is wide
    assert short == "narrow" and "rank interval 1–1" in said and "2 rows of tier 1 overlap" in said


def test_one_ranked_row_leads_nobody_and_without_ranks_there_is_no_lead():
    assert lead(VALUES)[1] == "the only ranked row"
    assert lead_of([], "ssim", 2) == ("No row is ranked.", "no row is ranked")


def test_without_intervals_no_lead_is_called_real():
    assert lead(VALUES + 0.3, VALUES, intervals=False)[1] == "no intervals"


def test_the_first_page_names_the_leader_of_each_group_and_links_its_row(tmp_path):
    first = site_of(tmp_path)
    page = Page(first)
    (row,) = [text for text in page.rows.values() if "layer3" in text]
    assert "digits · cnn.digits.sgd · layer3" in row and "|good" in row and row.strip().endswith("real")
    (link,) = [
        attributes["href"]
        for tag, attributes in page.tags
        if "smoke.html#r" in attributes.get("href", "") and attributes["href"].split("#")[1] != "reconstruction"
    ]
    assert link.split("#")[1] in {
        name for name, text in Page(first.parent / "smoke.html").rows.items() if "|good" in text
    }


# ---- the folder ----------------------------------------------------------------------------------------------------


def test_nothing_comes_from_elsewhere(tmp_path):
    first = site_of(tmp_path)
    for path in first.parent.rglob("*.*"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|url\(|@import|src=\"//", text), path


def test_every_local_link_leads_to_a_file(tmp_path):
    first = site_of(tmp_path)
    for path in first.parent.glob("*.html"):
        for _, attributes in Page(path).tags:
            for address in filter(None, (attributes.get("href"), attributes.get("src"))):
                assert (first.parent / (address.split("#")[0] or path.name)).is_file(), address


def test_the_same_boards_give_the_same_bytes(tmp_path):
    folders = [site_of(tmp_path / name).parent for name in ("a", "b")]
    first, second = ({path.name: path.read_bytes() for path in folder.rglob("*.*")} for folder in folders)
    assert first == second and len(first) == 6


def test_what_else_lies_there_stays(tmp_path):
    kept = tmp_path / "site" / "data" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    site_of(tmp_path)
    site_of(tmp_path)
    assert kept.read_text() == "mine"


def test_a_page_of_somebody_else_is_not_written_over(tmp_path):
    foreign = tmp_path / "site" / "index.html"
    foreign.parent.mkdir()
    foreign.write_text("<title>my home</title>")
    with pytest.raises(BoardError, match=r"index\.html is there already and was not written by site\n.*--to"):
        site_of(tmp_path)
    assert foreign.read_text() == "<title>my home</title>" and len(list(foreign.parent.iterdir())) == 1


def test_nothing_is_copied_beside_a_page_of_somebody_else(tmp_path):
    boards = some_boards()
    foreign = tmp_path / "site" / "smoke.html"
    foreign.parent.mkdir()
    foreign.write_text("<title>my home</title>")
    with pytest.raises(BoardError, match=r"smoke\.html is there already"):
        site_of(tmp_path, boards, store=with_pictures(Store.create(tmp_path / "store")))
    assert list(foreign.parent.iterdir()) == [foreign]


@pytest.mark.parametrize("name", ["data", "pictures"])
def test_a_file_in_place_of_a_folder_is_told(tmp_path, name):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / name).write_text("mine")
    with pytest.raises(BoardError, match=f"{name} should be a folder"):
        site_of(tmp_path)
    assert (tmp_path / "site" / name).read_text() == "mine"


def test_a_board_that_was_half_written_is_told(tmp_path):
    folder = tmp_path / "boards" / "smoke"
    site_of(tmp_path)
    old = (folder / "reconstruction.json").read_bytes()
    write(boards_of([*measured("good", VALUES), *measured("good", VALUES, condition="layer4")]), folder)
    (folder / "reconstruction.json").write_bytes(old)
    with pytest.raises(BoardError, match=r"are not of one board\n +make them again with `rank`"):
        write_site([folder], tmp_path / "site")


def test_a_track_of_which_no_cell_was_run_is_shown(tmp_path):
    primary = {"reconstruction": "ssim", "detection": "auroc"}
    boards = boards_of(measured("good", VALUES), planned=[record("late", track="detection")], primary=primary)
    page = Page(site_of(tmp_path, boards).parent / "smoke.html")
    assert "seed 0: not run yet" in page.row("late")


def test_boards_of_awkward_names_have_pages_of_their_own(tmp_path):
    names = ["index", "claims", "a b", "a_b", "..."]
    for name in names:
        write(some_boards(), tmp_path / "boards" / name)
    first = write_site(list(folders_of(tmp_path / "boards").values()), tmp_path / "site")
    links = {attributes["href"] for tag, attributes in Page(first).tags if tag == "a" and "#" not in attributes["href"]}
    assert len(links - {"index.html", "claims.html"}) == len(names)
    assert len(list((tmp_path / "site" / "data").iterdir())) == len(names)


def test_a_missing_folder_and_a_mistyped_board_are_told(tmp_path):
    with pytest.raises(BoardError, match="no board in "):
        folders_of(tmp_path)
    write(some_boards(), tmp_path / "smoke")
    with pytest.raises(BoardError, match=r"no board named 'smoek' .*Did you mean 'smoke'\?\n +there are: smoke"):
        folders_of(tmp_path, ["smoek"])
    assert folders_of(tmp_path / "smoke") == {"smoke": tmp_path / "smoke"}


def test_the_folder_that_one_stands_in_has_its_own_name(tmp_path, monkeypatch):
    write(some_boards(), tmp_path / "smoke")
    monkeypatch.chdir(tmp_path / "smoke")
    assert [*folders_of(Path(), ["smoke"])] == ["smoke"]


def test_names_and_errors_cannot_become_markup(tmp_path):
    names = {"subject": HOSTILE, "condition": HOSTILE, "variant": HOSTILE}
    made = [
        (record(HOSTILE, key="k", readings=[reading()], settings={HOSTILE: HOSTILE}, **names), {}),
        (record(HOSTILE, 1, key="l", status="oom", error=HOSTILE, **names), {}),
    ]
    first = site_of(tmp_path, boards_of(made))
    for path in first.parent.glob("*.html"):
        page = Page(path)
        scripts = [attributes for tag, attributes in page.tags if tag == "script"]
        assert all(attributes.get("src") or attributes.get("id") == "page" for attributes in scripts), path
        assert "<script>alert(1)</script>" in page.text
    (row,) = data_of(first.parent / "data" / "smoke.js")["tracks"]["reconstruction"]["rows"]
    assert row[2] == HOSTILE


def test_the_command_needs_no_torch_and_says_how_large_it_is(tmp_path):
    write(some_boards(), tmp_path / "boards" / "smoke")
    words = ["site", "--leaderboards", tmp_path / "boards", "--to", tmp_path / "site", "--store", tmp_path / "none"]
    code = (
        "import sys, run_bench\ntry: run_bench.main()\nexcept SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"page:   {tmp_path / 'site' / 'index.html'}" in ended.stdout and "KiB without pictures" in ended.stdout


# ---- behind the rows -----------------------------------------------------------------------------------------------


def test_the_data_hold_numbers_seeds_cost_settings_and_keys(tmp_path):
    content = data_of(site_of(tmp_path).parent / "data" / "smoke.js")["tracks"]["reconstruction"]
    (row,) = [row for row in content["rows"] if row[2] == "good"]
    boards = some_boards()
    made = boards.wide["reconstruction"].set_index("method").loc["good"]
    value, below, above = map(int, row[11].split(",")[0].split())
    assert value == round(made["ssim"] * 1e4)
    assert (value - below, value + above) == (round(made["ssim_ci_low"] * 1e4), round(made["ssim_ci_high"] * 1e4))
    seeds = [one.split() for one in row[12].split(",")]
    assert seeds == [[str(seed), str(round((0.3 + VALUES[seed].mean()) * 1e4))] for seed in (0, 1)]
    assert row[13] == [12.34, 10, 20, None, 4, 2, 2]
    assert content["settings"][row[14]]["step_size"] == 0.1
    assert content["shared"][row[15]]["torch"] == "2.15.0"
    assert [content["weights"][place] for place in row[16]] == ["0012345"]
    assert row[18].split() == [one.key for one, _ in measured("good", VALUES)]


def test_a_setting_and_what_the_task_gave_of_one_name_stand_side_by_side(tmp_path):
    made = measured("one", VALUES, settings={"references": 50}, spec={"references": 500, "budget": 10})
    content = data_of(site_of(tmp_path, boards_of(made)).parent / "data" / "smoke.js")["tracks"]["reconstruction"]
    assert content["settings"] == [{"references": 50, "references of the task": 500, "budget": 10}]


def test_a_curve_that_lacks_a_point_is_not_drawn(tmp_path):
    made = [
        (one.model_copy(update={"notes": {"curves": {"psnr": [0.0, 1.0], "ssim": [0.0, float("nan"), 1.0]}}}), values)
        for one, values in measured("one", VALUES)
    ]
    made = [(one.model_copy(update={"readings": (*one.readings, reading(metric="psnr"))}), v) for one, v in made]
    tracks = data_of(site_of(tmp_path, boards_of(made)).parent / "data" / "smoke.js")["tracks"]
    assert tracks["reconstruction"]["rows"][0][-1] == {"psnr": "0 100"}


def test_curves_stand_behind_their_rows(tmp_path):
    made = [
        (one.model_copy(update={"notes": {"curves": {"ssim": [0.0, 0.25, 1.0]}}}), values)
        for one, values in measured("one", VALUES)
    ]
    (row,) = data_of(site_of(tmp_path, boards_of(made)).parent / "data" / "smoke.js")["tracks"]["reconstruction"][
        "rows"
    ]
    assert row[-1] == {"ssim": "0 25 100"}


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_pictures_are_copied_with_small_ones_beside_them(tmp_path):
    boards = some_boards()
    store = with_pictures(Store.create(tmp_path / "store"))
    folder = site_of(tmp_path, boards, store=store).parent
    content = data_of(folder / "data" / "smoke.js")
    before, between, small = content["gallery"]
    rows = content["tracks"]["reconstruction"]["rows"]
    found = [
        f"{before}{row[18].split()[cell]}{between}{kind}" for row in rows for kind, cell in row[20] if row[2] == "good"
    ]
    assert len(found) == 2
    for address in found:
        picture, thumbnail = folder / f"{address}.png", folder / f"{address}{small}"
        key = picture.parent.name
        assert picture.read_bytes() == (store.cell(key) / "artifacts" / "contact_sheet.png").read_bytes()
        with Image.open(thumbnail) as image:
            assert image.width == 360


def test_without_pillow_the_pictures_themselves_are_shown(tmp_path, monkeypatch):
    boards = some_boards()
    store = with_pictures(Store.create(tmp_path / "store"))
    usual = builtins.__import__

    def without_pillow(name, *rest, **more):
        if name == "PIL":
            raise ImportError(name)
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    folder = site_of(tmp_path, boards, store=store).parent
    assert data_of(folder / "data" / "smoke.js")["gallery"] == ["pictures/", "/", ""]
    assert len(list(folder.glob("pictures/*/contact_sheet.png"))) == len(list(folder.glob("pictures/*/*"))) == 7


def test_a_small_picture_is_of_the_picture_beside_it_though_a_process_was_killed(tmp_path, monkeypatch):
    boards = some_boards()
    store = with_pictures(Store.create(tmp_path / "store"))
    folder = site_of(tmp_path, boards, store=store).parent
    (key, *_) = sorted(path.parent.name for path in folder.glob("pictures/*/contact_sheet.png"))
    Image.fromarray(np.full((60, 800, 3), 255, dtype=np.uint8)).save(
        store.cell(key) / "artifacts" / "contact_sheet.png"
    )

    def killed(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfile", killed)
        with pytest.raises(KeyboardInterrupt):
            site_of(tmp_path, boards, store=store)
    site_of(tmp_path, boards, store=store)
    with Image.open(folder / "pictures" / key / "contact_sheet.webp") as small:
        assert np.asarray(small).min() > 200


def test_a_broken_picture_is_no_obstacle(tmp_path):
    boards = some_boards()
    store = with_pictures(Store.create(tmp_path / "store"))
    first = sorted(store.root.glob("cells/*/artifacts/contact_sheet.png"))[0]
    first.write_bytes(b"no picture")
    folder = site_of(tmp_path, boards, store=store).parent
    assert data_of(folder / "data" / "smoke.js")["gallery"][2] == ""
    assert len(list(folder.glob("pictures/*/*.png"))) == 7


def test_pictures_of_a_later_run_are_not_shown_beside_the_numbers_of_an_earlier_one(tmp_path):
    def run(*digests):
        made = measured("one", VALUES)
        return [
            (one.model_copy(update={"provenance": one.provenance | {"artifact_sha256": digest}}), values)
            for (one, values), digest in zip(made, digests, strict=True)
        ]

    store = with_pictures(Store.create(tmp_path / "store"), run("00aa", "00bb"))
    folder = site_of(tmp_path, boards_of(run("00aa", "00cc")), store=store).parent
    (row,) = data_of(folder / "data" / "smoke.js")["tracks"]["reconstruction"]["rows"]
    assert (row[20], row[21]) == ([["contact_sheet", 0]], [1])
    assert [path.name for path in (folder / "pictures").iterdir()] == [row[18].split()[0]]
    site_of(tmp_path, boards_of(run("00aa", "00bb")), store=store)
    (row,) = data_of(folder / "data" / "smoke.js")["tracks"]["reconstruction"]["rows"]
    assert (row[20], row[21]) == ([["contact_sheet", 0], ["contact_sheet", 1]], [])


def test_pictures_beside_a_damaged_record_are_not_shown(tmp_path):
    store = with_pictures(Store.create(tmp_path / "store"))
    (store.cell(record("broken").key) / "record.json").write_text("{}")
    folder = site_of(tmp_path, store=store).parent
    assert len(list(folder.glob("pictures/*/*.png"))) == 6
    rows = data_of(folder / "data" / "smoke.js")["tracks"]["reconstruction"]["rows"]
    assert all(row[21] == [] for row in rows)


def test_without_a_store_there_are_no_pictures(tmp_path):
    folder = site_of(tmp_path).parent
    rows = data_of(folder / "data" / "smoke.js")["tracks"]["reconstruction"]["rows"]
    assert not (folder / "pictures").exists() and all(row[20] == [] for row in rows)


# ---- the page of one board, in the store ---------------------------------------------------------------------------


def test_the_page_of_one_board_links_pictures_and_sheets_where_they_lie(tmp_path):
    boards = some_boards()
    store = with_pictures(Store.create(tmp_path / "store"))
    sheet = store.board("smoke") / "pictures" / "reconstruction sheet.png"
    sheet.parent.mkdir(parents=True)
    sheet.write_bytes(b"")
    sheets = [
        sheet.rename(sheet.with_name("reconstruction_all of them.png")),
        sheet.with_name("reconstruction_gone.png"),
    ]
    path = write_page(boards, store.board("smoke"), store=store, sheets=sheets)
    assert path == store.board("smoke") / "index.html"
    images = [attributes["src"] for tag, attributes in Page(path).tags if tag == "img"]
    assert images == ["pictures/reconstruction_all%20of%20them.png"]
    content = data_of(path.parent / "data" / "smoke.js")
    before, between, small = content["gallery"]
    key = content["tracks"]["reconstruction"]["rows"][0][18].split()[0]
    assert (path.parent / f"{before}{key}{between}contact_sheet.png").is_file() and small == ""


def test_an_older_page_of_the_store_is_written_over(tmp_path):
    (tmp_path / "index.html").write_text("<title>smoke</title>")
    assert "glassbench" in write_page(some_boards(), tmp_path).read_text()


def test_a_board_without_rows_has_a_page(tmp_path):
    assert "0 rows" in Page(write_page(boards_of([]), tmp_path)).text
