"""The report as a browser shows it: every result opens, from the one file and without a network."""

import base64
import io
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from matplotlib.image import imread
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from helpers.configurations import PAPERS

PATIENCE_S = 60  # a loaded machine takes its time
NAVIGATION = "#app > div > nav"
CONTENT = f"{NAVIGATION} + div"
TEMPLATES = ("{{", "}}", "{%", "snakemake.", "System Message")
"""What a caption holds only if Jinja or docutils could not make sense of it."""

pytestmark = [
    pytest.mark.dag,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="no chromium and chromedriver; on Debian: apt install chromium chromium-driver",
    ),
]

DRAWN = """
const [image, done] = arguments;
image.decode().then(() => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
    image.scrollIntoView({block: "center"});
    const box = image.getBoundingClientRect();
    const uppermost = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    const seen = uppermost === image;
    image.scrollIntoView({block: "start"});
    done({
        natural: [image.naturalHeight, image.naturalWidth],
        box: [box.height, box.width],
        seen: seen,
        top: image.getBoundingClientRect().y,
        png: canvas.toDataURL().split(",")[1],
    });
}).catch(error => done({natural: [image.naturalHeight, image.naturalWidth], error: String(error)}));
"""
"""Decode an image; tell its size in pixels and on the screen, if it is seen, and what it shows."""

TABLES = """
const cells = row => Array.from(row.cells, cell => cell.innerText);
const tables = Array.from(document.querySelectorAll("table"));
return tables.map(table => Array.from(table.rows, cells));
"""
"""The text of all cells on a page as tables[table][row][cell]."""


@dataclass
class Shown:
    """What the browser shows of one result: a figure, tables or a link, and the caption."""

    category: str
    caption: str
    figure: dict | None
    tables: list | None
    download: str | None


def errors(browser):
    """What the browser's console complained of since this was last asked."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


class Reader:
    """A user of the report, who clicks through it."""

    def __init__(self, browser):
        self.browser = browser
        # What still moves is missed by a click.
        browser.execute_script(
            "document.head.append(document.createElement('style'));"
            "document.head.lastChild.textContent = '* { transition: none !important; }';"
        )

    def find(self, selector):
        """Wait for the first element of a CSS selector."""
        try:
            return WebDriverWait(self.browser, PATIENCE_S).until(
                lambda browser: browser.find_element(By.CSS_SELECTOR, selector)
            )
        except TimeoutException:
            raise AssertionError(f"no {selector}; console: {errors(self.browser)}") from None

    def choose(self, entry):
        """Go to the start of the navigation and click on an entry of the menu there."""
        self.find(f"{NAVIGATION} nav li:first-child a").click()
        self.find(f"{NAVIGATION} ul")
        entries = self.browser.find_elements(By.CSS_SELECTOR, f"{NAVIGATION} ul a")
        (link,) = (link for link in entries if link.text.strip() == entry)
        link.click()

    def rows(self, category):
        """Go to the results of a category."""
        self.choose(category)
        self.find(f"{NAVIGATION} tbody tr")
        return self.browser.find_elements(By.CSS_SELECTOR, f"{NAVIGATION} tbody tr")

    def figure(self):
        """What the content shows where it is one figure."""
        return self.browser.execute_async_script(DRAWN, self.find(f"{CONTENT} img"))

    def tables(self):
        """The tables of the page in the content."""
        self.browser.switch_to.frame(self.find(f"{CONTENT} iframe"))
        assert self.find("table").is_displayed()
        tables = self.browser.execute_script(TABLES)
        self.browser.switch_to.default_content()
        return tables

    def result(self, category, index):
        """Show one result of a category, then what the report tells about it."""
        show, tell = self.rows(category)[index].find_elements(By.CSS_SELECTOR, "a[type=button]")
        figure = tables = download = None
        if show.get_attribute("download"):  # what a browser does not show is offered as a file
            download = show.get_attribute("href")
        else:
            show.click()
            if self.find(f"{CONTENT} img, {CONTENT} iframe").tag_name == "img":
                figure = self.figure()
            else:
                tables = self.tables()
        tell.click()
        path = self.find(f"{NAVIGATION} nav li.grow").text
        caption = self.find(f"{NAVIGATION} li.prose").text
        return path, Shown(category, caption, figure, tables, download)


@pytest.fixture(scope="module")
def browser(report):
    """Chromium with the report open."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new",
        "--window-size=1600,1000",
        "--no-sandbox",  # containers run as root, whom the sandbox refuses
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--force-color-profile=srgb",  # pixels as they are in the file
        "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")  # Selenium must not look for a driver to download
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        driver = webdriver.Chrome(options, service)
    try:
        driver.set_script_timeout(PATIENCE_S)
        driver.get(report.as_uri())
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def shown(browser):
    """What the report shows, by the path of each result, from one walk through all of it."""
    reader = Reader(browser)
    return dict(
        reader.result(category, index)
        for category in browser.execute_script("return Object.keys(categories)")
        for index in range(len(reader.rows(category)))
    )


