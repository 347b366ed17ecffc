"""The pages in a real headless Chromium: they load cleanly, zoom, filter, hover, and keys work.

Needs Debian's ``chromium`` and ``chromium-driver`` and the dependency group ``browser`` (Selenium); skipped,
loudly, where one is absent. Screenshots are kept in the folder named by ``OFFCHIP_SCREENSHOTS``, if any.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_page import HOSTILE, renamed

from offchip.report.page import report, write_page

webdriver: Any = None
try:
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    pass

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def _absent() -> str:
    if webdriver is None:
        return "Selenium is not installed (dependency group 'browser')"
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"no {program} on the path (Debian packages chromium and chromium-driver)"
    return ""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    absent = _absent()
    if absent:
        message = f"THE REPORT PAGES WERE NOT TRIED IN A BROWSER: {absent}"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


Open = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Write and open the page of a folder; afterwards the console must be empty."""

    def open_page(folder: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> Any:
        page = write_page(report(folder), tmp_path / "report.html")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        chromium.get(page.as_uri())
        frames(chromium)
        return chromium

    yield open_page
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def frames(driver: Any, count: int = 3) -> None:
    """Let the page paint."""
    driver.execute_async_script(
        "const done = arguments[1]; let left = arguments[0];"
        "const step = () => (left-- > 0 ? requestAnimationFrame(step) : done()); step();",
        count,
    )


def picture(driver: Any, name: str) -> bytes:
    image: bytes = driver.get_screenshot_as_png()
    folder = os.environ.get("OFFCHIP_SCREENSHOTS")
    if folder:
        (Path(folder) / f"{name}.png").write_bytes(image)
    return image


def find(driver: Any, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def click(driver: Any, element: Any) -> None:
    """Bring an element to the middle of the window, where the bar at the top cannot cover it, and click it."""
    if isinstance(element, str):
        element = find(driver, element)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()


def text(driver: Any, selector: str) -> str:
    found: str = driver.execute_script("return document.querySelector(arguments[0]).textContent", selector)
    return found


def pixels(driver: Any, selector: str) -> str:
    found: str = driver.execute_script("return document.querySelector(arguments[0]).toDataURL()", selector)
    return found


def span(driver: Any) -> tuple[float, float]:
    start, end = driver.execute_script("return [SPAN.start, SPAN.end]")
    return start, end


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["streamed_run", "sweep_folder"])
def test_loads(opened: Open, name: str, width: int, scheme: str, request: pytest.FixtureRequest) -> None:
    driver = opened(request.getfixturevalue(name), width, 900, scheme)
    wide = driver.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width, "the page scrolls sideways"
    for canvas in driver.find_elements(By.TAG_NAME, "canvas"):
        colours = driver.execute_script(
            "const c = arguments[0], d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "const s = new Set(); for (let i = 0; i < d.length; i += 4) s.add(`${d[i]},${d[i+1]},${d[i+2]}`);"
            "return s.size",
            canvas,
        )
        assert colours > 3, f"{canvas.get_attribute('id')} is blank"
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert len(picture(driver, f"{name}-{width}-{scheme}")) > 10_000


def test_theme_switch(opened: Open, parallel_run: Path) -> None:
    driver = opened(parallel_run)
    before = pixels(driver, "#timeline-chart")
    find(driver, "#theme").send_keys("dark")
    frames(driver)
    assert (
        driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
    )
    assert pixels(driver, "#timeline-chart") != before


def test_zoom_and_pan(opened: Open, long_run: Path) -> None:
    driver = opened(long_run)
    canvas = find(driver, "#timeline-chart")
    whole, before = span(driver), pixels(driver, "#timeline-chart")
    memory = pixels(driver, "#memory-chart")
    click(driver, "#timeline button[aria-label='Zoom in']")
    frames(driver)
    near = span(driver)
    assert near[1] - near[0] == pytest.approx((whole[1] - whole[0]) / 2)
    assert pixels(driver, "#timeline-chart") != before
    assert pixels(driver, "#memory-chart") != memory, "the memory chart follows the timeline"
    ActionChains(driver).move_to_element(canvas).click_and_hold().move_by_offset(120, 0).release().perform()
    assert span(driver)[0] < near[0]
    start = driver.execute_script("return document.activeElement.id")
    assert start == "timeline-chart"
    canvas.send_keys("+", "+")
    assert span(driver)[1] - span(driver)[0] == pytest.approx((whole[1] - whole[0]) / 8)
    driver.execute_script(
        "const turn = {deltaY: -100, clientX: 600, cancelable: true, bubbles: true};"
        "arguments[0].dispatchEvent(new WheelEvent('wheel', turn))",
        canvas,
    )
    assert span(driver)[1] - span(driver)[0] < (whole[1] - whole[0]) / 10
    canvas.send_keys("0")
    assert span(driver) == whole


def test_twenty_thousand_tasks_do_not_lag(opened: Open, long_run: Path) -> None:
    driver = opened(long_run)
    assert driver.execute_script("return LINE.shown") > 20_000
    times = driver.execute_async_script(
        "const done = arguments[0], out = []; let k = 0;"
        "const step = (now) => { if (out.length >= 40) return done(out); const t = performance.now();"
        " SPAN.zoom(SPAN.whole * (k % 7) / 7, k++ % 2 ? 1.7 : 0.5);"
        " requestAnimationFrame(() => { out.push(performance.now() - t); step(); }); };"
        "step();"
    )
    # All three charts over time are drawn again in each frame, without a graphics card.
    assert sorted(times)[len(times) // 2] < 100, times


def test_hover_and_keys(opened: Open, streamed_run: Path) -> None:
    driver = opened(streamed_run)
    canvas = find(driver, "#timeline-chart")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(driver).move_to_element(canvas).perform()
    WebDriverWait(driver, 5).until(lambda d: "takes" in text(d, ".tip"))
    assert "bound by" in text(driver, ".tip")
    canvas.send_keys(Keys.HOME)
    first = text(driver, "#timeline-detail")
    canvas.send_keys(Keys.ARROW_RIGHT)
    second = text(driver, "#timeline-detail")
    assert first != second
    assert "gpu0.compute" in second
    canvas.send_keys(Keys.ARROW_DOWN)
    assert "host0->gpu0" in text(driver, "#timeline-detail")
    canvas.send_keys("c")
    assert "on the critical path" in text(driver, "#timeline-detail")
    canvas.send_keys(Keys.ENTER)
    start, end = span(driver)
    assert end - start < driver.execute_script("return SPAN.whole") / 100
    roof = find(driver, "#roofline-chart")
    driver.execute_script("arguments[0].focus()", roof)
    roof.send_keys(Keys.ARROW_RIGHT)
    assert "FLOP/byte" in text(driver, "#roofline-detail")


def test_operator_table(opened: Open, parallel_run: Path) -> None:
    driver = opened(parallel_run)
    rows = "#operators tbody tr"
    names = [row.text.split()[0] for row in driver.find_elements(By.CSS_SELECTOR, rows)]
    head = driver.find_elements(By.CSS_SELECTOR, "#operators th[scope=col]")[0]
    click(driver, head.find_element(By.TAG_NAME, "button"))
    assert head.get_attribute("aria-sort") == "ascending"
    assert [r.text.split()[0] for r in driver.find_elements(By.CSS_SELECTOR, rows)] == sorted(names)
    find(driver, "#operators input[type=search]").send_keys("mlp")
    shown = [r.text.split()[0] for r in driver.find_elements(By.CSS_SELECTOR, rows)]
    assert shown == [name for name in sorted(names) if "mlp" in name]
    before = pixels(driver, "#timeline-chart")
    click(driver, "#operators tbody th button")
    frames(driver)
    assert pixels(driver, "#timeline-chart") != before
    click(driver, "#timeline summary")
    WebDriverWait(driver, 5).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#timeline tbody tr"))


def test_everything_is_reached_by_tab_and_named(opened: Open, streamed_run: Path) -> None:
    driver = opened(streamed_run)
    nameless = driver.execute_script(
        "return [...document.querySelectorAll('button, select, input, canvas, svg[role]')].filter((e) => "
        "!(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length)))"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    wanted = set(
        driver.execute_script(
            "return [...document.querySelectorAll('canvas, svg[tabindex], select')].map((e) => e.id)"
        )
    )
    reached = set()
    body = find(driver, "body")
    for _ in range(120):
        body = driver.switch_to.active_element
        body.send_keys(Keys.TAB)
        reached.add(driver.execute_script("return document.activeElement.id"))
        line = driver.execute_script(
            "const e = document.activeElement; return e === document.body ? '' : getComputedStyle(e).outlineStyle"
        )
        assert line in ("", "solid", "auto")
    assert {name for name in wanted if name} <= reached


def test_hostile_names_are_shown_and_do_nothing(opened: Open, parallel_run: Path, tmp_path: Path) -> None:
    driver = opened(renamed(parallel_run, tmp_path / "run", HOSTILE))
    assert HOSTILE.replace("\u2028", "") in text(driver, "h1").replace("\u2028", "")
    assert driver.title != "taken"
    assert driver.execute_script("return document.querySelectorAll('img').length") == 0


def test_sweep_filters_link_the_views(opened: Open, sweep_folder: Path) -> None:
    driver = opened(sweep_folder)
    scatter, lines = pixels(driver, "#scatter-chart"), pixels(driver, "#parallel-chart")
    click(driver, "input[aria-label='hw: h100-sxm']")
    frames(driver)
    assert pixels(driver, "#scatter-chart") != scatter
    assert pixels(driver, "#parallel-chart") != lines
    assert "30 of 45 points pass" in text(driver, "#parameters [role=status]")
    assert "h100-sxm" not in text(driver, "#points tbody")
    click(driver, "#clear")
    assert "Every point" in text(driver, "#parameters [role=status]")
    canvas = find(driver, "#parallel-chart")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    box = canvas.rect
    action = ActionChains(driver).move_to_element_with_offset(canvas, int(70 - box["width"] / 2), 60)
    action.click_and_hold().move_by_offset(0, 60).release().perform()
    assert "of 45 points pass" in text(driver, "#parameters [role=status]")
    click(driver, "#clear")
    chart = find(driver, "#scatter-chart")
    driver.execute_script("arguments[0].focus()", chart)
    chart.send_keys("f")
    assert "on the Pareto front" in text(driver, "#point-detail")
    frames(driver)
    assert len(driver.find_elements(By.CSS_SELECTOR, "#points tr.chosen")) == 1
