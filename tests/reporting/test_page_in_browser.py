"""The page in a real browser: nothing in its console, nothing beyond its edges, dark when asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.report import main

BEYOND_THE_EDGES = """
return [...document.querySelectorAll('svg.chart text')].filter(e => {
  const r = e.getBoundingClientRect();
  return r.width > 0 && (r.right > innerWidth || r.left < 0);
}).map(e => e.textContent)"""
TOO_SMALL_TO_READ = """
return [...document.querySelectorAll('body *')].filter(
  e => !e.childElementCount && e.textContent.trim() && !e.closest('svg')
    && parseFloat(getComputedStyle(e).fontSize) < 13
).map(e => e.textContent)"""


def show(browser, path: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get(path.resolve().as_uri())


@pytest.mark.slow
def test_the_page_reads_well_on_a_desk_and_on_a_phone_in_light_and_in_dark(
    finished_run: Callable[..., Path], browser
) -> None:
    root = finished_run(seeds=20)
    main()
    path, backgrounds = root / "reports/index.html", {}
    for width in (390, 1280):
        for scheme in ("light", "dark"):
            show(browser, path, width, scheme)
            assert browser.execute_script("return document.documentElement.scrollWidth") == width
            backgrounds[scheme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            charts = browser.execute_script(
                "return [...document.querySelectorAll('svg.chart')].map(e => e.getBoundingClientRect().width > 0)"
            )
            # Of the two sizes of each prize's chart exactly one shows; every other chart does.
            assert len(charts) - sum(charts) == 2
            assert browser.execute_script(BEYOND_THE_EDGES) == []
    assert backgrounds["light"] != backgrounds["dark"]
    saving = json.loads((root / "reports/metrics.json").read_text(encoding="utf-8"))["label_savings"]
    assert browser.find_element("id", "headline-number").text == f"{100 * saving:.0f}%"
    assert browser.execute_script(TOO_SMALL_TO_READ) == []
    browser.execute_script("document.querySelector('details').open = true")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 1280
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert urls == {path.resolve().as_uri()}


@pytest.mark.slow
def test_texts_of_the_pool_run_no_script(finished_run: Callable[..., Path], browser) -> None:
    root = finished_run({"entropy": (2.0, 0.72)}, seeds=1)
    main()
    show(browser, root / "reports/index.html", 390, "light")
    assert browser.title == "Label efficiency: entropy"
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert browser.get_log("browser") == []
