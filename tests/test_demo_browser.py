"""The demo in headless Chromium: what a person does and sees. Nothing waits by the clock, only for what the page says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import require
from tests.demo_process import Demo, Visitor

pytestmark = pytest.mark.browser

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--window-size=1280,900",
)
PATIENCE = 20


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One Chromium with a profile of its own."""
    options = ChromeOptions()
    options.binary_location = require("chromium")
    driver = require("chromedriver")
    for switch in SWITCHES:
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options, Service(driver))
    yield browser
    browser.quit()


class Window:
    """What a person has in front of them. After each click that loads a page, it has been loaded."""

    def __init__(self, chrome: Any) -> None:  # Any: a Chrome, half of whose methods are not typed
        self.chrome = chrome

    def open(self, demo: Demo) -> None:
        self.chrome.get(demo.url)
        self.is_live()

    def leave(self) -> None:
        """Close every page; a stream that is open when its server stops is complained of."""
        first, *others = self.chrome.window_handles
        for other in others:
            self.chrome.switch_to.window(other)
            self.chrome.close()
        self.chrome.switch_to.window(first)
        self.chrome.get("about:blank")

    def find(self, css: str) -> WebElement:
        found: WebElement = self.chrome.find_element(By.CSS_SELECTOR, css)
        return found

    def text(self, css: str) -> str:
        return self.find(css).text

    def click(self, css: str) -> None:
        """Press a button that sends a form, and wait for the page that comes after it."""
        page = self.find("html")
        self.find(css).click()
        self.wait(staleness_of(page), f"a new page after {css}")
        self.is_live()

    def sign_in(self, name: str) -> None:
        self.find("#name").send_keys(name)
        self.click("form[action='/sign-in'] button")

    def wait(self, condition: Callable[[Any], Any], what: str) -> None:
        # What is looked at while one page gives way to another may be of neither.
        patient = WebDriverWait(self.chrome, PATIENCE, poll_frequency=0.05, ignored_exceptions=[WebDriverException])
        patient.until(condition, f"waited in vain for {what}")

    def is_live(self) -> None:
        """Wait until the list of clients is the server's."""
        self.wait(lambda _: self.chrome.find_elements(By.CSS_SELECTOR, "#clients .tag"), "the live list of clients")

    def shows(self, css: str, text: str) -> None:
        self.wait(lambda _: text in self.text(css), f"{text!r} in {css}")

    def cookie(self, name: str = "SESSION_KEY") -> str | None:
        found = self.chrome.get_cookie(name)
        return None if found is None else str(found["value"])

    def complaints(self) -> list[str]:
        """What the console has said since this was last asked."""
        return [str(entry["message"]) for entry in self.chrome.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]


@pytest.fixture
def window(chrome: Any) -> Iterator[Window]:
    """A window without cookies; afterwards the console must have had nothing to complain of."""
    window = Window(chrome)
    chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})
    window.complaints()
    yield window
    window.leave()
    assert window.complaints() == []


@pytest.fixture
def demo(window: Window, tmp_path: Path) -> Iterator[Demo]:
    """A demo that nobody has visited yet; it must stop well."""
    with Demo(tmp_path / "snapshot") as running:
        yield running
        window.leave()
        running.stop()


def test_the_counter_and_the_cart(window: Window, demo: Demo) -> None:
    """Reloading counts; products are put into the cart, counted and removed, and the value is shown as Python has it."""
    window.open(demo)
    assert window.text("#visits") == "1"
    window.open(demo)
    assert window.text("#visits") == "2"
    assert window.text("#cart-value") == "Cart(items=[])"
    window.click(".shelf li:nth-child(1) button")
    window.click("[aria-label='One Teapot more']")
    window.click(".shelf li:nth-child(2) button")
    assert "quantity=2" in window.text("#cart-value")
    assert "€ 55.50" in window.text(".cart tfoot")
    window.click("[aria-label='Remove Teapot']")
    window.click("[aria-label='One Cup less']")
    assert window.text("#cart-value") == "Cart(items=[])"
    assert window.text("#visits") == "2", "a form is no visit"