@pytest.fixture(scope="module")
def figures(shown):
    """What the report shows of every figure."""
    return {path: result.figure for path, result in shown.items() if result.figure}


def test_every_result_can_be_opened(browser, shown):
    assert set(shown) == set(browser.execute_script("return Object.keys(results)"))
    assert {result.category for result in shown.values()} >= {"Data", "Training", "Results"}


def test_every_figure_of_the_run_is_in_the_report(finished, figures):
    made = (finished / "results" / "tiny").rglob("*.png")
    assert set(figures) == {str(path.relative_to(finished)) for path in made}


def test_every_figure_is_drawn_as_it_was_made(finished, figures):
    for path, figure in figures.items():
        assert "error" not in figure, (path, figure)
        height, width = figure["natural"]
        assert 200 < height < 20000, path
        assert 200 < width < 20000, path
        drawn = imread(io.BytesIO(base64.b64decode(figure["png"])))[..., :3]
        np.testing.assert_array_equal(drawn, imread(finished / path)[..., :3], err_msg=path)
        assert np.ptp(drawn) > 0.5, f"{path} is blank"


def test_every_figure_is_seen(figures):
    for path, figure in figures.items():
        assert figure.get("seen"), path
        assert figure["top"] >= 0, f"the top of {path} cannot be scrolled to"
        assert min(figure["box"]) > 100, path


def test_every_other_file_can_be_downloaded(finished, shown):
    for path, result in shown.items():
        if result.download:
            content = base64.b64decode(result.download.partition(";base64,")[2])
            assert content == (finished / path).read_bytes(), path


def test_every_caption_is_rendered(shown):
    for path, result in shown.items():
        assert len(result.caption) > 50, path
        assert not [text for text in TEMPLATES if text in result.caption], (path, result.caption)


def test_table_1_is_a_table_of_every_method(shown):
    (pages,) = (result.tables for path, result in shown.items() if path.endswith("/table1.html"))
    assert pages
    for head, *rows in pages:
        assert len(head) > 1
        assert len(rows) > 1
        assert all(row[0] for row in rows)
        # A row of one cell is a heading inside the table.
        assert {len(row) for row in rows} <= {1, len(head)}
    assert {"OSEM", "FBP", *PAPERS} <= {row[0] for row in pages[0]}


def test_the_overview_describes_the_run_and_draws_the_workflow(browser, shown):
    reader = Reader(browser)
    reader.choose("Workflow")
    description = reader.find(f"{CONTENT} .prose").text
    assert 'experiment "tiny"' in description
    assert not [text for text in TEMPLATES if text in description], description
    drawing = reader.find(f"{CONTENT} canvas")
    assert drawing.is_displayed()
    assert min(drawing.size.values()) > 100


def test_the_console_has_no_errors(browser, shown):
    assert not errors(browser)
