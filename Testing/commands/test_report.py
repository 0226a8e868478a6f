"""The report in a real browser: what it shows, how it is used, how fast it opens, and that it needs nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from BrainSegSAMLib.evaluation_inputs import EvaluationSettings
from BrainSegSAMLib.evaluation_tables import check_record, content
from BrainSegSAMLib.geometry import Geometry
from BrainSegSAMLib.image import Segmentation
from BrainSegSAMLib.labels import LabelScheme, Region
from BrainSegSAMLib.overlays import overlay
from BrainSegSAMLib.report import write_report

SCHEME = LabelScheme((Region("whole", (1, 2), (240, 228, 66)), Region("core <b>", (2,), (213, 94, 0))))
METHODS = {"first & best": Path("a"), "</script><i>second": Path("b")}
CASES = 500
OPENS_WITHIN_S = 2.0


def cases() -> list[dict[str, Any]]:
    """Case 7's Dice is the worst, case 3 is missing, case 11 was not read."""
    rng = np.random.default_rng(3)
    found = []
    for index in range(CASES):
        reference = {name: float(rng.gamma(2, 10)) for name in SCHEME.names}
        methods: dict[str, Any] = {}
        for name in METHODS:
            status = "missing" if index == 3 else "failed" if index == 11 else "evaluated"
            regions = {}
            for region in SCHEME.names if status == "evaluated" else ():
                dice = 0.05 if index == 7 else float(rng.uniform(0.5, 1))
                hd95 = None if index % 50 == 1 else float(rng.gamma(2, 4))
                regions[region] = {
                    "volume_ml": reference[region] * float(rng.uniform(0.8, 1.2)),
                    "metrics": {"dice": dice, "hd95": hd95},
                }
            problem = "" if regions else f"Case case_{index:03d} cannot be read."
            methods[name] = {"status": status, "problem": problem, "notes": [], "regions": regions}
        case_id = f"case_{index:03d}"
        found.append(
            {"case_id": case_id, "patient": case_id, "notes": [], "reference_ml": reference, "methods": methods}
        )
    return found


def picture() -> dict[str, Any]:
    grid = Geometry.axis_aligned((30, 60, 50), (3.0, 2.0, 2.0))
    labels = np.zeros(grid.shape_zyx, dtype=np.uint8)
    labels[8:20, 20:40, 10:30] = 1
    labels[10:15, 25:32, 14:22] = 2
    image = np.random.default_rng(0).uniform(50, 200, grid.shape_zyx).astype(np.float32)
    reference = Segmentation(grid, SCHEME, labels)
    found = {name: Segmentation(grid, SCHEME, np.roll(labels, 2 + i, 2)) for i, name in enumerate(METHODS)}
    return overlay(reference, found, regions=SCHEME.names, background=image)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = EvaluationSettings(SCHEME, SCHEME.names, ("dice", "hd95"))
    data = content(cases(), settings, methods=METHODS, reference=Path("references"))
    check_record(data)
    path = tmp_path_factory.mktemp("report") / "report.html"
    drawn = picture()
    write_report(data, path, picture=lambda case_id: None if case_id in ("case_003", "case_011") else drawn)
    return path


