"""The report as people open it: a headless Chromium, wide and narrow, light and dark, and on paper."""

import pytest
from chromium import BINARY, Chromium


pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(BINARY is None, reason="needs a Chromium binary (Debian: apt-get install chromium)"),
]
VIEWS = {"desktop-light": (1280, 900, False), "desktop-dark": (1280, 900, True)}
VIEWS |= {"phone-light": (390, 844, False), "phone-dark": (390, 844, True)}


@pytest.fixture(scope="module")
def address(written):
    return written["html"].as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("view", VIEWS)
def test_opens_quietly_and_fits(browser, address, view, tmp_path):
    width, height, dark = VIEWS[view]
    browser.open(address, width, height, dark)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    browser.screenshot(tmp_path / f"{view}.png")
    assert (tmp_path / f"{view}.png").stat().st_size > 20_000
    assert browser.complaints == []
    assert browser.requests == [address]
    # Nothing sticks out sideways; a wide table scrolls in its own box.
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    brightness = browser.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).reduce((a, b) => +a + +b)"
    )
    assert brightness < 150 if dark else brightness > 700
    # The letters of the pictures follow the page: light on dark, and not too small to read.
    ink = browser.evaluate("getComputedStyle(document.querySelector('figure svg text')).fill")
    assert ink == browser.evaluate("getComputedStyle(document.body).color")
    letters = "document.querySelector('figure svg text').getBoundingClientRect().height"
    assert browser.evaluate(letters) > 8


def test_the_worst_responses_open_on_a_click_and_tokens_answer_a_tap(browser, address):
    browser.open(address, 1280, 900, False)
    shown = "document.querySelector('details.unpleasant .response').checkVisibility()"
    assert browser.evaluate(shown) is False
    # The second model's: the first has no harm.
    browser.evaluate("document.querySelectorAll('details.unpleasant > summary')[1].click()")
    browser.evaluate("document.querySelector('details.unpleasant[open] .tokens i').click()")
    said = browser.evaluate("document.querySelector('details.unpleasant[open] .told').textContent")
    assert "drift risk" in said and "token harm" in said
    assert browser.evaluate("document.querySelectorAll('.tokens i.on').length") == 2
    assert browser.complaints == []


def test_prints(browser, address):
    browser.open(address, 1280, 900, True)
    assert browser.printed().startswith(b"%PDF")


def test_a_script_that_slips_in_does_not_run(browser, address):
    """The page allows its own script only: one that is added is refused, and the console says so."""
    browser.open(address, 1280, 900, False)
    browser.evaluate(
        "document.body.insertAdjacentElement('beforeend', document.createElement('script')).text = 'x = 1'"
    )
    assert browser.evaluate("typeof x") == "undefined"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)
