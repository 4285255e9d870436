"""The page in a real browser: silent console, no requests, readable on a phone, by keyboard too."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromium import Browser, Page, find_chromium
from conftest import short_run
from reported_runs import ATTACK, KINDS, page_of, reported
from typer.testing import CliRunner

from fedpeft_app.cli.main import app

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed"),
]
RESULTS = Path(__file__).parents[2] / "results"
PAGES = (*KINDS, "study")
Open = Callable[..., Page]
SEEN = "(one => one && !one.hidden && one.getClientRects().length > 0)"


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path
) -> dict[str, Path]:
    """A page of every kind, as a file."""
    folder = tmp_path_factory.mktemp("pages")
    made = {kind: folder / f"{kind}.html" for kind in PAGES}
    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            patch.setenv("FEDPEFT_HOME", str(tmp_path_factory.mktemp(kind)))
            run = reported(kind, short_run(tiny_model, tiny_data))
            made[kind].write_text(page_of(run), encoding="utf-8")
    arguments = ["report", str(RESULTS / "methods-r8"), "--output", str(made["study"])]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    return made


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(find_chromium() or "", tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def open_page(browser: Browser, files: dict[str, Path]) -> Open:
    def opened(kind: str, width: int = 1280, *, dark: bool = False) -> Page:
        return browser.open(files[kind], width=width, dark=dark)

    return opened


every_page = pytest.mark.parametrize("kind", PAGES)


@every_page
def test_the_console_is_silent_and_nothing_is_asked_of_a_network(
    kind: str, open_page: Open, files: dict[str, Path]
) -> None:
    page = open_page(kind)
    page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.value("document.querySelectorAll('button').forEach(one => one.click())")
    assert page.complaints == []
    assert [url for url in page.requests if url != "data:,"] == [files[kind].as_uri()]


def test_even_a_script_that_got_in_could_ask_for_nothing(open_page: Open) -> None:
    page = open_page("finished")
    page.value(
        "document.body.append(Object.assign(document.createElement('img'),"
        "{src: 'https://example.org/a.png'})); fetch('https://example.org/').catch(() => 0); 0"
    )
    page.value("new Promise(done => setTimeout(done, 300))")
    assert any("Content Security Policy" in said for said in page.complaints)
    page.value("document.body.insertAdjacentHTML('beforeend', '<b onclick=\"window.bad=1\">x</b>')")
    page.value("document.body.lastChild.click()")
    assert page.value("window.bad") is None


def test_hostile_reasons_are_read_and_not_run(open_page: Open) -> None:
    page = open_page("finished")
    assert page.value("document.images.length") == 0
    assert ATTACK in page.value("document.body.textContent")


@every_page
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_never_scrolls_sideways(kind: str, width: int, open_page: Open) -> None:
    page = open_page(kind, width)
    page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.value("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_text_stands_out_from_its_ground(*, dark: bool, width: int, open_page: Open) -> None:
    page = open_page("finished", width, dark=dark)
    ratios = page.value(
        """(() => {
          const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
          const light = (colour) => {
            const [r, g, b] = numbers(colour).map((one) => {
              const share = one / 255;
              return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = light(getComputedStyle(document.body).backgroundColor);
          const ratio = (colour) => {
            const [a, b] = [light(colour), ground].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
          };
          const worst = (selector, property) => Math.min(...[...document.querySelectorAll(selector)]
            .map((one) => ratio(getComputedStyle(one)[property])));
          return {
            text: worst("p, td, th, dt, dd, a, h1, h2, summary, .standing", "color"),
            labels: worst(".frame text", "fill"),
            lines: worst("g[data-series]", "color"),
          };
        })()"""
    )
    assert ratios["text"] >= 4.5  # WCAG 2.2, 1.4.3
    assert ratios["labels"] >= 4.5
    assert ratios["lines"] >= 3.0  # 1.4.11, of the first series


@pytest.mark.parametrize("width", [390, 1280])
def test_charts_have_their_size_and_text_is_not_squeezed(width: int, open_page: Open) -> None:
    page = open_page("study", width)
    assert page.value("document.querySelector('.plot').getBoundingClientRect().width") > 250
    assert (
        page.value("parseFloat(getComputedStyle(document.querySelector('.y text')).fontSize)") > 11
    )
    boxes = page.value(
        "[...document.querySelectorAll('.x text')].filter(one => one.getClientRects().length)"
        ".map(one => { const box = one.getBoundingClientRect();"
        " return [one.closest('figure').textContent, box.left, box.right]; })"
    )
    for (chart, _, right), (other, left, _) in itertools.pairwise(boxes):
        assert chart != other or right <= left  # labels do not run into each other


def test_hovering_shows_the_values_of_the_nearest_round(open_page: Open) -> None:
    page = open_page("finished")
    box = page.value(
        "(() => { const box = document.querySelector('.plot').getBoundingClientRect();"
        " return [box.left, box.top, box.width, box.height]; })()"
    )
    assert not page.value(f"{SEEN}(document.querySelector('.tip'))")
    page.move_to(box[0] + box[2] - 2, box[1] + box[3] / 2)
    said = page.value("document.querySelector('.tip').textContent")
    rows = page.value(
        "[...document.querySelectorAll('figure.chart table')][0].rows[2].textContent.trim()"
    )
    assert said.startswith("round: 2")
    assert said.endswith(rows[-6:])
    page.move_to(1, 1)
    assert not page.value(f"{SEEN}(document.querySelector('.tip'))")


def test_a_chart_is_walked_along_with_the_keyboard(open_page: Open) -> None:
    page = open_page("finished")
    page.value("document.querySelector('.plot').focus()")
    heard = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Home"):
        page.press(key)
        heard.append(page.value("document.querySelector('.plot').ariaValueText"))
    assert [one.partition(";")[0] for one in heard] == [
        "round: 1",
        "round: 2",
        "round: 2",
        "round: 1",
    ]
    assert "test set 0." in heard[0]


def test_everything_that_can_be_used_is_reached_by_tab(open_page: Open) -> None:
    page = open_page("finished")
    reached = set()
    for _ in range(80):
        page.press("Tab")
        reached.add(
            page.value("document.activeElement.className || document.activeElement.tagName")
        )
    assert {"skip", "A", "plot", "BUTTON", "SUMMARY", "scroll"} <= reached


def test_a_series_goes_and_comes_back(open_page: Open) -> None:
    page = open_page("finished")
    first = "document.querySelector('figure.chart .legend button')"
    line = "document.querySelector('figure.chart g[data-series=\"0\"]')"
    assert page.value(f"{SEEN}({line})")
    page.value(f"{first}.click()")
    assert not page.value(f"{SEEN}({line})")
    assert page.value(f"{first}.ariaPressed") == "false"
    page.value(f"{first}.click()")
    assert page.value(f"{SEEN}({line})")


def test_of_several_metrics_one_is_seen_at_a_time(open_page: Open) -> None:
    page = open_page("finished")
    seen = f"[...document.querySelector('.panel').querySelectorAll('figure')].filter({SEEN}).length"
    assert page.value("document.querySelector('.panel').querySelectorAll('figure').length") > 1
    assert page.value(seen) == 1
    page.value("document.querySelector('[role=tab]').focus()")
    page.press("ArrowRight")
    assert page.value("document.activeElement.ariaSelected") == "true"
    assert page.value(seen) == 1


def test_without_scripts_everything_is_there(files: dict[str, Path], browser: Browser) -> None:
    page = browser.open(files["finished"], width=390, scripts=False)
    assert page.value(f"[...document.querySelectorAll('figure')].every({SEEN})")
    assert page.value("document.documentElement.scrollWidth") <= 390
