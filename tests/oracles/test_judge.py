"""The judge against a service that misbehaves: no label is invented, no reply is paid twice, no key leaks."""

from __future__ import annotations

import json
import logging
import math
import re
import resource
import socket
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.chat_service import Request, Response, Service, completion, serve

from bgpm.data.tables import write_table
from bgpm.errors import ConfigError, LabelsPendingError
from bgpm.oracles import Oracle, OracleFiles, Query
from bgpm.oracles._chat import Reply
from bgpm.oracles._replies import read_reply
from bgpm.oracles.judge import Judge, position_bias, reconcile
from bgpm.registry import build

KEY = "sk-secret-0123456789"
QUALITY = [3, 1, 2, 5, 4, 0, 7, 6, 9, 8]  # of the answers 0, 1 | 2, 3 | ...
TRUTH = [1.0, 0.0, 1.0, 1.0, 1.0]  # of the pairs


def write_pool(folder: Path, *, swap: bool = False) -> OracleFiles:
    """Five prompts with a pair each; an answer's quality is the number in its text."""
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations/judge.txt").write_text("{prompt}|{response_a}|{response_b}")
    n = len(QUALITY) // 2
    write_table(folder / "pool/prompts.parquet", {"text": [f"question {k} about {{response_b}}" for k in range(n)]})
    write_table(folder / "pool/responses.parquet", {"text": [f"answer {q}" for q in QUALITY]})
    response_a, response_b = np.arange(2 * n).reshape(n, 2)[:, :: -1 if swap else 1].T
    names = [f"{k}:{'down' if swap else 'up'}" for k in range(n)]
    write_table(
        folder / "pool/pairs.parquet",
        {"pair_id": names, "prompt": np.arange(n), "response_a": response_a, "response_b": response_b},
    )
    write_table(folder / "batch.parquet", {"pair": np.arange(n)})
    return OracleFiles(folder / "truth.parquet", folder / "annotations", folder / "batch.parquet", folder / "pool")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OracleFiles:
    monkeypatch.setenv("BGPM_TEST_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return write_pool(tmp_path)


def queries(direction: str = "up") -> list[Query]:
    return [Query(f"{k}:{direction}", 0) for k in range(len(TRUTH))]


def better(request: Request) -> str:
    a, b = (int(text.split()[1]) for text in request.shown)
    return "A" if a > b else "B"


def honest(_: int, request: Request) -> Response:
    return completion(better(request))


def judge(service: Service, **changes: Any) -> Judge:
    settings = {"base_url": service.url, "model": "lab/m-1", "api_key_env": "BGPM_TEST_KEY", "backoff": 0.01}
    return build(Oracle, "judge", settings | changes, "oracles")  # type: ignore[return-value]


def logprobs(text: str, **alternatives: float) -> dict[str, Any]:
    listed = [{"token": token.replace("_", " "), "logprob": math.log(p)} for token, p in alternatives.items()]
    return {"logprobs": {"content": [{"token": text, "logprob": -0.1, "top_logprobs": listed}]}}


def labels(service: Service, files: OracleFiles, **changes: Any) -> list[float]:
    return judge(service, **changes)(queries(), files).label.tolist()


def test_each_pair_is_asked_in_both_orders_and_the_label_speaks_of_the_batchs_order(files: OracleFiles) -> None:
    with serve(honest) as service:
        verdicts = judge(service, price_input=10.0, price_output=30.0)(queries(), files)
    assert verdicts.label.tolist() == TRUTH
    assert verdicts.annotators.tolist() == [2] * 5
    np.testing.assert_allclose(verdicts.cost, 2 * (100 * 10 + 1 * 30) / 1e6)
    assert np.isnan(verdicts.margin).all()
    texts = [f"answer {q}" for q in QUALITY]
    shown = {(a, b) for a, b in zip(texts[::2], texts[1::2], strict=True)}
    assert sorted(service.keys()) == sorted(shown | {(b, a) for a, b in shown})
    request = service.requests[0]
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert {k: v for k, v in request.body.items() if k != "messages"} == {
        "model": "lab/m-1",
        "temperature": 0.0,
        "max_tokens": 16,
    }
    assert re.match(
        r"question \d about \{response_b\}\|", request.body["messages"][0]["content"]
    )  # texts stay as they are


def test_a_question_that_was_asked_is_answered_from_the_store(files: OracleFiles) -> None:
    with serve(honest) as service:
        first = judge(service)(queries(), files)
        again = judge(service)([replace(q, seed=s) for q in queries() for s in (0, 1)], files)
        assert len(service.requests) == 10
    assert again.label.tolist() == [label for label in TRUTH for _ in range(2)]
    store = judge(service).store(files.annotations)
    assert store.path.name == "judge-lab-m-1.jsonl"
    assert {(a.source, a.annotator, a.shown) for a in store.annotations()} == {
        ("judge", "lab/m-1 (ab)", "ab"),
        ("judge", "lab/m-1 (ba)", "ba"),
    }
    assert {a.id for some in first.annotations for a in some} == {a.id for a in store.annotations()}
    assert all(a.at and a.note in "AB" for a in store.annotations())


def test_without_a_service_or_a_key_what_was_answered_is_still_there(
    files: OracleFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(honest) as service:
        labels(service, files)
    monkeypatch.delenv("BGPM_TEST_KEY")
    assert labels(service, files) == TRUTH
    with pytest.raises(ConfigError, match="the environment variable BGPM_TEST_KEY is not set, and 10 questions"):
        labels(service, files, model="m-2")


@pytest.mark.parametrize("change", [{"model": "m-2"}, {"request": {"max_tokens": 1}}, {"template": "other.txt"}])
def test_another_model_request_or_template_is_another_question(files: OracleFiles, change: dict[str, Any]) -> None:
    (files.annotations / "other.txt").write_text("{prompt} Which?|{answer_a}|{answer_b}")
    with serve(honest) as service:
        labels(service, files)
        assert labels(service, files, **change) == TRUTH
        assert len(service.requests) == 20
        labels(service, files)
        assert len(service.requests) == 20


def test_a_pool_shuffled_anew_asks_nothing_and_turns_the_labels(files: OracleFiles, tmp_path: Path) -> None:
    with serve(honest) as service:
        labels(service, files)
        turned = judge(service)(queries("down"), write_pool(tmp_path, swap=True))
        assert len(service.requests) == 10
    assert turned.label.tolist() == [1 - label for label in TRUTH]
    assert [a.shown for a in turned.annotations[0]] == ["ab", "ba"]


def test_a_judge_that_looks_at_the_place_only_is_found_out(
    files: OracleFiles, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bgpm")
    with serve(lambda *_: completion("A")) as service:
        assert labels(service, files) == [0.5] * 5
        assert labels(service, files, disagreement="tie") == [0.5] * 5
    assert "5 of 5 pairs have a label, position bias 100% (first 100%, second 0%), 0 abstentions" in caplog.text


@pytest.mark.parametrize(
    ("ab", "ba", "average", "tie"),
    [
        (1.0, 1.0, 1.0, 1.0),
        (0.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 0.5, 0.5),
        (0.9, 0.7, 0.8, 0.8),
        (0.9, 0.2, 0.55, 0.5),
        (1.0, 0.5, 0.75, 0.5),
        (None, 1.0, math.nan, math.nan),
        (0.0, None, math.nan, math.nan),
    ],
)
def test_two_orders_become_one_label(ab: float | None, ba: float | None, average: float, tie: float) -> None:
    from bgpm.annotations.store import Annotation

    one, other = Annotation("p", ab, "m (ab)", ""), Annotation("p", ba, "m (ba)", "", shown="ba")
    np.testing.assert_allclose(reconcile(one, other, "average"), average)
    np.testing.assert_allclose(reconcile(one, other, "tie"), tie)


def test_position_bias_counts_pairs_that_the_place_decided_both_times() -> None:
    from bgpm.annotations.store import Annotation

    pairs = [(1, 0), (1, 0), (0, 1), (1, 1), (0.5, 0), (None, 0)]
    annotations = [(Annotation("p", a, "m", ""), Annotation("p", b, "m", "")) for a, b in pairs]
    assert position_bias(annotations) == (0.4, 0.2)
    assert all(math.isnan(share) for share in position_bias(annotations[-1:]))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A", 1.0), (" b\n", 0.0), ("T", 0.5), ('{"better": "A"}', 1.0), ('{"better": "tie", "why": "x"}', 0.5),
        ('{"probability_a": 0.25}', 0.25), ('{"probability_a": 1}', 1.0),
        ("", None), ("A.", 1.0), ("AB", None), ("Answer A", None), ("C", None), ("1", None), ('"A"', 1.0),
        ("**A**", 1.0), ("(A)", 1.0), ("[[A]]", 1.0), ("\u201cB\u201d", 0.0), ("Answer: A", 1.0),
        ("**Answer:** B.", 0.0),
        ("**Final answer: A**", 1.0), ("The verdict is: [[B]]", 0.0), ("Tie.", 0.5), ("\\boxed{A}", 1.0), ("`B`", 0.0),
        ('```json\n{"better": "B"}\n```', 0.0), ('```\n{"probability_a": 0.25}\n```', 0.25), ("```\nA\n```", 1.0),
        ("<think>B? No, A.</think>\n\n**A**", 1.0), ("so B.</think> Answer: A", 1.0),
        ('<think>x</think> ```json\n{"better": "tie"}\n```', 0.5), ("<think>a</think><think>b</think>B", 0.0),
        ("<think>A", None), ("<think>A</think><think>B", None), ("A <think>B</think>", None),
        ("<think>A</think>", None), ("<reasoning>B</reasoning>A", 1.0), ("<thought>A", None),
        ("<answer>A</answer>", 1.0), ("<b>B</b>.", None), ('<answer>{"better": "B"}</answer>', 0.0),
        ("<answer>A</answer><answer>B</answer>", None), ("Preference: B", 0.0), ("A\u3002", 1.0),
        ("A is worse than B", None), ("A is better", None), ("A B", None), ("A, not B", None), ("A\nB", None),
        ("Answer: A or B", None), ("not A", None), ("Answer: A. Answer: B.", None), ("**A** because it is right", None),
        ("[A][B]", None), ("A" + " " * 2000, 1.0), ("Answer: " + "A" * 2000, None), ("<" * 5000 + "A", None),
        ("[1]", None), ('{"better": "C"}', None), ('{"better": 1}', None), ('{"better": null}', None), ("{}", None),
        ('{"probability_a": 1.5}', None), ('{"probability_a": true}', None), ('{"probability_a": NaN}', None),
        ('{"probability_a": "0.5"}', None), ('{"better": "A", "probability_a": 0.1}', None), ('{"better": "A"', None),
    ],
)  # fmt: skip
def test_a_reply_is_what_was_asked_for_or_nothing(text: str, label: float | None) -> None:
    assert read_reply(Reply(text, False, None, None), soft=False) == label
    assert read_reply(Reply(text, True, None, None), soft=False) is None  # cut off at the limit of tokens


def test_probabilities_of_the_letters_become_a_soft_label(files: OracleFiles) -> None:
    def unsure(_: int, request: Request) -> Response:
        assert (request.body["logprobs"], request.body["top_logprobs"]) == (True, 5)
        if better(request) == "A":
            return completion("A", **logprobs("A", A=0.5, _a=0.1, B=0.1, T=0.1, The=0.2))
        return completion("B", **logprobs("B", B=0.8, A=0.1))

    with serve(unsure) as service:
        found = labels(service, files, logprobs=5)
    of_better = ((0.6 + 0.1 / 2) / 0.8 + 1 - 0.1 / 0.9) / 2  # shown first, shown second
    np.testing.assert_allclose(found, [of_better if truth else 1 - of_better for truth in TRUTH])


def test_a_service_without_log_probabilities_is_told_from_a_bad_reply(files: OracleFiles) -> None:
    with (
        serve(honest) as service,
        pytest.raises(ConfigError, match=r"oracles\.judge\.logprobs: lab/m-1 at .* gives no"),
    ):
        labels(service, files, logprobs=5, concurrency=1)
    assert len(service.requests) == 1


def test_an_unreadable_reply_is_asked_for_again_and_then_the_judge_abstains(files: OracleFiles) -> None:
    def stubborn(_: int, request: Request) -> Response:
        return completion("Well, it depends." if "answer 3" in request.shown else better(request))

    with serve(stubborn) as service:
        verdicts = judge(service, price_input=10.0)(queries(), files)
        assert len(service.requests) == 8 + 2 * 2
        np.testing.assert_array_equal(verdicts.label, [np.nan, *TRUTH[1:]])
        assert verdicts.annotators.tolist() == [0, 2, 2, 2, 2]
        np.testing.assert_allclose(verdicts.cost, np.array([4, 2, 2, 2, 2]) * 1e-3)
        judge(service)(queries(), files)
        assert len(service.requests) == 12  # an abstention is an answer
        service.behave = honest
        assert labels(service, files, attempts=3) == TRUTH
        assert len(service.requests) == 14


def test_one_bad_reply_is_mended_by_the_next(files: OracleFiles) -> None:
    seen: set[tuple[str, str]] = set()

    def once(_: int, request: Request) -> Response:
        fresh = request.shown not in seen
        seen.add(request.shown)
        return completion(None if fresh else better(request))

    with serve(once) as service:
        verdicts = judge(service, price_input=10.0)(queries(), files)
    assert verdicts.label.tolist() == TRUTH
    assert verdicts.annotators.tolist() == [2] * 5
    np.testing.assert_allclose(verdicts.cost, 4e-3)  # both replies were paid for


TROUBLE = {
    "busy": Response(429, b'{"error": {"message": "slow down"}}', {"retry-after": "0"}),
    "broken": Response(500, b"<html>oops</html>"),
    "bad gateway": Response(502),
    "hanging": Response(delay=3.0),
    "cut off": Response(body=completion("A").body, cut=True),
    "not JSON": Response(body=b'{"choices": [{"mess'),
    "another shape": Response(body=b'{"choices": []}'),
    "not an object": Response(body=b"[]"),
    "in parts": Response(body=b'{"choices": [{"message": {"content": [{"type": "text", "text": "A"}]}}]}'),
    "paid to answer": completion("A", (-5, 1)),
    "surer than sure": completion("A", **logprobs("A", A=2.0)),
    "waiting for nothing": Response(429, headers={"retry-after": "nan"}),
    "a body a byte at a time": Response(body=completion("A").body, drip="body"),
    "all of it a byte at a time": Response(body=completion("A").body, drip="all"),
    "longer than any reply": Response(body=completion("A").body + b" " * 200_000),
    "a date in no zone": Response(429, headers={"retry-after": f"Mon, 01 Jan 2024 00:00:00 +{'9' * 20}"}),
    "a date before all zones": Response(429, headers={"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}),
    "nested without end": Response(body=b"[" * 100_000),
    "more tokens than there are": Response(body=completion("A").body.replace(b"100", b"1e999")),
    "in an encoding that it is not": Response(body=completion("A").body, headers={"content-encoding": "gzip"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE.keys())
def test_a_service_in_trouble_is_asked_again(files: OracleFiles, trouble: Response) -> None:
    bad = {1, 2, 5}
    with serve(lambda n, request: trouble if n in bad else honest(n, request)) as service:
        timeout = 1.0 if trouble.delay or trouble.drip else 30.0  # honest requests need some of it too
        assert labels(service, files, timeout=timeout, concurrency=1, max_reply_bytes=100_000) == TRUTH
    assert len(service.requests) == 10 + len(bad)


def test_a_reply_is_read_no_further_than_its_limit(files: OracleFiles) -> None:
    # 200 MB unpacked, and as much again as text
    packer = zlib.compressobj(wbits=31)  # gzip
    packed = b"".join([*(packer.compress(b" " * 10**6) for _ in range(200)), packer.flush()])
    bomb = Response(body=packed, headers={"content-encoding": "gzip"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        serve(lambda *_: bomb) as service,
        pytest.raises(LabelsPendingError, match=r"a reply of more than 1000000 bytes \(oracles\.judge\.max_reply"),
    ):
        labels(service, files, retries=0, concurrency=1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 120 * 1024  # KiB


def test_what_a_service_says_of_itself_does_not_command_the_terminal(files: OracleFiles) -> None:
    rude = Response(400, json.dumps({"error": {"message": "\x1b[2J\x1b]0;x\x07 gone\u202e\x9b31m"}}).encode())
    with serve(lambda *_: rude) as service, pytest.raises(LabelsPendingError) as caught:
        labels(service, files)
    assert r"\x1b[2J\x1b]0;x\x07 gone\u202e\x9b31m" in str(caught.value)
    assert not set("\x1b\x07\u202e\x9b") & set(str(caught.value))


@pytest.mark.parametrize("concurrency", [1, 16])
def test_a_run_stops_when_none_of_its_first_five_replies_can_be_read(files: OracleFiles, concurrency: int) -> None:
    prose = "\x1b[31mBoth have merits: " + "on the one hand, " * 100
    with serve(lambda *_: completion(prose)) as service:
        with pytest.raises(ConfigError) as caught:
            labels(service, files, concurrency=concurrency)
        assert len(service.requests) == 5
    message = str(caught.value)
    assert r"none of the first 5 replies of lab/m-1 can be read, the last is '\\x1b[31mBoth have merits" in message
    assert "expected one letter (A, B, or T for a tie), or a JSON object" in message
    assert "\x1b" not in message
    assert len(message) < 800


def test_one_readable_reply_among_the_first_five_lets_the_run_go_on(files: OracleFiles) -> None:
    def reply(n: int, request: Request) -> Response:
        return honest(n, request) if "question 0 about" in json.dumps(request.body) else completion("Well.")

    with serve(reply) as service:
        found = labels(service, files, concurrency=16)
    assert len(service.requests) == 2 + 4 * 2 * 2  # what cannot be read is asked for once more
    assert found[0] == TRUTH[0]
    assert np.isnan(found[1:]).all()


def test_places_of_the_old_names_ask_nothing_anew(files: OracleFiles) -> None:
    (files.annotations / "old.txt").write_text("{prompt}|{answer_a}|{answer_b}")
    with serve(honest) as service:
        assert labels(service, files, template="old.txt") == labels(service, files) == TRUTH
        assert len(service.requests) == 10


def test_a_service_that_stays_in_trouble_ends_the_run_with_its_own_words(files: OracleFiles) -> None:
    def down_after_four(n: int, request: Request) -> Response:
        return honest(n, request) if n <= 4 else Response(503, b'{"error": "overloaded"}')

    with serve(down_after_four) as service:
        with pytest.raises(LabelsPendingError) as caught:
            labels(service, files, retries=2, concurrency=1)
        assert re.search(
            r"no reply after 3 tries; the last: status 503: overloaded; .* `dvc repro` again", str(caught.value)
        )
        assert len(service.requests) == 4 + 3
        service.behave = honest
        assert labels(service, files) == TRUTH
        assert len(service.requests) == 4 + 3 + 6


def test_nobody_there_is_said_so(files: OracleFiles) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        service = Service(honest)
        service.url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"  # bound, so nobody else's, and not listening
        with pytest.raises(LabelsPendingError, match="no reply after 2 tries; the last: ConnectError"):
            labels(service, files, retries=1)


def test_a_service_that_names_its_wait_is_given_it(files: OracleFiles) -> None:
    wait = Response(429, headers={"retry-after": "0.5"})
    with serve(lambda n, request: wait if n == 3 else honest(n, request)) as service:
        assert labels(service, files, concurrency=1) == TRUTH
    times = [request.at for request in service.requests]
    assert times[3] - times[2] >= 0.5
    date = Response(429, headers={"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"})
    with serve(lambda *_: date) as service:
        with pytest.raises(LabelsPendingError, match=r"the service asks for a wait of \d{9,} s"):
            labels(service, files, model="m-2", concurrency=1)
        assert len(service.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_wrong_key_address_or_model_ends_the_run_at_once_and_the_key_is_nowhere(
    files: OracleFiles, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    caplog.set_level(logging.DEBUG)
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    with serve(lambda *_: Response(status, body)) as service:
        with pytest.raises(ConfigError) as caught:
            labels(service, files, concurrency=1)
        assert len(service.requests) == 1
        assert f"status {status}: Incorrect API key provided: ***; look at base_url, model and api_key_env" in str(
            caught.value
        )
        service.behave = lambda *_: completion(f"you sent {KEY}")
        with pytest.raises(ConfigError, match=r"the last is 'you sent \*\*\*'"):
            labels(service, files)
    assert service.requests[0].headers["authorization"] == f"Bearer {KEY}"
    written = "".join(p.read_text() for p in files.annotations.iterdir())
    assert "you sent ***" in written
    out = capfd.readouterr()
    for text in (str(caught.value), repr(caught.value), caplog.text, written, out.out, out.err):
        assert KEY not in text


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_the_line_end_of_a_file_is_no_part_of_the_key(
    files: OracleFiles, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("BGPM_TEST_KEY", KEY + end)
    with serve(honest) as service:
        assert labels(service, files) == TRUTH
    assert {request.headers["authorization"] for request in service.requests} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("wrong", [f"{KEY}\nX-Other: 1", f"{KEY}\u00e9", f"{KEY} {KEY}", f"{KEY}\x7f"])
def test_what_no_key_can_hold_is_refused_before_any_request_and_not_repeated(
    files: OracleFiles, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.setenv("BGPM_TEST_KEY", wrong)
    with serve(honest) as service:
        for attempt in (lambda: judge(service).check(files.annotations), lambda: labels(service, files)):
            with pytest.raises(ConfigError, match="the environment variable BGPM_TEST_KEY holds what no key") as caught:
                attempt()
            assert KEY not in repr(caught.value)
        assert service.requests == []


def test_half_a_character_in_a_reply_does_not_lose_it(files: OracleFiles) -> None:
    with serve(lambda *_: completion("A\ud800")) as service:
        service.behave = lambda n, request: honest(n, request) if n == 1 else completion("A\ud800")
        assert np.isnan(labels(service, files)).sum() >= 4
    assert r"A\ud800" in {a.note for a in judge(service).store(files.annotations).history()}


def test_a_refused_question_stops_the_run_or_counts_as_an_abstention(files: OracleFiles) -> None:
    def filtering(n: int, request: Request) -> Response:
        refused = Response(400, b'{"error": {"message": "content filter"}}')
        return refused if "answer 5" in request.shown else honest(n, request)

    with serve(filtering) as service:
        with pytest.raises(LabelsPendingError, match=r"pair '1:up' was refused: status 400: content filter; .*refusal"):
            labels(service, files, concurrency=1)
        np.testing.assert_array_equal(labels(service, files, refusal="abstain"), [1, np.nan, 1, 1, 1])
        asked = len(service.requests)
        refused = sum("answer 5" in request.shown for request in service.requests)
        assert refused == 1 + 2  # by the run that stopped, and once in each order
        labels(service, files, refusal="abstain")
        assert len(service.requests) == asked


def test_no_more_requests_are_made_than_allowed_and_none_is_repeated(files: OracleFiles) -> None:
    with serve(honest) as service:
        with pytest.raises(
            LabelsPendingError, match=r"max_requests: 7 requests of at most 7 are made; .*is kept in .*jsonl"
        ):
            labels(service, files, max_requests=7)
        assert len(service.requests) == 7
        with pytest.raises(LabelsPendingError, match="max_requests: 7 requests"):
            labels(service, files, max_requests=7)  # the limit is for all runs together
        assert len(service.requests) == 7
        assert labels(service, files, max_requests=10) == TRUTH
    assert len(set(service.keys())) == len(service.keys()) == 10


@pytest.mark.parametrize("usage", [(100, 1), None])
def test_no_more_money_is_spent_than_allowed(files: OracleFiles, usage: tuple[int, int] | None) -> None:
    prices = {"price_input": 10.0, "price_output": 30.0}
    with serve(lambda n, request: completion(better(request), usage)) as service:
        with pytest.raises(LabelsPendingError, match=r"max_cost: [\d.]+ of at most 0\.006 are spent, "):
            labels(service, files, max_cost=0.006, **prices)
        asked = len(service.requests)
        spent = sum(a.cost for a in judge(service).store(files.annotations).history())
        assert 0 < asked < 10
        assert 0.001 < spent <= 0.006
        assert labels(service, files, max_cost=1.0, **prices) == TRUTH
    assert len(service.requests) == 10
    notes = {a.note for a in judge(service).store(files.annotations).history()}
    assert notes == ({"A", "B"} if usage else {"(cost at most) A", "(cost at most) B"})


LOST = {
    "hanging": Response(delay=2.0),
    "cut off": Response(body=completion("A").body, cut=True),
    "unreadable": Response(body=b"<html>"),
    "a gateway's": Response(504),
    "another gateway's": Response(524),
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST.keys())
def test_a_request_without_a_reply_counts_as_the_most_it_may_have_cost_in_every_run(
    files: OracleFiles, lost: Response
) -> None:
    settings: dict[str, Any] = {"price_output": 1e6, "request": {"max_tokens": 1}, "concurrency": 1}
    slow = {"timeout": 0.5} if lost.delay else {}
    with serve(lambda *_: lost) as service:
        for _ in range(3):
            with pytest.raises(LabelsPendingError, match=r"max_cost: 3 of at most 3\.5 are spent"):
                labels(service, files, max_cost=3.5, **slow, **settings)
        assert len(service.requests) == 3
        store = judge(service).store(files.annotations)
        assert [a.cost for a in store.history(retracted=True)] == [1.0] * 3
        assert store.history() == []  # no answer, and no attempt at one
        with pytest.raises(LabelsPendingError, match="max_requests: 3 requests of at most 3 are made"):
            labels(service, files, max_requests=3, **settings)
        service.behave = honest
        assert labels(service, files, max_cost=13.0, **settings) == TRUTH
    assert len(service.requests) == 13


@pytest.mark.parametrize("refused", [Response(429, headers={"retry-after": "0"}), Response(503)])
def test_a_request_that_was_turned_away_costs_nothing(files: OracleFiles, refused: Response) -> None:
    settings: dict[str, Any] = {"price_output": 1e6, "request": {"max_tokens": 1}, "max_cost": 10.0}
    bad = {1, 2, 5}
    with serve(lambda n, request: refused if n in bad else honest(n, request)) as service:
        assert labels(service, files, concurrency=1, **settings) == TRUTH
        assert sum(a.cost for a in judge(service).store(files.annotations).history(retracted=True)) == 10.0


def test_a_run_killed_in_the_middle_repeats_no_request_that_was_answered(files: OracleFiles, tmp_path: Path) -> None:
    hold, reached = threading.Event(), threading.Event()

    def stall(n: int, request: Request) -> Response:
        if n == 6:
            reached.set()
            hold.wait(300)
        return honest(n, request)

    code = (
        "import sys\nfrom pathlib import Path\n"
        "from bgpm.oracles import OracleFiles, Query\nfrom bgpm.oracles.judge import Judge\n"
        "root = Path(sys.argv[1])\n"
        "files = OracleFiles(root / 'truth', root / 'annotations', root / 'batch.parquet', root / 'pool')\n"
        "oracle = Judge(base_url=sys.argv[2], model='lab/m-1', api_key_env='BGPM_TEST_KEY', concurrency=1)\n"
        "oracle([Query(f'{k}:up', 0) for k in range(5)], files)\n"
    )
    with serve(stall) as service:
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), service.url]) as process:
            assert reached.wait(300)
            process.kill()
        assert process.returncode == -9
        hold.set()
        assert labels(service, files) == TRUTH
        assert len(service.requests) == 11  # the one under way had no reply yet
        assert len(set(service.keys()[:5]) | set(service.keys()[6:])) == 10


def test_requests_go_side_by_side_up_to_the_limit_and_no_faster_than_allowed(files: OracleFiles) -> None:
    gate = threading.Barrier(3)

    def together(n: int, request: Request) -> Response:
        if n <= 9:
            gate.wait(10)  # passes only where three are under way
        return honest(n, request)

    with serve(together) as service:
        assert labels(service, files, concurrency=3) == TRUTH
        assert max(request.others for request in service.requests) == 2
    with serve(honest) as service:
        began = time.monotonic()
        labels(service, files, model="m-2", concurrency=8, requests_per_minute=1200)
    assert len(service.requests) == 10
    assert time.monotonic() - began >= 9 * 0.05


def test_an_answer_taken_back_is_asked_for_again(files: OracleFiles) -> None:
    with serve(honest) as service:
        labels(service, files)
        store = judge(service).store(files.annotations)
        wrong = store.annotations()[0]
        store.undo(wrong.id, wrong.annotator)
        assert labels(service, files) == TRUTH
        assert len(service.requests) == 11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "oracles.judge.model: missing; name a model"),
        ({"base_url": "localhost:8000"}, "oracles.judge.base_url: expected http(s)://HOST/v1"),
        ({"base_url": f"https://me:{KEY}@host/v1"}, "oracles.judge.base_url: expected http(s)://HOST/v1"),
        ({"api_key_env": KEY}, "oracles.judge.api_key_env: expected the NAME of an environment variable"),
        ({"request": {"stream": True, "n": 2}}, "oracles.judge.request: n, stream cannot be set there"),
        ({"max_cost": 1.0}, "oracles.judge.max_cost: needs price_input, price_output and max_tokens"),
        ({"max_cost": 1.0, "price_input": 1.0, "request": {}}, "oracles.judge.max_cost: needs"),
        ({"request": {"temperature": math.inf}}, "oracles.judge.request: Out of range float values"),
        ({"template": "absent.txt"}, "absent.txt: cannot be read"),
        ({"template": "half.txt"}, "half.txt: the template lacks {response_b}, which stand for the texts"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_request(
    files: OracleFiles, change: dict[str, Any], message: str
) -> None:
    (files.annotations / "half.txt").write_text("{prompt} {response_a}")
    with serve(honest) as service:
        oracle = judge(service, **change)
        with pytest.raises(ConfigError, match=re.escape(message)) as caught:
            oracle.check(files.annotations)
        with pytest.raises(ConfigError, match=re.escape(message)):
            oracle(queries(), files)
        assert service.requests == []
    assert KEY not in str(caught.value)


def test_the_shipped_template_and_settings_are_usable(files: OracleFiles) -> None:
    root = Path(__file__).resolve().parents[2]
    Judge(model="m").check(root / "data/annotations")
    assert Judge().paid
    assert not Judge().allow_many


def test_no_questions_no_requests(files: OracleFiles, tmp_path: Path) -> None:
    write_table(tmp_path / "batch.parquet", {"pair": np.zeros(0, np.int64)})
    with serve(honest) as service:
        verdicts = judge(service)([], files)
    assert len(verdicts.label) == len(verdicts.annotators) == len(service.requests) == 0