class _Page(HTMLParser):
    """The elements of the page, and whether every one is closed."""

    VOID = frozenset({"meta", "input", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not set(self.open) & {"script", "style"}:
            self.text += data


def test_the_page_is_whole_and_refers_to_nothing_outside(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    parsed = _Page()
    parsed.feed(page)
    assert parsed.open == []
    plots = re.findall(r'<script type="image/svg\+xml"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert len(plots) == 4 + 4 + 4, "volumes, distributions and differences of two regions, methods and metrics"
    for plot in plots:
        parsed.feed(plot)
    assert parsed.open == []
    assert {address for address in parsed.addresses if not address.startswith("#")} == set()
    assert "</script><i>second" in parsed.text, "names are text, whatever they hold"
    assert re.findall(r"<!--[a-z-]+-->", page) == []
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])
    assert data["methods"] == list(METHODS)
    assert len(data["cases"]) == CASES


def test_the_same_numbers_make_the_same_page(report: Path, tmp_path: Path) -> None:
    settings = EvaluationSettings(SCHEME, ("whole",), ("dice",))
    data = content(cases()[:5], settings, methods={"first & best": Path("a")}, reference=Path("references"))
    for name in ("one", "two"):
        write_report(data, tmp_path / name, picture=lambda _: None)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_methods_that_are_not_compared_have_no_plot_of_differences(tmp_path: Path) -> None:
    settings = EvaluationSettings(SCHEME, SCHEME.names, ("dice", "hd95"))
    found = cases()[:9]
    for case in found:
        case["methods"]["third"] = case["methods"]["first & best"]
    found[5]["methods"]["third"] = {"status": "missing", "problem": "It is missing.", "notes": [], "regions": {}}
    data = content(found, settings, methods={**METHODS, "third": Path("c")}, reference=Path("references"))
    assert {row["second"] for row in data["comparisons"]} == {"</script><i>second"}
    write_report(data, tmp_path / "report.html", picture=lambda _: None)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    drawn = re.findall(r'data-chart="differences" data-metric="(\w+)" data-region="[^"]*" data-which="([^"]*)"', page)
    assert len(drawn) == 2 * 2, "two metrics of two regions"
    assert not [which for _, which in drawn if "third" in which]


# ---- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="The package selenium is absent.")
    programs = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")]
    program = next((found for found in programs if found), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("There is no Chromium with its chromedriver here, so the report cannot be opened.")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    running.set_page_load_timeout(300)
    running.set_script_timeout(300)
    yield running
    running.quit()


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    """The report, freshly opened, 1366 pixels wide."""
    look(browser, 1366, "light")
    browser.get(report.as_uri())
    return browser


def look(browser: Any, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def shown(page: Any) -> list[str]:
    names: list[str] = page.execute_script(
        "return [...document.querySelectorAll('#table .case-button')].map((button) => button.textContent)"
    )
    return names


def until(page: Any, script: str) -> Any:
    """What a script answers as soon as that is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, 60).until(lambda opened: opened.execute_script(f"return {script}"))


def choose(page: Any, name: str, value: str) -> None:
    page.execute_script(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event(s.tagName === 'INPUT' ? 'input' : 'change', {bubbles: true}))", name, value,
    )  # fmt: skip


def test_five_hundred_cases_open_at_once_without_a_network(page: Any, report: Path) -> None:
    page.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    seconds = []
    for _ in range(3):  # the machine may be busy with something else
        page.get(report.as_uri())
        metrics = page.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        computing = next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
        waiting = page.execute_script("return Number(document.documentElement.dataset.ready)") / 1000
        # On a machine with more to do than cores, what it waits for is other programs.
        seconds.append(computing if hasattr(os, "getloadavg") and os.getloadavg()[0] > os.cpu_count() else waiting)
    page.execute_cdp_cmd("Performance.disable", {})
    assert min(seconds) < OPENS_WITHIN_S, seconds
    assert len(shown(page)) == CASES
    fetched = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    assert [entry["message"] for entry in page.get_log("browser")] == []


def test_pictures_are_drawn_when_they_are_near(page: Any) -> None:
    assert page.execute_script("return document.querySelectorAll('.plane').length") == 0, "plots come first"
    page.execute_script("document.getElementById('cases').scrollIntoView()")
    until(page, "document.querySelectorAll('.plane').length >= 6")
    assert page.execute_script("return document.querySelectorAll('.plane').length") < 200
    last = "[...document.querySelectorAll('.detail-body')].at(-1)"
    page.execute_script(f"{last}.scrollIntoView()")
    assert until(page, f"{last}.querySelectorAll('.plane svg image').length") == 6
    assert until(page, "document.querySelectorAll('.detail-body')[5].childElementCount === 0"), "far ones go"


def test_worst_first_sorting_filters_and_metrics(page: Any) -> None:
    assert shown(page)[:3] == ["case_003", "case_011", "case_007"], "not evaluated, then the lowest Dice"
    choose(page, "order", "id")
    assert shown(page)[0] == "case_000"
    page.execute_script("document.querySelectorAll('#table thead button')[1].click()")
    assert shown(page)[0] == "case_007"
    sorted_by = "return document.querySelector('#table [aria-sort=ascending] button').textContent"
    assert page.execute_script(sorted_by) == "whole"
    page.execute_script("document.querySelectorAll('#table thead button')[1].click()")
    assert shown(page)[-1] in ("case_003", "case_011"), "those without a value stay last"
    choose(page, "find", "SE_04")
    assert sorted(shown(page)) == [f"case_{n:03d}" for n in range(40, 50)]
    assert "10 of 500 cases" in page.execute_script("return document.getElementById('count').textContent")
    choose(page, "find", "")
    choose(page, "which", "problems")
    assert sorted(shown(page)) == ["case_003", "case_011"]
    choose(page, "which", "0.5")
    assert shown(page) == ["case_007"]
    plot = "return document.querySelector('[data-chart=distribution] svg').getAttribute('aria-label')"
    assert page.execute_script(plot) == "Dice of whole"
    choose(page, "metric", "1")
    assert page.execute_script(plot) == "HD95 of whole"
    assert "mm" in page.execute_script("return document.getElementById('meaning').textContent")
    texts = page.execute_script("return [...document.querySelectorAll('#summary td')].map((cell) => cell.textContent)")
    assert any("not defined" in text for text in texts)


def test_a_point_leads_to_its_case_even_if_it_is_filtered_out(page: Any) -> None:
    choose(page, "find", "case_499")
    click = "document.querySelector('[data-chart=volumes] a[href=\"#case-42\"]')"
    page.execute_script(f"{click}.dispatchEvent(new MouseEvent('click', {{bubbles: true, cancelable: true}}))")
    assert until(page, "document.activeElement.textContent === 'case_042'")
    assert page.execute_script("return document.querySelector('tbody:target').id") == "case-42"
    assert len(shown(page)) == CASES


def test_everything_can_be_done_with_keys(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        ActionChains(page).send_keys(*keys).perform()

    page.execute_script("document.body.focus()")
    press("/")
    assert page.execute_script("return document.activeElement.id") == "find"
    press("case_12")
    assert len(shown(page)) == 10
    page.execute_script("document.querySelector('#table .case-button').focus()")
    press(Keys.ARROW_DOWN)
    second = shown(page)[1]
    assert page.execute_script("return document.activeElement.textContent") == second
    press(Keys.ENTER)
    assert page.execute_script("return document.activeElement.getAttribute('aria-expanded')") == "false"
    press(Keys.ENTER)
    until(page, "document.activeElement.closest('tbody').querySelector('.plane')")
    press(Keys.TAB)
    assert page.execute_script("return document.activeElement.className") == "plane"
    press(Keys.ENTER)
    assert page.execute_script("return document.querySelector('dialog').open")
    press(Keys.ESCAPE)
    assert not page.execute_script("return document.querySelector('dialog').open")
    links = "return [...document.querySelectorAll('.plots a')].every((link) => link.tabIndex === -1)"
    assert page.execute_script(links), "hundreds of points are not on the Tab key's way"


def test_letters_leave_room_for_what_they_stand_on(page: Any) -> None:
    page.execute_script("document.getElementById('cases').scrollIntoView()")
    until(page, "document.querySelector('.plane .letters')")
    sizes = page.execute_script(
        "return [...document.querySelectorAll('.plane svg')].map((svg) => [svg.viewBox.baseVal.width,"
        "svg.viewBox.baseVal.height, Number(svg.querySelector('.letters').getAttribute('font-size'))])"
    )
    assert {tuple(size) for size in sizes} >= {(100, 120, 7)}
    for width, height, letters in sizes:
        assert letters == pytest.approx(min(7, 0.07 * min(width, height)))


def test_layers_are_switched_for_all_pictures(page: Any) -> None:
    page.execute_script("document.getElementById('cases').scrollIntoView()")
    until(page, "document.querySelector('.plane .fill')")
    shows = "return getComputedStyle(document.querySelector('.plane {}')).display"
    for layer, element in (("ref", ".ref"), ("fill", ".fill"), ("r1", ".fill .r1")):
        assert page.execute_script(shows.format(element)) != "none"
        page.execute_script(f"document.querySelector('[data-layer={layer}]').click()")
        assert page.execute_script(shows.format(element)) == "none"
        page.execute_script(f"document.querySelector('[data-layer={layer}]').click()")
    page.execute_script("document.getElementById('pictures').click()")
    assert page.execute_script("return document.querySelectorAll('.detail-body').length") == 0


def contrast(first: str, second: str) -> float:
    """Contrast of two colours "rgb(r, g, b)" by WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [1366, 420])
def test_it_can_be_read_in_light_and_dark_wide_and_narrow(page: Any, report: Path, width: int) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        look(page, width, scheme)
        page.get(report.as_uri())
        assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        colour = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
        ground = page.execute_script(colour, "body", "background-color")
        grounds.add(ground)
        for element in ("body", ".quiet", "a:not(.skip)", ".case-button", "td.status", ".plots svg text"):
            name = "fill" if element.endswith("text") else "color"
            assert contrast(page.execute_script(colour, element, name), ground) > 4.5, (scheme, element)
    assert len(grounds) == 2
    page.execute_script("document.getElementById('theme').click()")
    assert page.execute_script("return document.documentElement.dataset.theme") == "light"
    assert page.execute_script(colour, "body", "background-color") != ground
