"""A real headless Chromium, where there is one, and the pages that it opens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.browser import making
from tests.browser.reader import Reader, programs, start


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chrome]:
    """The browser, started once."""
    found = programs()
    if isinstance(found, str):
        pytest.skip(f"browser tests skipped: {found}")
    started = start(*found)
    yield started
    started.quit()


@pytest.fixture
def reader(chromium: Chrome) -> Reader:
    """Somebody with a wide window and a light theme, and nothing in the console yet."""
    return Reader(chromium)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages of the small boards. Not to be changed."""
    return making.write_toys(tmp_path_factory.mktemp("toys")).parent
