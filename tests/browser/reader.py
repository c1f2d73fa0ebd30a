"""Somebody who reads a page in a real browser: opens it, clicks, presses keys, looks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_S = 30.0  # only a failure takes so long
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name is ever looked up
)


def programs() -> tuple[str, str] | str:
    """Where Chromium and its chromedriver are, or why there are none."""
    browser, driver = next(filter(None, map(shutil.which, NAMES)), None), shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    return f"no {'chromedriver' if browser else 'Chromium'} found; on Debian: apt-get install chromium chromium-driver"


def start(browser: str, driver: str) -> Chrome:
    """A headless browser without network. Both programs are named: selenium must not look for others."""
    options = ChromeOptions()
    options.binary_location = browser
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=Service(executable_path=driver))


class Reader:
    """One reader of one page at a time."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver
        self.resize(1300, 900)
        self.prefer("light")
        self._driver.get("about:blank")
        self._log("browser")
        self._log("performance")

    # -- doing --

    def open(self, path: Path, fragment: str = "", *, scripts: bool = True) -> None:
        """Open a file, always anew: another fragment alone would not load the page again."""
        self._driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        self._driver.get("about:blank")
        self._driver.get(path.as_uri() + fragment)

    def click(self, css: str) -> None:
        """Click on the first such element, once it can be seen."""
        element = self.one(css)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def write(self, css: str, text: str) -> None:
        """Put the text into a field in place of what is there."""
        self.one(css).clear()
        self.one(css).send_keys(text)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self._driver).send_keys(key).perform()

    def focus(self, css: str) -> None:
        """As if Tab had led there."""
        self.run("arguments[0].focus()", self.one(css))

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page."""
        return self._driver.execute_script(script, *arguments)

    def run_until_done(self, script: str, *arguments: object) -> Any:
        """Run a script that calls its last argument with what it found."""
        return self._driver.execute_async_script(script, *arguments)

    def resize(self, width: int, height: int) -> None:
        """Make what is seen of the page so large, be it as narrow as a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, theme: str) -> None:
        """Ask for the ``light`` or the ``dark`` theme."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def settle(self) -> None:
        """Wait until the page has drawn itself and whatever that has set off."""
        self.run_until_done("requestAnimationFrame(() => setTimeout(arguments[0], 50))")

    def wait(self, until: Callable[[], Any], what: str) -> Any:
        """Wait until it is so, and return what it is."""
        return WebDriverWait(self._driver, PATIENCE_S, poll_frequency=0.05).until(lambda _: until(), what)

    # -- looking --

    def one(self, css: str) -> WebElement:
        """The first such element."""
        return self._driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        """All such elements that can be seen."""
        return [element for element in self._driver.find_elements(By.CSS_SELECTOR, css) if element.is_displayed()]

    def texts(self, css: str) -> list[str]:
        """What all such elements that can be seen say."""
        return [element.text for element in self.all(css)]

    @property
    def focused(self) -> WebElement:
        """What the next key goes to."""
        return self._driver.switch_to.active_element

    @property
    def address(self) -> str:
        """Where the reader is, with the fragment."""
        return self._driver.current_url

    def complaints(self) -> list[str]:
        """Errors and warnings in the console since the last look."""
        return [line["message"] for line in self._log("browser") if line["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last look."""
        messages = [json.loads(line["message"])["message"] for line in self._log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        return self._driver.get_log(kind)
