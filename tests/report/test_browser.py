"""The page as a person meets it: a real headless Chromium."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from peftlab.report.build import build_report
from tests.report.fixtures import LEVELS, Options, write_results
from tests.report.gradients import write_gradients
from tests.report.layers import write_layers

pytestmark = pytest.mark.browser
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("Chromium and its driver are not installed", allow_module_level=True)
selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1300,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which names, flags, errors and notes try to break out."""
    folder = write_results(
        tmp_path_factory.mktemp("results"), Options(flags={"lora-all": ["</script><script>alert(2)</script>"]})
    )
    write_layers(folder)
    write_gradients(folder)
    evil = '<img src="http://198.51.100.1/x.png" onerror="document.title=1">'
    for path in folder.glob("runs/lora.rank-8/*/config.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "label": evil, "arm": "</script><b>x"}))
    for path in folder.glob("runs/bitfit/*/error.json"):
        text = {"type": "X", "what": evil, "where": "", "remedy": '"><script>alert(3)</script>'}
        path.write_text(json.dumps({**json.loads(path.read_text()), "error": text}))
    study = folder / "study.yaml"
    study.write_text(study.read_text().replace("How few parameters", "</script><script>alert(1)</script> How few parameters"))
    return build_report(folder)


def first_column(browser: Any) -> list[str]:
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "table.results tbody th")]


def head(browser: Any, text: str) -> Any:
    buttons = browser.find_elements(By.CSS_SELECTOR, "table.results thead button")
    button = next(b for b in buttons if b.text.replace("\n", " ").strip() == text)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    return button


def test_table_sorting_and_silence(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    rows = first_column(browser)
    evil = next(r for r in rows if r.startswith("<img"))
    assert set(rows) == (set(LEVELS) - {"lora[rank=8]"}) | {evil}
    assert rows[0] == "full"
    cells = browser.find_elements(By.CSS_SELECTOR, "table.results tbody tr:first-child td")
    assert cells[0].text == "5" and "%" in cells[1].text and "baseline" in [c.text for c in cells]

    head(browser, "trainable").click()
    up = first_column(browser)
    assert up[0] == "linear-probe" and up[-1] == "full"
    assert head(browser, "trainable").find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    assert "ascending" in browser.find_element(By.ID, "sort-status").get_attribute("textContent")
    head(browser, "trainable").send_keys(Keys.ENTER)  # by keyboard
    assert first_column(browser) == up[::-1]
    head(browser, "difference").click()
    assert first_column(browser)[-1] == "full"  # the baseline has none: missing values stay at the end

    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert addresses and all(a.startswith(("file:", "data:")) for a in addresses)


def test_hostile_text_stays_text(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.title == "fixture · peftlab"
    assert browser.find_elements(By.CSS_SELECTOR, "img, iframe, object, embed") == []
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 2
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith("</script><script>alert(1)</script> How few")
    assert "</script><script>alert(2)</script>" in browser.find_element(By.CSS_SELECTOR, "table.results").text
    assert "<img src=" in browser.find_element(By.ID, "problems").text


def test_a_script_that_got_in_would_not_run(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    browser.execute_script("const s=document.createElement('script');s.textContent='document.title=1';document.body.append(s)")
    assert browser.title == "fixture · peftlab"
    browser.get_log("browser")  # the refusal it logs is expected here


@pytest.mark.parametrize("width", [360, 800, 1300])
def test_no_sideways_scrolling_of_the_page(browser: Any, page: Path, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(page.as_uri())
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= width


def test_names_for_those_who_cannot_see(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    for svg in browser.find_elements(By.CSS_SELECTOR, "svg[role=img]"):
        assert svg.get_attribute("aria-label").strip()
    for region in browser.find_elements(By.CSS_SELECTOR, "[role=region]"):
        assert region.get_attribute("aria-label") and region.get_attribute("tabindex") == "0"
    levels = [int(h.tag_name[1]) for h in browser.find_elements(By.CSS_SELECTOR, "h1, h2, h3")]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))
