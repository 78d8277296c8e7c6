"""The sections about tasks together, options and test examples, in a real headless Chromium."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from peftlab.report.build import build_report
from tests.report.designed import write_design
from tests.report.test_browser import CONTRAST, all_of, browser, chromium, go, one

__all__ = ["browser", "chromium"]  # fixtures
pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("only_drawn_by_the_page")]
SECTIONS = ("#over-tasks", "#factors", "#results")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return build_report(write_design(tmp_path))


def test_sections_of_a_design(browser: Any, page: Path) -> None:
    assert browser.execute_script(CONTRAST) == []
    for link in ("Over all tasks", "Options"):
        assert link in [a.text for a in all_of(browser, "#contents a")]
    go(browser, "#factors")
    regions = [r for s in SECTIONS for r in all_of(browser, f"{s} [role=region]")]
    names = [r.get_attribute("aria-label") for r in regions]
    assert len(set(names)) == len(names) and all(r.get_attribute("tabindex") == "0" for r in regions)
    for width in (360, 820, 1400):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        region = one(browser, "#over-tasks [role=region]")
        browser.execute_script("arguments[0].focus()", region)  # and the arrow keys reach what stands beyond its edge
        assert browser.execute_script("return document.activeElement === arguments[0]", region)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    metrics = {"width": 700, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # of A4 between its margins
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wide = (
        "return [...document.querySelectorAll('#over-tasks table, #factors table')].map((t) => t.getBoundingClientRect().right)"
    )
    assert max(browser.execute_script(wide)) <= 700
    assert base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]).startswith(b"%PDF-")