def test_signing_in_changes_the_cookie_and_signing_out_the_session(window: Window, demo: Demo) -> None:
    """The handle stays when the cookie changes; after signing out both are new. No script can read the cookie (rules 9, 19)."""
    window.open(demo)
    handle, before = window.text("dl code"), window.cookie()
    window.sign_in("Ada")
    assert window.text(".who").startswith("Ada")
    assert window.text("dl code") == handle
    assert before is not None
    assert window.cookie() not in (None, before)
    assert window.text("#cookie-before") != window.text("#cookie-now")
    assert window.text("#handle-before") == window.text("#handle-now")
    assert window.chrome.execute_script("return document.cookie") == ""
    window.click("form[action='/sign-out'] button")
    assert "that session has ended" in window.text("#messages")
    assert window.text("dl code") != handle
    assert window.find("#name").is_displayed()


def test_two_windows_see_each_other_come_and_go(window: Window, demo: Demo) -> None:
    """Each is a client of the session, live: it appears, counts, and disappears when it is closed."""
    chrome = window.chrome
    window.open(demo)
    first = chrome.current_window_handle
    chrome.switch_to.new_window("window")
    window.open(demo)
    window.shows("#clients", "another tab")
    second = chrome.current_window_handle
    chrome.switch_to.window(first)
    window.shows("#clients", "another tab")
    window.shows("#visits", "2")
    chrome.switch_to.window(second)
    chrome.close()
    chrome.switch_to.window(first)
    window.wait(lambda _: "another tab" not in window.text("#clients"), "the other tab to disappear")


def test_many_windows_still_load(window: Window, demo: Demo) -> None:
    """A browser opens six connections to a server: more windows than that do not use them up, since the oldest streams give way."""
    window.open(demo)
    for _ in range(7):
        window.chrome.switch_to.new_window("window")
        window.open(demo)
    assert window.text("#visits") == "8"


def test_a_page_that_is_out_of_date_says_so(window: Window, demo: Demo) -> None:
    """What another tab changes is noticed; a sign-in there lets this one come back with the new cookie."""
    chrome = window.chrome
    window.open(demo)
    first = chrome.current_window_handle
    chrome.switch_to.new_window("tab")
    window.open(demo)
    window.sign_in("Ada")
    chrome.switch_to.window(first)
    window.shows("#news", "changed in another tab")
    window.is_live()
    page = window.find("html")
    window.find("#news a").click()
    window.wait(staleness_of(page), "the reloaded page")
    window.shows(".who", "Ada")


def test_signing_out_everywhere_else_and_being_signed_out(window: Window, demo: Demo) -> None:
    """The other browser is signed out and this one is not; when it is the other way round, the page says so at once (L3, rule 14)."""
    other = Visitor(demo)
    other.look()
    other.send("/sign-in", name="Ada")
    window.open(demo)
    window.sign_in("Ada")
    assert other.page.handle[:8] in window.text("section[aria-labelledby='you']")
    window.click("form[action='/sign-out-everywhere-else'] button")
    assert "1 other session ended" in window.text("#messages")
    assert window.text(".who").startswith("Ada")
    assert other.look().signed_in is None
    other.send("/sign-in", name="Ada")
    other.send("/sign-out-everywhere-else")
    window.shows("#news", "This session has ended")
    window.shows("#live", "ended")
    assert window.find("#clients").get_attribute("childElementCount") == "0"
    other.close()


def test_a_replayed_cookie_is_refused(window: Window, demo: Demo) -> None:
    """The button shows that the thief is refused, and that nothing has happened to the owner (A7)."""
    window.open(demo)
    window.sign_in("Ada")
    cookie = window.cookie()
    window.click("form[action='/replay'] button")
    shown = window.text("#replayed")
    assert "203.0.113.7" in shown
    assert "other_address" in shown
    assert "still signed in as Ada" in shown
    assert window.cookie() == cookie
    assert window.text(".who").startswith("Ada")


