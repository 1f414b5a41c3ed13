"""Labelling in a real browser: by keyboard, by several people, through reloads and lost connections."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpm.annotate.batches import PoolTexts, waiting
from bgpm.annotate.desk import Desk
from bgpm.annotate.rounds import Rounds, RoundState
from bgpm.annotate.server import Server, access
from bgpm.annotations.store import LabelStore
from bgpm.data.tables import read_table, write_table
from bgpm.oracles.human import Human
from bgpm.stage import read_params

pytestmark = pytest.mark.slow

UNREAD = 0.3  # seconds within which the page takes a key for one pressed twice


def size(browser: Any, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def until(true: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(0.03)
    raise AssertionError(f"not within {seconds} s: {what}")


def visible(browser: Any, id: str) -> bool:
    return browser.execute_script("return !document.getElementById(arguments[0]).closest('[hidden]')", id)


def words(browser: Any, id: str) -> str:
    return browser.execute_script("return document.getElementById(arguments[0]).textContent", id)


def press(browser: Any, key: str) -> None:
    """A key, as a person presses it: after looking at the pair, wherever the focus is."""
    time.sleep(UNREAD)
    browser.switch_to.active_element.send_keys(key)


def enter(browser: Any, url: str, name: str) -> None:
    """Open the page as a person who has not been there before, and give a name, by keyboard alone."""
    browser.get(url)
    browser.execute_script("sessionStorage.clear()")
    browser.refresh()
    until(lambda: visible(browser, "name-form"), "the question for a name")
    field = browser.switch_to.active_element
    assert field.get_attribute("id") == "name"
    field.clear()
    field.send_keys(name + "\n")
    until(lambda: visible(browser, "work") or visible(browser, "rest"), "a pair")


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    size(browser, 1280)
    browser.get_log("browser")
    yield browser
    browser.get("about:blank")


def by_person(place: Any, name: str) -> dict[str, Any]:
    return {line["pair_id"]: line for line in place.lines() if line.get("annotator") == name and "label" in line}


def test_a_batch_is_labelled_by_keyboard_and_the_answers_are_about_what_was_read(
    campaign: Any, start: Any, page: Any
) -> None:
    place = campaign(pairs=6)
    server = start(place.root)
    enter(page, server.url, "ada")
    chosen = {}
    for number, key in enumerate("12ts0"):
        question = until(lambda n=number: words(page, "question").startswith(f"Pair {n + 1}:"), "the next pair")
        assert question
        assert page.switch_to.active_element.get_attribute("id") == "question"  # where a screen reader goes on
        left = page.execute_script("return document.querySelector('#left .body').textContent")
        chosen[f"pair-{number}"] = key, left
        press(page, key)
    press(page, "u")  # takes the tie of the fifth back
    until(lambda: words(page, "question").startswith("Pair 5:"), "the fifth pair again")
    for key in "21":
        until(lambda: page.execute_script("return document.querySelector('#left .body').textContent"), "texts")
        press(page, key)
    until(lambda: words(page, "rest-title") == "This batch is finished", "the end")
    annotations = by_person(place, "ada")
    assert [line["label"] for line in annotations.values()][2:4] == [0.5, None]
    for pair in ("pair-0", "pair-1"):
        key, left = chosen[pair]
        line = annotations[pair]
        first_on_the_left = line["shown"] == "ab"
        assert line["label"] == float((key == "1") == first_on_the_left)
        if pair == "pair-0":
            assert left.startswith("answer B") is not first_on_the_left
    assert annotations["pair-4"]["label"] == float(annotations["pair-4"]["shown"] == "ba")
    assert [line for line in place.lines() if "retract" in line]
    assert all(0.2 < line["seconds"] < 60 for line in annotations.values())
    assert page.get_log("browser") == []


def test_a_reload_in_the_middle_goes_on_where_one_was(campaign: Any, start: Any, page: Any) -> None:
    place = campaign(pairs=6)
    server = start(place.root)
    enter(page, server.url, "ada")
    for number in (1, 2):
        until(lambda n=number: words(page, "question").startswith(f"Pair {n}:"), "the next pair")
        press(page, "1")
    until(lambda: len(place.lines()) == 2, "two answers on the disk")
    page.refresh()
    until(lambda: words(page, "question").startswith("Pair 3:"), "the third pair")
    assert "Question 2?" in words(page, "turns")
    press(page, "u")  # also of an answer from before the reload
    until(lambda: "Question 1?" in words(page, "turns") or "<script>" in words(page, "turns"), "the second pair")
    press(page, "2")
    until(lambda: len(place.lines()) == 4, "the new answer")
    lines = place.lines()
    assert lines[1]["label"] == 1 - lines[3]["label"]


def test_answers_wait_in_the_browser_while_the_server_is_away_and_then_arrive_once(
    campaign: Any, start: Any, page: Any
) -> None:
    place = campaign(pairs=6)
    server = start(place.root)
    enter(page, server.url, "ada")
    press(page, "1")
    until(lambda: words(page, "status") == "1 annotation saved", "the first acknowledgement")
    server.stop(signal.SIGKILL)
    for _ in range(2):
        press(page, "2")
    until(lambda: words(page, "status") == "2 not saved yet: the server cannot be reached. Trying again", "the warning")
    assert page.execute_script("return getComputedStyle(document.getElementById('status')).color") != ""
    again = start(place.root, "--port", str(server.port))
    until(lambda: len(place.lines()) == 3, "the answers that were kept")
    until(lambda: words(page, "status") == "3 annotations saved", "their acknowledgement")
    assert len({line["id"] for line in place.lines()}) == 3
    again.stop(signal.SIGKILL)
    press(page, "1")
    until(lambda: "1 not saved yet" in words(page, "status"), "the warning")
    kept = page.execute_script("return Object.keys(localStorage).filter(k => k.startsWith('bgpm:unsaved:ada')).length")
    assert kept == 1
    start(place.root, "--port", str(server.port))
    page.refresh()  # what was not saved outlives the page
    until(lambda: len(place.lines()) == 4, "the answer from before the reload")
    until(lambda: words(page, "status") == "4 annotations saved", "its acknowledgement")
    assert unsaved(page) == 0


def unsaved(browser: Any) -> int:
    return browser.execute_script("return Object.keys(localStorage).filter(k => k.startsWith('bgpm:unsaved:')).length")


def test_answers_of_somebody_who_left_are_said_to_be_unsaved_and_still_sent(
    campaign: Any, start: Any, page: Any
) -> None:
    place = campaign(pairs=6)
    server = start(place.root)
    enter(page, server.url, "ada")
    server.stop(signal.SIGKILL)
    press(page, "1")
    until(lambda: "1 not saved yet" in words(page, "status"), "the warning")
    page.find_element("id", "change").click()
    until(lambda: visible(page, "left-over") and "server cannot be reached" in words(page, "left-over"), "the warning")
    assert words(page, "left-over").startswith("1 not saved yet: the server cannot be reached. Trying again")
    start(place.root, "--port", str(server.port))
    until(lambda: not visible(page, "left-over"), "the acknowledgement")
    assert (len(by_person(place, "ada")), unsaved(page)) == (1, 0)
    field = page.switch_to.active_element
    field.clear()
    field.send_keys("bo\n")
    until(lambda: visible(page, "work"), "a pair")
    assert words(page, "question").startswith("Pair 1:")
    press(page, "2")
    until(lambda: words(page, "status") == "1 annotation saved", "bo's acknowledgement")
    assert (len(by_person(place, "ada")), len(by_person(place, "bo"))) == (1, 1)


def test_a_name_with_joiners_labels_and_what_goes_wrong_before_the_first_pair_is_said(
    campaign: Any, start: Any, page: Any
) -> None:
    place = campaign(pairs=6)
    server = start(place.root)
    name = "\u0633\u0627\u0631\u0627\u200c\u0646\u0627\u0632\u00a0B"
    enter(page, server.url, name)
    press(page, "1")
    until(lambda: by_person(place, "\u0633\u0627\u0631\u0627\u0646\u0627\u0632 B"), "the answer")
    page.find_element("id", "change").click()
    page.execute_script("document.getElementById('name').value = 'a\\u0001b'")
    page.find_element("css selector", "#name-form button").click()
    until(lambda: visible(page, "work"), "a pair for ab: the page takes off what cannot be seen")
    press(page, "1")
    until(lambda: by_person(place, "ab"), "the answer")
    page.find_element("id", "change").click()
    page.execute_script("document.getElementById('name').value = 'a'.repeat(1000)")
    page.find_element("css selector", "#name-form button").click()
    until(lambda: visible(page, "rest"), "something on the page")
    assert "none a control character. Trying again" in words(page, "rest-text")
    page.find_element("id", "change").click()
    server.stop()
    field = page.switch_to.active_element
    field.clear()
    field.send_keys("ada\n")
    until(lambda: visible(page, "rest"), "something on the page")
    assert words(page, "rest-title") == "No pair can be shown"
    assert words(page, "rest-text") == "the server cannot be reached. Trying again."
    start(place.root, "--port", str(server.port))
    until(lambda: visible(page, "work"), "a pair, once the server is back")


def test_two_people_at_once_each_answer_every_pair_and_see_how_they_agree(campaign: Any, start: Any, page: Any) -> None:
    place = campaign(pairs=4, annotators_per_pair=2)
    server = start(place.root)
    windows = [page.current_window_handle]
    enter(page, server.url, "ada")
    page.switch_to.new_window("tab")
    windows.append(page.current_window_handle)
    size(page, 1280)
    enter(page, server.url, "bo")
    for _ in range(4):
        for window in windows:
            page.switch_to.window(window)
            until(lambda: visible(page, "work"), "a pair")
            press(page, "1")
    until(lambda: len(place.lines()) == 8, "all answers")
    assert set(by_person(place, "ada")) == set(by_person(place, "bo")) == set(place.ids)
    until(lambda: words(page, "rest-title") == "This batch is finished", "the end")
    mine, other = by_person(place, "ada"), by_person(place, "bo")
    same = sum(mine[pair]["label"] == other[pair]["label"] for pair in place.ids)
    assert f"You and ada agree on {25 * same}% of 4 pairs" in words(page, "agreement")
    page.close()
    page.switch_to.window(windows[0])


def test_texts_can_only_be_text(campaign: Any, start: Any, page: Any) -> None:
    place = campaign(pairs=3)
    server = start(place.root)
    enter(page, server.url, "ada")
    rich = page.execute_script("return [...document.querySelectorAll('.responses .body *')].map(e => e.localName)")
    assert {"h4", "em", "strong", "code", "ol", "ul", "li", "pre", "table", "th", "td", "blockquote"} <= set(rich)
    shown = page.execute_script("return document.querySelector('.responses').textContent")
    assert "snake_case_name" in shown
    assert 'print("<b>not bold</b>")' in shown
    press(page, "1")
    until(lambda: "<script>" in words(page, "turns"), "the hostile pair")
    for _ in range(2):  # formatted, then as it is written
        time.sleep(0.3)
        assert page.title == "Label - bgpm"
        inside = "return [...document.querySelectorAll('#turns .body *, .responses .body *')]"
        names = set(page.execute_script(inside + ".map(e => e.localName)"))
        assert names <= {"p", "pre", "code", "span"}
        assert page.execute_script(inside + ".flatMap(e => e.getAttributeNames())") in (["class"] * n for n in range(9))
        assert "document.title='broken'" in words(page, "turns")
        press(page, "r")
        until(
            lambda: page.execute_script("return document.querySelectorAll('.written').length") in (0, 3), "as written"
        )
    assert page.get_log("browser") == []
    press(page, "1")
    until(lambda: "Be brief." in words(page, "turns"), "the conversation")
    roles = page.execute_script("return [...document.querySelectorAll('.turn h2')].map(e => e.textContent)")
    assert roles == ["system", "user", "assistant", "user"]
    page.get(server.url + "campaign")
    assert page.title == "Campaign - bgpm"
    assert page.get_log("browser") == []


CONTRASTS = """
function parse(c) { return c.match(/[\\d.]+/g).map(Number); }
function light([r, g, b]) {
  const f = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
}
function ground(e) {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
  return [255, 255, 255];
}
return [...document.querySelectorAll('body *')].filter(e =>
  [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.getClientRects().length
  && !e.closest(':disabled, noscript')
).map(e => {
  const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
  return [e.textContent.trim().slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
}).filter(([, ratio]) => ratio < 4.5)"""
SMALL = """
return [...document.querySelectorAll('button')].filter(e => e.getClientRects().length)
  .map(e => e.getBoundingClientRect()).filter(r => r.height < 40 || r.right > innerWidth || r.left < 0).length"""


def test_the_page_fits_a_phone_and_can_be_read_in_light_and_dark(campaign: Any, start: Any, page: Any) -> None:
    place = campaign(pairs=3, scale=7)  # with the most buttons
    server = start(place.root)
    enter(page, server.url, "ada")
    backgrounds = set()
    for path in ("", "campaign"):
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                size(page, width, scheme)
                page.get(server.url + path)
                until(lambda p=path: p or visible(page, "work"), "the page")
                assert page.execute_script("return document.documentElement.scrollWidth") == width
                assert page.execute_script(CONTRASTS) == []
                backgrounds.add(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
                if not path:
                    left, right = (page.find_element("id", name).rect for name in ("left", "right"))
                    assert (right["y"] > left["y"]) == (width == 390)  # stacked on a phone
    assert len(backgrounds) == 2
    size(page, 390)
    page.get(server.url)
    until(lambda: visible(page, "work"), "the page")
    page.execute_script("document.getElementById('change').remove()")  # a link in a line of text
    assert page.execute_script(SMALL) == 0
    time.sleep(UNREAD)
    page.find_element("css selector", "[data-choice=left]").click()
    until(lambda: len(place.lines()) == 1, "an answer by touch")
    for number, key in enumerate("x6b"):
        press(page, key)
        until(lambda n=number: len(place.lines()) == max(1, n + 1), "the annotation of the key")
    assert [(a.get("strength"), a.get("flags")) for a in place.lines()] == [
        ("much", None),
        ("clear", ["unsafe"]),
        (None, ["both_bad"]),
    ]


def test_time_away_does_not_count_and_a_key_in_a_note_is_no_answer(campaign: Any, start: Any, page: Any) -> None:
    place = campaign(pairs=3)
    server = start(place.root)
    enter(page, server.url, "ada")
    # An hour passes between two signs of life: the page asks the clock of the browser.
    page.execute_script(
        "const now = performance.now.bind(performance); let away = 0;"
        "performance.now = () => now() + away; window.leave = ms => { away += ms; };"
    )
    press(page, "q")
    page.execute_script("leave(3600e3)")
    page.execute_script("document.querySelector('#note-box summary').focus()")
    page.switch_to.active_element.send_keys("\n")
    page.find_element("id", "note").send_keys("12ts tutu")
    assert place.lines() == []
    page.execute_script("leave(50e3)")
    page.execute_script("document.getElementById('question').focus()")
    press(page, "1")
    (line,) = until(place.lines, "the answer")
    assert line["note"] == "12ts tutu"
    assert 50 < line["seconds"] < 110


def test_the_next_batch_shows_up_by_itself(campaign: Any, start: Any, page: Any) -> None:
    place = campaign(pairs=8)
    place.wait("entropy/round-0", place.ids[:1])
    server = start(place.root)
    enter(page, server.url, "ada")
    press(page, "1")
    until(lambda: words(page, "rest-title") == "This batch is finished", "the end")
    (place.root / "data/entropy/round-0/waiting.json").unlink()
    place.wait("start", place.ids[4:])
    until(lambda: visible(page, "work"), "the next batch")
    assert words(page, "where") == "seed set: 0 of 4 finished"


def test_a_batch_that_is_chosen_anew_is_said_on_the_page_and_what_was_on_the_screen_is_kept(
    campaign: Any, start: Any, page: Any
) -> None:
    place = campaign(pairs=6)
    server = start(place.root)
    enter(page, server.url, "ada")
    place.wait("entropy/round-0", place.ids[4:])
    press(page, "1")
    until(lambda: visible(page, "notice"), "what became of it")
    assert words(page, "notice-text").startswith(
        "The loop went on while you labelled the last pair: it is not asked for"
    )
    until(lambda: "Question 4?" in words(page, "turns"), "the batch of now")
    assert [line["pair_id"] for line in place.lines()] == ["pair-0"]
    press(page, "2")
    until(lambda: len(place.lines()) == 2, "the next annotation")
    assert place.lines()[1]["pair_id"] == "pair-4"
    assert visible(page, "notice")  # until it has been read
    page.find_element("id", "dismiss-notice").click()
    assert not visible(page, "notice")
    table = read_table(place.root / "data/entropy/round-0/batch.parquet")
    rows = {name: values[:1] for name, values in table.items()}
    write_table(place.root / "data/entropy/round-0/batch.parquet", rows)
    press(page, "1")
    until(lambda: words(page, "rest-title") == "The batch was changed", "that its pairs are no longer those asked for")
    assert words(page, "rest-text").startswith("entropy, round 0 is not the batch any more that was asked for.")
    assert len(place.lines()) == 3


def test_the_round_is_shown_while_people_go_on_and_a_failure_can_be_retried(
    campaign: Any, page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = campaign(pairs=6)
    monkeypatch.chdir(place.root)
    place.wait("start", place.ids[:1])
    (place.root / "data/entropy/round-0/waiting.json").unlink()
    desk = Desk(PoolTexts(Path("data/pool")), lambda: waiting(read_params()), LabelStore(place.store), Human, ahead=3)
    rounds = Rounds(desk.complete, lambda: [], desk.quiet)  # never started: the test says where it stands
    Path("guidelines.md").write_text("# Which is better\n\n- the **true** one\n- <b>no HTML</b>", encoding="utf-8")
    with Server(desk, str, access("127.0.0.1", None), 0, rounds, Path("guidelines.md")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        enter(page, server.url, "ada")
        until(lambda: visible(page, "guidelines-box"), "the guidelines")
        press(page, "g")
        until(lambda: page.find_element("css selector", "#guidelines strong").text == "true", "them, rendered")
        assert "<b>no HTML</b>" in words(page, "guidelines")
        press(page, "g")
        assert not visible(page, "run")
        press(page, "1")
        until(lambda: visible(page, "run"), "that the round begins")
        rounds._set(RoundState("running", "Train the next model from the base on all labels so far", 1, 5))
        until(lambda: "step 2 of 5): Train the next model" in words(page, "run-text"), "the stage that runs")
        assert "reserve after seed set" in words(page, "where")
        bar = page.execute_script("const bar = document.getElementById('run-bar'); return bar.value / bar.max")
        assert bar == pytest.approx(0.2)
        press(page, "2")  # the reserve
        until(lambda: len(place.lines()) == 2, "an annotation of the reserve")
        rounds._set(RoundState("failed", error="data/pool: is gone; run `dvc repro`"))
        until(lambda: visible(page, "retry"), "the button")
        assert words(page, "run-text") == "The round failed: data/pool: is gone; run `dvc repro`"
        assert visible(page, "work")  # labelling goes on
        page.find_element("id", "retry").click()
        until(lambda: rounds.state()["phase"] == "idle", "another try")
        place.wait("entropy/round-0", place.ids[4:])
        (place.root / "data/start/waiting.json").unlink()
        until(lambda: "entropy, round 0" in words(page, "where"), "the next batch by itself")
        server.shutdown()
