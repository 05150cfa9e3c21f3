"""The page in a real browser: nothing from the network, no errors, accessible, usable by keyboard and on a phone."""

import html
import shutil

import pytest

from curvtool.render.analyses import charts_of_analysis
from curvtool.render.html.page import page_of_report, page_of_rows
from curvtool.report.read import read_report

CHROMIUM = shutil.which("chromium")
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
MAX_BYTES = 2_000_000
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield found
        found.close()


class Opened:
    """A page with all that it asked for and complained of."""

    def __init__(self, browser, path, width=1000, scheme="light"):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.asked, self.errors = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("canvas")


@pytest.fixture(params=["report", "rows"])
def file(request, whole, rows, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page_of_report(whole) if request.param == "report" else page_of_rows(rows), encoding="utf-8")
    return path


@pytest.fixture
def report_file(whole, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page_of_report(whole), encoding="utf-8")
    return path


@in_browser
def test_nothing_from_the_network_and_no_errors(file, browser):
    opened = Opened(browser, file)
    asked = [address for address in opened.asked if not address.startswith("data:")]  # what the page holds itself
    assert asked == [file.as_uri()] and opened.errors == []
    assert file.stat().st_size < MAX_BYTES


@in_browser
@pytest.mark.parametrize(("width", "scheme"), [(1000, "light"), (1000, "dark"), (400, "light")])
def test_accessible(file, browser, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = Opened(browser, file, width, scheme).page
    for details in page.query_selector_all("details:not([open]) > summary"):
        details.click()
    found = axe.run(page).response["violations"]
    assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@in_browser
def test_a_canvas_a_chart_and_values_by_keyboard(whole, browser, report_file):
    opened = Opened(browser, report_file)
    charts = [chart for each in whole.analyses for chart in charts_of_analysis(each)]
    elements = opened.page.query_selector_all(".chart")
    assert len(elements) == len(charts) == len(opened.page.query_selector_all("canvas"))
    for element, chart in zip(elements, charts, strict=True):
        element.focus()
        opened.page.keyboard.press("ArrowRight")
        told = element.evaluate("e => e.parentElement.querySelector('.reading').textContent")
        assert any(series.name in told for series in chart.series), (chart.title, told)
        before = element.evaluate("e => e.querySelector('canvas').toDataURL()")
        opened.page.keyboard.press("+")
        opened.page.wait_for_timeout(50)
        assert element.evaluate("e => e.querySelector('canvas').toDataURL()") != before, chart.title
        opened.page.keyboard.press("0")
    assert opened.errors == []


@in_browser
def test_tables_sort(browser, report_file):
    page = Opened(browser, report_file).page
    button = page.get_by_role("button", name="eigenvalue", exact=True).first
    column = "[...document.querySelector('tbody').rows].map(r => Number(r.cells[2].dataset.value))"
    for turn in (1, -1):
        button.click()
        values = page.evaluate(column)
        assert values == sorted(values, reverse=turn == -1) and len(values) > 3


@in_browser
def test_the_numbers_can_be_saved(whole, browser, report_file, tmp_path):
    page = Opened(browser, report_file).page
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "saved.json")
    assert read_report(tmp_path / "saved.json") == whole


def test_names_end_no_script(whole):
    """A layer may be called anything."""
    eigs = whole.analyses[0]
    name = "</script><script>alert(1)</script>"
    layers = {name: next(iter(eigs.per_layer.values()))}
    changed = whole.model_copy(update={"analyses": [eigs.model_copy(update={"per_layer": layers})]})
    assert name not in page_of_report(changed)


def test_the_page_says_what_the_terminal_says(whole):
    from curvtool.render.analyses import notes_of
    from curvtool.render.html.page import page_of_report

    text = html.unescape(page_of_report(whole))
    for analysis in whole.analyses:
        for note in notes_of(analysis):
            assert note in text
    for caption in ("Most sensitive examples", "By layer", "By parameter", "Distribution over the examples"):
        assert caption in text
