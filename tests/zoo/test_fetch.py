"""Downloads: from a folder and from a local server, whole or not at all."""

import dataclasses
import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.contract import SetupError
from bench.zoo.datasets import card as cards
from bench.zoo.datasets import dataset_card, fetch
from bench.zoo.datasets.card import DataFile, Registered

FILES = {"toy/images": b"pixels" * 1000, "toy/labels": b"labels"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder laid out like a data root."""
    (tmp_path / "source/toy").mkdir(parents=True)
    for path, data in FILES.items():
        (tmp_path / "source" / path).write_bytes(data)
    return tmp_path / "source"


@pytest.fixture
def server(source: Path) -> Iterator[str]:
    """Address of a server of that folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(source))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch):
    """Registers the data set "toy", served from the addresses given."""

    def register(*addresses: str) -> None:
        layout = {
            path: DataFile(path=path, checksum=f"sha256:{hashlib.sha256(data).hexdigest()}")
            for path, data in FILES.items()
        }
        card = dataclasses.replace(
            dataset_card("digits"),
            name="toy",
            layouts=(layout,),
            addresses=(lambda name: [f"{address}/toy/{name}" for address in addresses]) if addresses else None,
        )
        monkeypatch.setitem(cards._REGISTRY, "toy", Registered(card, lambda card, root: None))

    return register


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_files_come_from_a_server(toy, server, tmp_path):
    toy(server)
    paths = fetch("toy", tmp_path / "root", progress=False)
    assert contents(tmp_path / "root") == FILES
    assert paths == [tmp_path / "root" / path for path in FILES]


def test_files_come_from_a_mirror_folder_though_no_public_address_serves_them(toy, source, tmp_path):
    toy()
    fetch("toy", tmp_path / "root", progress=False, mirror=source.as_uri())
    assert contents(tmp_path / "root") == FILES


def test_the_next_address_is_tried_when_one_fails_or_serves_something_else(toy, server, source, tmp_path):
    (tmp_path / "stale/toy").mkdir(parents=True)
    (tmp_path / "stale/toy/images").write_bytes(b"an older version")
    toy("http://127.0.0.1:9", (tmp_path / "stale").as_uri(), server)
    fetch("toy", tmp_path / "root", progress=False)
    assert contents(tmp_path / "root") == FILES


def test_wrong_bytes_are_refused_and_nothing_is_left_behind(toy, source, tmp_path):
    (source / "toy/labels").write_bytes(b"other labels")
    toy(source.as_uri())
    with pytest.raises(SetupError) as caught:
        fetch("toy", tmp_path / "root", progress=False)
    for part in (
        "toy/labels could not be downloaded",
        *(hashlib.sha256(x).hexdigest() for x in (b"labels", b"other labels")),
    ):
        assert part in str(caught.value)
    assert set(contents(tmp_path / "root")) == {"toy/images"}


def test_a_right_file_is_left_alone_and_a_damaged_one_is_replaced(toy, source, tmp_path):
    toy(source.as_uri())
    root = tmp_path / "root"
    fetch("toy", root, progress=False)
    before = (root / "toy/images").stat().st_ino
    (root / "toy/labels").write_bytes(b"damaged")
    fetch("toy", root, progress=False)
    assert contents(root) == FILES
    assert (root / "toy/images").stat().st_ino == before


def test_an_address_that_does_not_answer_is_named_with_the_files_expected(toy, tmp_path):
    toy("http://127.0.0.1:9")
    with pytest.raises(SetupError, match="toy/images could not be downloaded") as caught:
        fetch("toy", tmp_path / "root", progress=False)
    assert "http://127.0.0.1:9/toy/images" in str(caught.value)
    assert f"expected below {tmp_path / 'root'}" in str(caught.value)


def test_what_cannot_be_fetched_says_what_to_do_instead(tmp_path):
    with pytest.raises(SetupError, match="digits has nothing to download\n  nothing to fetch, it comes with"):
        fetch("digits", tmp_path)
    with pytest.raises(SetupError, match=r"nips17 cannot be downloaded(.|\n)*copy them yourself(.|\n)*nips17_dev_299"):
        fetch("nips17", tmp_path)


def test_fetching_without_a_data_root_is_refused(monkeypatch):
    monkeypatch.delenv("GLASSBENCH_DATA", raising=False)
    with pytest.raises(SetupError, match="fetch needs a data root"):
        fetch("mnist")
