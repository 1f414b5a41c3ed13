"""The server by a plain client: who is let in, what is kept, and what a kill leaves."""

from __future__ import annotations

import http.client
import json
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import ROOT

from bgpm.annotate.desk import label_of, shown
from bgpm.annotate.server import access
from bgpm.annotations.store import LabelStore
from bgpm.data.tables import read_table, write_table
from bgpm.errors import ConfigError

JSON = {"Content-Type": "application/json"}
TOKEN = "a-token-of-good-length"


def test_only_this_machine_and_this_site_are_served(campaign: Any, start: Any) -> None:
    server = start(campaign().root)
    host = f"127.0.0.1:{server.port}"
    good = {"id": "x", "annotator": "ada", "pair_id": "pair-0", "choice": "left", "shown": "ab", "seconds": 1.0}
    for headers in (
        {"Host": "attacker.invalid"},
        {"Host": f"attacker.invalid:{server.port}"},
        {"Host": "127.0.0.1.attacker.invalid"},
        {"Host": "10.1.2.3"},
        {"Host": ""},
        {"Origin": "http://attacker.invalid"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert server.request("POST", "/api/answer", good, headers)[0] == 403, headers
        assert server.request("GET", "/api/state?annotator=ada", None, headers)[0] == 403, headers
    assert server.request("POST", "/api/answer", good, {"Content-Type": "text/plain"})[0] == 415
    assert server.state("ada")["mine"] == 0
    # a link from a chat may open the page; it changes nothing
    assert server.request("GET", "/", None, {"Sec-Fetch-Site": "cross-site"})[0] == 200
    for name in (host, f"localhost:{server.port}", "localhost:9000", f"[::1]:{server.port}"):
        assert server.request("POST", "/api/answer", good, {"Host": name, "Origin": f"http://{name}"})[0] == 200
    assert server.state("ada")["mine"] == 1


def test_the_page_forbids_itself_everything_but_its_own_files(campaign: Any, start: Any) -> None:
    server = start(campaign().root)
    for path in ("/", "/page.js", "/text.js", "/page.css", "/icon.svg", "/campaign"):
        status, headers, body = server.request("GET", path)
        assert status == 200, path
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in body.replace(b"https://example.org/x", b"").replace(b"https://attacker.invalid", b"")
    for path in ("/../params.yaml", "/page/page.js", "/data/annotations/people.jsonl", "/api/answer"):
        assert server.request("GET", path)[0] == 404
    source = b"".join(server.request("GET", path)[2] for path in ("/page.js", "/text.js"))
    for name in (
        b"innerHTML",
        b"outerHTML",
        b"insertAdjacent",
        b"document.write",
        b"eval(",
        b'setAttribute("on',
        b".href",
        b".src",
    ):
        assert name not in source


def test_others_need_the_token(campaign: Any, start: Any) -> None:
    server = start(campaign().root, "--address", "0.0.0.0", "--host", "labels.example")
    token = server.url.partition("?token=")[2]
    assert len(token) >= 32
    get = lambda path="/", **headers: server.request("GET", path, None, headers)  # noqa: E731
    for wrong in ({}, {"Authorization": f"Bearer {token}x"}, {"Cookie": f"bgpm-{server.port}={token[:-1]}"}):
        for path in ("/", "/page.js", "/campaign", "/api/state?annotator=ada"):
            assert get(path, **wrong)[0] == 403
    assert get("/?token=" + token[:-1])[0] == 403
    assert get(f"/?token={token}", Host="attacker.invalid")[0] == 403
    status, headers, _ = get(f"/?token={token}")
    assert (status, headers["Location"]) == (303, "/")
    cookie, *flags = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax"} <= set(flags)
    for right in ({"Cookie": cookie}, {"Authorization": f"Bearer {token}"}):
        assert get("/", **right)[0] == 200
        assert get("/", **right, Host="labels.example:80")[0] == 200
        assert get("/", **right, Host="192.168.1.7")[0] == 200  # an address cannot be made to point elsewhere
        assert get("/", **right, Host="attacker.invalid")[0] == 403
        assert get("/", **right, Origin="http://attacker.invalid")[0] == 403


def test_a_token_may_be_asked_for_on_this_machine_too(campaign: Any, start: Any) -> None:
    server = start(campaign().root, "--token", TOKEN)
    assert server.request("GET", "/")[0] == 403
    assert server.request("GET", "/", None, {"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_a_further_name_lets_nobody_in_without_the_token(campaign: Any, start: Any) -> None:
    server = start(campaign().root, "--host", "Labels.example")
    there = {"Host": "labels.example", "Origin": "https://labels.example"}
    for path in ("/", "/api/state?annotator=ada"):
        assert server.request("GET", path, None, there)[0] == 403
        assert server.request("GET", path)[0] == 403
    status, headers, _ = server.request("GET", "/?token=" + server.url.partition("?token=")[2], None, there)
    assert status == 303
    assert server.request("GET", "/", None, {**there, "Cookie": headers["Set-Cookie"].split(";")[0]})[0] == 200


@pytest.mark.parametrize(
    ("address", "token"), [("0.0.0.0", "short"), ("127.0.0.1", "has a blank in it!"), ("here", None)]
)
def test_a_weak_token_and_a_wrong_address_are_refused(address: str, token: str | None) -> None:
    with pytest.raises(ConfigError, match=r"--token|--address"):
        access(address, token)
    assert access("0.0.0.0", None).token
    assert access("127.0.0.1", None).token is None


@pytest.mark.parametrize(
    "change",
    [
        {"choice": "both"},
        {"shown": "up"},
        {"seconds": -1.0},
        {"seconds": "1"},
        {"seconds": True},
        {"seconds": float("nan")},
        {"seconds": None},
        {"seconds": 10**400},
        {"seconds": 1.7e308},
        {"seconds": 86_401},
        {"annotator": ""},
        {"annotator": " ada"},
        {"annotator": "a\nb"},
        {"annotator": "a\x7fb"},
        {"annotator": "a\x85b"},
        {"annotator": "\ud800"},
        {"annotator": "\u200b\ufe0f"},
        {"annotator": "a" * 65},
        {"annotator": ["ada"]},
        {"pair_id": ["pair-0"]},
        {"pair_id": None},
        {"note": "x" * 5000},
        {"note": "\ud800"},
        {"strength": "strong"},
        {"strength": "much", "choice": "tie"},
        {"flags": "unsafe"},
        {"flags": [1]},
        {"flags": ["both_bad"]},
        {"id": ""},
        {"label": 1.0},
    ],
)
def test_an_answer_that_cannot_be_right_is_named_and_not_kept(
    one_server: tuple[Any, Any], change: dict[str, object]
) -> None:
    campaign, server = one_server
    body = {
        "id": "x",
        "annotator": "ada",
        "pair_id": "pair-0",
        "choice": "left",
        "shown": "ab",
        "seconds": 1.0,
        **change,
    }
    status, _, reply = server.request("POST", "/api/answer", body)
    assert status == 400
    assert json.loads(reply)["error"]
    assert campaign.lines() == []


def test_what_is_not_a_request_is_refused(one_server: tuple[Any, Any]) -> None:
    campaign, server = one_server
    for body in ([1], "text", 3, {}):
        assert server.request("POST", "/api/answer", body)[0] == 400
    assert server.request("POST", "/api/answer", {"note": "x" * 70_000})[0] == 413
    assert server.request("POST", "/api/answer", {}, {"Content-Length": "9" * 5000})[0] == 413
    deep = "[" * 50_000
    for path in ("/api/answer", "/api/undo"):
        status, _, reply = server.request("POST", path, None, JSON, deep)
        assert (status, json.loads(reply)["error"]) == (400, "the request is not JSON, or nested too deep")
    assert server.request("POST", "/api/nothing", {})[0] == 404
    assert server.annotate("ada", "pair-of-nobody")[0] == 409
    assert campaign.lines() == []


def test_an_answer_says_what_was_seen_and_what_it_cost(campaign: Any, start: Any) -> None:
    place = campaign(price_per_label=0.5, price_per_hour=36.0)
    server = start(place.root)
    server.annotate("ada", "pair-3", "left", shown="ba", seconds=10.0, note="hm")
    server.annotate("ada", "pair-4", "tie", seconds=20.0)
    server.annotate("ada", "pair-5", "skip", seconds=30.0)
    server.annotate("ada", "pair-6", "right", strength="slight", flags=["unsafe"])
    server.annotate("ada", "pair-7", "both_bad", flags=["wrong_language", "unsafe"])
    server.annotate("ada", "pair-8", "cannot_judge")
    first, second, third, *others = place.lines()
    assert [(a["label"], a.get("strength"), a.get("flags")) for a in others] == [
        (0.0, "slight", ["unsafe"]),
        (0.5, None, ["both_bad", "unsafe", "wrong_language"]),
        (None, None, ["cannot_judge"]),
    ]
    page = server.request("GET", "/campaign")[2].decode().split("Strengths, flags and notes")[1].split("</table>")[0]
    assert re.findall('scope="col">([^<]*)', page) == [
        "annotator", "slight better", "both bad", "cannot judge", "unsafe", "wrong language", "notes"
    ]  # fmt: skip
    assert re.findall("<td>([^<]*)", page) == ["1", "1", "1", "2", "1", "1"] * 2
    assert (first["label"], first["shown"], first["note"], first["source"]) == (0.0, "ba", "hm", "human")
    assert [line["label"] for line in (second, third)] == [0.5, None]
    assert [line["cost"] for line in (first, second, third)] == pytest.approx([0.6, 0.7, 0.3])


@pytest.mark.parametrize(
    ("choice", "order", "label"), [("left", "ab", 1.0), ("left", "ba", 0.0), ("right", "ab", 0.0), ("right", "ba", 1.0)]
)
def test_a_label_speaks_of_the_pools_order_whatever_was_shown(choice: Any, order: str, label: float) -> None:
    assert label_of(choice, order) == label


def test_the_order_on_the_screen_is_a_fair_coin_of_person_and_pair() -> None:
    orders = [[shown(name, f"pair-{n}") for n in range(2000)] for name in ("ada", "bo")]
    for mine in orders:
        assert abs(mine.count("ab") - 1000) < 4 * (2000 * 0.25) ** 0.5
    assert abs(sum(a == b for a, b in zip(*orders, strict=True)) - 1000) < 4 * (2000 * 0.25) ** 0.5
    assert orders[0] == [shown("ada", f"pair-{n}") for n in range(2000)]


def test_a_repeated_answer_is_one_and_an_undone_one_stays_undone(campaign: Any, start: Any) -> None:
    place = campaign()
    server = start(place.root)
    for _ in range(3):
        assert server.annotate("ada", "pair-0")[1]["state"]["mine"] == 1
    assert len(place.lines()) == 1
    for _ in range(2):
        status, _, reply = server.request("POST", "/api/undo", {"id": "ada-pair-0", "annotator": "ada"})
        assert status == 200
        assert json.loads(reply)["state"]["mine"] == 0
    assert server.annotate("ada", "pair-0")[1]["state"]["mine"] == 0  # a late copy of what was taken back
    assert len(place.lines()) == 2
    assert server.request("POST", "/api/undo", {"id": "ada-pair-0", "annotator": "bo"})[0] == 400
    assert server.annotate("ada", "pair-1", "right", id="ada-pair-0")[0] == 400  # an id names one answer


def test_people_get_different_pairs_and_a_pair_its_number_of_people(campaign: Any, start: Any) -> None:
    place = campaign(annotators_per_pair=2)
    server = start(place.root)
    queues = [[q["pair_id"] for q in server.state(name)["queue"]] for name in ("ada", "bo", "cy")]
    assert len({pair for queue in queues for pair in queue}) == 12
    for name in ("ada", "bo"):
        for pair in place.ids[:11]:
            server.annotate(name, pair)
    state = server.state("cy")
    assert (state["finished"], [q["pair_id"] for q in state["queue"]]) == (11, ["pair-11"])
    more = server.state("cy", "&more=1")
    assert len(more["queue"]) == 4
    assert more["queue"][0]["pair_id"] == "pair-11"
    assert more["extra"] == 11


def test_an_annotation_of_a_batch_that_the_loop_went_on_from_is_kept_and_its_annotator_told(
    campaign: Any, start: Any
) -> None:
    place = campaign()
    server = start(place.root)
    assert server.annotate("ada", "pair-0")[1]["notice"] == ""
    (place.root / "data/entropy/round-0/waiting.json").unlink()
    assert server.state("ada")["batch"] is None
    assert server.annotate("ada", "pair-1")[1]["notice"].startswith("The loop went on while you labelled the last pair")
    assert [line["pair_id"] for line in place.lines()] == ["pair-0", "pair-1"]
    assert server.request("POST", "/api/undo", {"id": "ada-pair-0", "annotator": "ada"})[0] == 409
    assert server.request("POST", "/api/undo", {"id": "ada-pair-1", "annotator": "ada"})[0] == 200  # no round has it
    place.wait("start", ["pair-7"])
    assert server.state("ada")["batch"] == "seed set"
    assert server.annotate("ada", "pair-7")[0] == 200


def test_a_note_about_a_batch_that_was_chosen_anew_does_not_count(campaign: Any, start: Any) -> None:
    place = campaign()
    server = start(place.root)
    assert server.state("ada")["total"] == 12
    note = (place.root / "data/entropy/round-0/waiting.json").read_text(encoding="utf-8")
    place.wait("entropy/round-0", place.ids[:5])
    (place.root / "data/entropy/round-0/waiting.json").write_text(note, encoding="utf-8")
    assert server.state("ada")["batch"] is None
    place.wait("entropy/round-0", place.ids[:5])
    assert server.state("ada")["total"] == 5


def test_labels_written_by_hand_count_at_once(campaign: Any, start: Any) -> None:
    place = campaign()
    server = start(place.root)
    assert server.state("bo")["finished"] == 0
    by_hand = place.root / "data/annotations/by-hand.jsonl"
    by_hand.write_text('{"pair_id": "pair-2", "label": 1, "annotator": "bo"}\n', encoding="utf-8")
    assert (server.state("bo")["finished"], server.state("bo")["mine"]) == (1, 1)


def test_people_are_counted_by_one_spelling_of_their_name(campaign: Any, start: Any) -> None:
    place = campaign(annotators_per_pair=2)
    old = [{"pair_id": "pair-1", "label": 1, "annotator": name, "id": name} for name in ("zoe\u0308", "zo\u00eb")]
    place.store.write_text("".join(json.dumps(line) + "\n" for line in old), encoding="utf-8")
    server = start(place.root)
    assert server.state(quote("zo\u00eb"))["finished"] == 0  # one person said it twice
    for n, name in enumerate(["zoe\u0308", "zo\u200b\u00eb", "zo\u00eb\ufe0f"]):
        status, reply = server.annotate(name, "pair-0", id=f"x{n}")
        assert (status, reply["state"]["annotator"], reply["state"]["mine"]) == (200, "zo\u00eb", 2)
    assert {line["annotator"] for line in place.lines()[2:]} == {"zo\u00eb"}
    assert server.state("bo")["finished"] == 0
    status, _, reply = server.request("POST", "/api/undo", {"id": "x2", "annotator": "zoe\u0308"})
    assert (status, json.loads(reply)["state"]["mine"]) == (200, 2)


def test_a_number_that_nobody_could_mean_hides_neither_page_nor_label(campaign: Any, start: Any) -> None:
    place = campaign()
    old = {"pair_id": "pair-0", "label": 1, "annotator": "ada", "id": "k", "seconds": 1.7e308, "cost": 1.7e308}
    place.store.write_text(json.dumps(old) + "\n" + json.dumps(old | {"pair_id": "pair-1", "id": "l"}) + "\n")
    server = start(place.root)
    assert server.state("ada")["mine"] == 2
    status, _, page = server.request("GET", "/campaign")
    assert (status, b"<b>2</b> pairs were labelled by <b>1</b> people" in page) == (200, True)


def test_a_broken_line_of_a_file_is_named_on_the_campaign_and_hides_nothing_else(campaign: Any, start: Any) -> None:
    place = campaign()
    server = start(place.root)
    (place.root / "data/annotations/by-hand.jsonl").write_text('{"pair_id": "pair-0", "label": 7}\n', encoding="utf-8")
    status, _, page = server.request("GET", "/campaign")
    assert status == 200
    assert b"by-hand.jsonl:1: label 7: expected a probability" in page
    assert b"Held-out accuracy so far" in page


def test_settings_that_change_while_the_page_is_open_count_at_once(campaign: Any, start: Any) -> None:
    place = campaign()
    server = start(place.root)
    server.annotate("ada", "pair-0")
    assert server.state("ada")["finished"] == 1
    place.wait("entropy/round-1", place.ids[:3])
    place.wait("bald/round-0", place.ids[:2])
    assert server.state("ada")["total"] == 12
    place.params(rounds=[{"k": 0, "next": 1}, {"k": 1, "next": 2}])
    (place.root / "data/entropy/round-0/waiting.json").unlink()
    assert (server.state("ada")["batch"], server.state("ada")["total"]) == ("entropy, round 1", 3)
    place.params(acquisition="bald", baseline="bald")
    assert (server.state("ada")["batch"], server.state("ada")["total"]) == ("bald, round 0", 2)
    assert server.state("ada")["scale"] == 2
    place.params(oracles={"human": {"annotators_per_pair": 2, "price_per_label": 3.0, "scale": 7}})
    server.annotate("bo", "pair-1")
    assert place.lines()[-1]["cost"] == 3.0
    state = server.state("ada")
    assert (state["finished"], state["people"], state["scale"]) == (0, 2, 7)


@pytest.mark.parametrize(
    ("file", "broken"),
    [
        ("params.yaml", "oracles: ["),
        ("params.yaml", '{"oracles": {"human": {"price_per_label": .inf}}}'),
        ("data/annotations/by-hand.jsonl", '{"pair_id": "pair-0", "label": 7}\n'),
    ],
)
def test_a_file_that_is_broken_for_a_moment_loses_no_answer(campaign: Any, start: Any, file: str, broken: str) -> None:
    place = campaign()
    path = place.root / file
    good = path.read_text(encoding="utf-8") if path.exists() else ""
    server = start(place.root)
    path.write_text(broken, encoding="utf-8")
    status, reply = server.annotate("ada", "pair-0")
    assert status == 503  # the page tries again
    assert path.name in reply["error"]
    path.write_text(good, encoding="utf-8")
    assert server.annotate("ada", "pair-0")[0] == 200


def test_a_pool_that_is_made_anew_loses_no_answer(campaign: Any, start: Any) -> None:
    """Between `prepare` and the next `select` the batch names pairs that the pool no longer has."""
    place = campaign()
    server = start(place.root)
    path = place.root / "data/pool/pairs.parquet"
    good, table = path.read_bytes(), read_table(path)
    write_table(path, {name: column[:2] for name, column in table.items()})
    status, reply = server.annotate("ada", "pair-0")
    assert status == 503
    assert "the pool has no such pair" in reply["error"]
    assert "the pool has no such pair" in server.request("GET", "/campaign")[2].decode()
    path.write_bytes(good)
    assert server.annotate("ada", "pair-0")[0] == 200
    assert [line["pair_id"] for line in place.lines()] == ["pair-0"]


def test_a_second_server_on_the_same_labels_is_refused(campaign: Any, start: Any) -> None:
    place = campaign()
    server = start(place.root, cold=True)
    done = subprocess.run(
        [sys.executable, "-m", "bgpm", "annotate", "--port", "0"],
        cwd=place.root, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"process {server.process.pid} is writing to it" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_acknowledged_answer_survives_a_kill_in_the_middle_of_a_burst(campaign: Any, start: Any) -> None:
    place = campaign(pairs=400)
    server = start(place.root, cold=True)
    acknowledged: list[str] = []
    enough = threading.Event()

    def work(name: str) -> None:
        for pair in place.ids:
            try:
                status, reply = server.annotate(name, pair)
            except (OSError, ValueError, http.client.HTTPException):
                return
            assert status == 200
            acknowledged.append(reply["saved"])
            if len(acknowledged) >= 60:
                enough.set()

    people = [threading.Thread(target=work, args=(name,)) for name in ("ada", "bo", "cy")]
    for person in people:
        person.start()
    assert enough.wait(300)
    server.stop(signal.SIGKILL)
    for person in people:
        person.join(30)
    assert 60 <= len(acknowledged) < 1200
    again = start(place.root)
    kept = {annotation.id for annotation in LabelStore(place.store).annotations()}
    assert set(acknowledged) <= kept
    assert len(kept) <= len(acknowledged) + len(people)  # at most one answer each that was not acknowledged yet
    assert again.state("ada")["mine"] == sum(id.startswith("ada-") for id in kept)


def test_a_full_disk_is_said_and_nothing_is_acknowledged(campaign: Any, start: Any) -> None:
    place = campaign()
    server = start(place.root, cold=True)
    server.annotate("ada", "pair-0")
    size = place.store.stat().st_size
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))
    status, reply = server.annotate("ada", "pair-1")
    assert status == 503
    assert "File too large" in reply["error"]
    assert place.store.stat().st_size == size
    assert server.state("ada")["mine"] == 1
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert server.annotate("ada", "pair-1")[0] == 200
    assert server.state("ada")["mine"] == 2


@pytest.mark.slow
def test_wrong_options_are_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        ([], "params.yaml: not found"),
        (["--limit", "5"], "--limit: expected"),
        (["--port", "99999"], "--port 99999: expected 1 to 65535"),
        (["--port", "-1"], "--port -1: expected 1 to 65535"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "bgpm", "annotate", *arguments],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_the_campaign_page_counts_what_was_paid_for(campaign: Any, start: Callable[..., Any]) -> None:
    place = campaign(price_per_label=1.0)
    heldout = {"pair_id": "pair-11", "label": 0.5, "annotator": "bo", "cost": 5.0, "seconds": 30, "id": "h"}
    folder = place.root / "data/annotations/heldout"
    folder.mkdir()
    (folder / "people.jsonl").write_text(json.dumps(heldout) + "\n", encoding="utf-8")
    server = start(place.root)
    server.annotate("ada", "pair-0", "left", seconds=20.0)
    server.request("POST", "/api/undo", {"id": "ada-pair-0", "annotator": "ada"})
    server.annotate("ada", "pair-0", "right", seconds=10.0, id="second")
    server.annotate("ada", "pair-0", "left", seconds=10.0, id="third")
    server.annotate("ada", "pair-1", "skip", seconds=20.0)
    page = server.request("GET", "/campaign")[2].decode()
    rows = [re.findall("<t[hd][^>]*>([^<]*)</t", row) for row in page.split("<tr>")]
    cells = {row[0]: row[1:] for row in reversed(rows) if row}  # of the first table that has the name
    assert cells["ada"] == ["1", "0", "1", "1 min", "15.0 s", "3.00"]
    assert cells["bo"] == ["1", "1", "0", "30 s", "30.0 s", "5.00"]
    assert cells["everyone"] == ["2", "1", "1", "2 min", "18.0 s", "8.00"]
    assert "<b>3</b> pairs were labelled by <b>2</b> people" in page
    assert "Time and money of 2 annotations that were taken back or replaced count too." in page


def test_the_campaign_page_says_why_and_escapes_texts(campaign: Any, start: Callable[..., Any]) -> None:
    place = campaign()
    server = start(place.root)
    for name, choice in (("ada", "left"), ("bo", "right"), ("cy", "left")):
        for pair in place.ids[:6]:
            server.annotate(name, pair, choice)
    page = server.request("GET", "/campaign")[2].decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "The model gives A 27% (90% range 18% to 38%); it has seen much like it: sd of the score 0.3" in page
    assert "The model gives A 73% (90% range 9% to 99%); it has seen little like it: sd of the score 2.0" in page
    assert "<b>33%</b> of cases, over <b>6</b> pairs" in page