def test_everything_but_the_live_list_works_without_javascript(window: Window, demo: Demo) -> None:
    """The cart, signing in and out, and the replay; the page says that the list takes JavaScript, and not that it is connecting."""

    def click(css: str) -> None:
        page = window.find("html")
        window.find(css).click()
        window.wait(staleness_of(page), f"a new page after {css}")

    window.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        window.chrome.get(demo.url)
        assert "takes JavaScript" in window.text("section:has(#clients)")
        assert not window.find("#live").is_displayed()
        click(".product")
        assert "quantity=1" in window.text("#cart-value")
        window.find("#name").send_keys("ann")
        click("form[action='/sign-in'] button")
        click("form[action='/replay'] button")
        assert "refused" in window.text("#replayed")
        click("form[action='/sign-out'] button")
        assert window.text("#cart-value") == "Cart(items=[])"
    finally:
        window.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_stop_and_a_start_keep_everything(window: Window, tmp_path: Path) -> None:
    """After SIGTERM and a new start on the same port the open page finds the server by itself, and a reload shows the same data."""
    snapshot = tmp_path / "snapshot"
    with Demo(snapshot) as first:
        window.open(first)
        window.click(".shelf li:nth-child(1) button")
        window.sign_in("Ada")
        cart, handle = window.text("#cart-value"), window.text("dl code")
        first.stop()
        window.shows("#live", "reconnecting")
    with Demo(snapshot, "--port", first.port) as second:
        window.shows("#live", "live")
        assert all("ERR_CONNECTION_REFUSED" in complaint for complaint in window.complaints()), "that the server was not there"
        window.open(second)
        assert window.text(".who").startswith("Ada")
        assert window.text("#cart-value") == cart
        assert window.text("dl code") == handle
        assert window.text("#visits") == "2"
        window.leave()
        second.stop()


def test_after_a_kill_nothing_that_ended_is_back(window: Window, tmp_path: Path) -> None:
    """Signed out, killed before the next autosave, started again: the browser's old cookies open nothing (rule 8, L4)."""
    snapshot = tmp_path / "snapshot"
    with Demo(snapshot) as first:
        window.open(first)
        window.sign_in("Ada")
        handle = window.text("dl code")
        cookies = {name: window.cookie(name) for name in ("SESSION_KEY", "SESSION_ADDR")}
        window.leave()
        first.stop()
    with Demo(snapshot) as second:
        window.open(second)
        assert window.text(".who").startswith("Ada")
        window.click("form[action='/sign-out'] button")
        window.leave()
        second.kill()
    with Demo(snapshot) as third:
        window.open(third)
        for name, value in cookies.items():
            window.chrome.add_cookie({"name": name, "value": value, "path": "/"})
        window.open(third)
        assert window.find("#name").is_displayed()
        assert window.text("dl code") != handle
        window.leave()
        third.stop()


def test_every_control_has_a_name(window: Window, demo: Demo) -> None:
    """Buttons, fields, tables and regions are named for a screen reader, and headings go down one level at a time."""
    window.open(demo)
    window.click(".shelf li:nth-child(1) button")
    window.sign_in("Ada")
    window.click("form[action='/replay'] button")
    for css in ("button", "input:not([type=hidden])", "section", "table", "pre[tabindex]", "ul[aria-label]"):
        found = window.chrome.find_elements(By.CSS_SELECTOR, css)
        assert found or css.startswith("input")
        assert [each.get_attribute("outerHTML") for each in found if not each.accessible_name] == []
    levels = [int(each.tag_name[1]) for each in window.chrome.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    identifiers = [each.get_attribute("id") for each in window.chrome.find_elements(By.CSS_SELECTOR, "[id]")]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 700, 390, 320])
def test_the_page_fits_and_can_be_read(window: Window, demo: Demo, width: int, scheme: str) -> None:
    """At every width nothing is cut off; text has a contrast of 4.5 to 1 at least, light and dark (WCAG 1.4.3, 1.4.10)."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    window.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    window.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    try:
        window.open(demo)
        window.click(".shelf li:nth-child(1) button")
        window.sign_in("A" * 40)
        window.click("form[action='/replay'] button")
        seen, whole = window.chrome.execute_script("const html = document.documentElement; return [html.clientWidth, html.scrollWidth]")
        assert whole == seen
        assert window.chrome.execute_script(CONTRAST) == []
    finally:
        window.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        window.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# Every element with text of its own, whose colour is too close to what is behind it (WCAG's relative luminance).
CONTRAST = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = (color) => {
  const [r, g, b] = channels(color).slice(0, 3).map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const color = getComputedStyle(each).backgroundColor;
    if ((channels(color)[3] ?? 1) > 0) return color;
  }
  return "rgb(255, 255, 255)";
};
return [...document.querySelectorAll("body *")].filter((element) =>
  [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()) && element.checkVisibility()
).filter((element) => {
  const [low, high] = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05) < 4.5;
}).map((element) => element.outerHTML.slice(0, 200));
"""
