"""A language model as the annotator, behind any OpenAI-compatible chat endpoint."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import threading
import uuid
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from tqdm import tqdm

from bgpm.annotations.store import Annotation, LabelStore, Shown, now
from bgpm.annotations.texts import batch_texts as texts_of
from bgpm.errors import ConfigError, LabelsPendingError
from bgpm.oracles import Oracle, OracleFiles, Query, Verdicts
from bgpm.oracles._chat import Chat, RefusedError, Reply, StoppedError
from bgpm.oracles._orders import position_bias
from bgpm.oracles._replies import EXPECTED, read_reply

log = logging.getLogger("bgpm")

FIELDS = ("prompt", "response_a", "response_b")
FIRST = 5  # replies of which one must be readable before more are asked for
REFUSAL = "refused: "  # how the note of a refused question begins
OVERHEAD = 64  # tokens that a chat template may add to a message, generously


class Judge(Oracle):
    """Labels from a language model that is asked about each pair in both orders.

    The model must reply with one letter (A, B, T for a tie) or one JSON object with ``better`` ("A", "B" or "tie") or
    ``probability_a`` (a number in [0, 1]); bold, brackets, quotes, ``Answer:`` and thoughts before it do no harm (see
    `bgpm.oracles._replies`). Any other reply is asked for again, and then the judge abstains. Where one of the two
    orders has no answer the pair has no label. Where none of the first replies of a run can be read the run stops.

    Every reply is paid once: it is appended to ``data/annotations/judge-MODEL.jsonl`` before the next request, under a
    hash of model, request, template and texts, and a later run takes it from there. That file is tracked by git and is
    no DVC dependency. To ask a question again, take its answers back (`LabelStore.undo`) and force the stage.

    Attributes:
        base_url: Of the service, up to and including ``/v1``.
        model: The model's name there.
        api_key_env: Environment variable that holds the key; null for a service that wants none.
        template: File in ``data/annotations`` with the message, in which {prompt}, {response_a} and {response_b} stand
            for the texts ({answer_a} and {answer_b} are read too).
        request: Further fields of the request body, as they are.
        logprobs: Ask for the log-probabilities of so many tokens, and take for the label the probability of A among
            the letters; 0 for the letter itself.
        disagreement: What the label is where the two orders favour different answers: the average of both, or a tie.
        refusal: What to do when the service refuses a request (too long, filtered): stop, or take it for an
            abstention.
        attempts: Replies asked for to get one that can be parsed; then the judge abstains.
        retries, backoff, timeout: See `bgpm.oracles._chat.Chat`.
        max_reply_bytes: A reply that is longer, unpacked, is not read to its end and counts as none.
        concurrency: Requests under way at a time.
        requests_per_minute: At most; null for no limit.
        max_requests: Requests at most: those of this run, and of earlier ones those that had a reply or may have been
            paid for; null for no limit.
        max_cost: What this model may cost in all runs, at most; null for no limit. A request that was sent and brought
            no reply counts as the most it may have cost; only what was under way when a run was killed is not known.
        price_input, price_output: Of a million tokens; ``max_cost`` and the report's costs are in the same currency.
        allow_many: Let several seeds or two arms ask, each for its own batch.
    """

    kind: Literal["judge"] = "judge"
    base_url: str = "http://localhost:8000/v1"
    model: str | None = None
    api_key_env: str | None = None
    template: str = "judge.txt"
    request: dict[str, Any] = Field(default_factory=lambda: {"temperature": 0.0, "max_tokens": 16})
    logprobs: int = Field(default=0, ge=0, le=20)
    disagreement: Literal["average", "tie"] = "average"
    refusal: Literal["stop", "abstain"] = "stop"
    attempts: int = Field(default=2, ge=1)
    retries: int = Field(default=5, ge=0)
    backoff: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    max_reply_bytes: int = Field(default=1_000_000, ge=10_000)
    concurrency: int = Field(default=4, ge=1, le=256)
    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_requests: int | None = Field(default=2000, ge=1)
    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    price_input: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    price_output: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    allow_many: bool = False
    paid: ClassVar[bool] = True
    by_language_model: ClassVar[bool] = True

    @property
    def _longest_reply(self) -> Any:
        return self.request.get("max_completion_tokens", self.request.get("max_tokens"))

    def check(self, annotations: Path) -> None:
        """See `Oracle`. Values that may hold a secret are not repeated in messages."""
        if not self.model:
            raise ConfigError("params.yaml: oracles.judge.model: missing; name a model that base_url serves")
        if not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", self.base_url):
            raise ConfigError(
                "params.yaml: oracles.judge.base_url: expected http(s)://HOST/v1 without user name, query or fragment"
            )
        if self.api_key_env is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ConfigError(
                "params.yaml: oracles.judge.api_key_env: expected the NAME of an environment variable, in capitals, "
                "never the key itself"
            )
        ours = {"model", "messages", "logprobs", "top_logprobs", "stream", "n"} & self.request.keys()
        if ours:
            raise ConfigError(f"params.yaml: oracles.judge.request: {', '.join(sorted(ours))} cannot be set there")
        try:
            json.dumps(self.request, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"params.yaml: oracles.judge.request: {error}; expected what JSON can hold") from None
        longest = self._longest_reply
        if self.max_cost is not None and (
            self.price_input + self.price_output == 0 or not isinstance(longest, int) or longest < 1
        ):
            raise ConfigError(
                "params.yaml: oracles.judge.max_cost: needs price_input, price_output and max_tokens (or "
                "max_completion_tokens) in request, to know what a question may cost at most"
            )
        self._template(annotations)
        if self.api_key_env and not self._key():
            log.warning("%s is not set: questions that were not asked before will fail", self.api_key_env)

    def _key(self) -> str | None:
        """The key, without the line end that a file may have left; None where it is not set."""
        key = os.environ.get(self.api_key_env or "", "").strip()
        if not re.fullmatch("[!-~]*", key):  # a header cannot carry it, and an error would print it
            raise ConfigError(
                f"params.yaml: oracles.judge.api_key_env: the environment variable {self.api_key_env} holds what no "
                "key can hold (blanks, line ends or characters beyond ASCII); set it to the key alone"
            )
        return key or None

    def store(self, annotations: Path) -> LabelStore:
        """Where this model's replies are kept."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model or "")
        return LabelStore(annotations / f"judge-{name}.jsonl")

    def __call__(self, queries: Sequence[Query], files: OracleFiles) -> Verdicts:
        """See `Oracle`."""
        self.check(files.annotations)
        template = self._template(files.annotations)
        asks: dict[str, tuple[_Ask, _Ask]] = {}
        for text in texts_of(files.batch, files.pool):
            one, other = (self._ask(text, shown, template) for shown in ("ab", "ba"))
            asks[text["pair_id"]] = one, other
        wanted = [ask for pair_id in dict.fromkeys(q.pair_id for q in queries) for ask in asks[pair_id]]
        store = self.store(files.annotations)
        told = _Told(store)
        still_open = [ask for ask in wanted if not told.settles(ask, self.attempts)]
        if still_open:
            with store.writer():
                self._ask_all(still_open, store)
            told = _Told(store)
        by_pair = {
            ask.pair_id: (told.word(ask), told.word(other)) for ask, other in zip(*[iter(wanted)] * 2, strict=True)
        }
        if by_pair:
            log.info("judge %s: %s", self.model, summary(by_pair.values(), self.disagreement))
        annotations = tuple(by_pair[q.pair_id] for q in queries)
        label = np.array([reconcile(*some, self.disagreement) for some in annotations], np.float64)
        return Verdicts(label, np.full(len(label), np.nan), annotations)

    def _template(self, annotations: Path) -> str:
        path = annotations / self.template
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"params.yaml: oracles.judge.template: {path}: cannot be read ({error}); name a text file there"
            ) from None
        text = text.replace("{answer_a}", "{response_a}").replace("{answer_b}", "{response_b}")
        missing = [f"{{{name}}}" for name in FIELDS if f"{{{name}}}" not in text]
        if missing:
            raise ConfigError(f"{path}: the template lacks {', '.join(missing)}, which stand for the texts")
        return text

    def _ask(self, text: Mapping[str, str], shown: Shown, template: str) -> _Ask:
        a, b = ("response_a", "response_b") if shown == "ab" else ("response_b", "response_a")
        texts = {"prompt": text["prompt"], "response_a": text[a], "response_b": text[b]}
        # one pass, so that a text which speaks of {response_b} is left alone
        message = re.sub("{(" + "|".join(FIELDS) + ")}", lambda match: texts[match[1]], template)
        body = {"model": self.model, "messages": [{"role": "user", "content": message}], **self.request}
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": self.logprobs}
        # Under the names that the places had first, so that a template which only renames them asks nothing anew.
        words = template.replace("{response_", "{answer_")
        known = json.dumps([self.model, self.request, self.logprobs, words, *texts.values()], sort_keys=True)
        return _Ask(text["pair_id"], shown, body, hashlib.sha256(known.encode()).hexdigest()[:32])

    def _ask_all(self, asks: Sequence[_Ask], store: LabelStore) -> None:
        """Put every question to the model, several at a time; each reply is on disk before its thread goes on.

        Raises:
            LabelsPendingError: If the service fails for long or the budget is spent; what was answered is kept.
            ConfigError: If the key is missing or the service does not know us.
        """
        key = self._key()
        if self.api_key_env and not key:
            raise ConfigError(
                f"params.yaml: oracles.judge.api_key_env: the environment variable {self.api_key_env} is not set, and "
                f"{len(asks)} questions were not asked before"
            )
        told, budget = _Told(store), _Budget(self, store)
        asks = [ask for ask in {ask.key: ask for ask in asks}.values() if not told.settles(ask, self.attempts)]
        stop = threading.Event()
        chat = Chat(
            self.base_url,
            key,
            timeout=self.timeout,
            retries=self.retries,
            backoff=self.backoff,
            per_minute=self.requests_per_minute,
            longest=self.max_reply_bytes,
            stop=stop,
        )
        first = _FirstReplies(self, stop)
        bar = tqdm(total=len(asks), desc=f"judge {self.model}", unit="question", disable=None)
        with closing(chat), bar, ThreadPoolExecutor(self.concurrency) as pool:

            def settle(ask: _Ask) -> None:
                try:
                    self._settle(ask, told.tries(ask), chat, budget, store, first)
                except BaseException:
                    stop.set()  # before this thread takes the next question
                    raise
                bar.update()

            futures = [pool.submit(settle, ask) for ask in asks]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:  # Ctrl-C too: requests under way end, and their replies are kept
                stop.set()
                pool.shutdown(cancel_futures=True)
        errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
            raise error

    def _settle(
        self, ask: _Ask, tries: int, chat: Chat, budget: _Budget, store: LabelStore, first: _FirstReplies
    ) -> None:
        """Ask until a reply can be parsed, at most ``attempts`` times; a question that is refused, once."""
        size = len(json.dumps(ask.body, ensure_ascii=False).encode())  # no tokeniser makes more tokens than bytes
        at_most = self._price(OVERHEAD + size, self._longest_reply or 0)

        def failed(why: str, may_be_paid: bool) -> None:
            if may_be_paid:  # kept as an answer that was taken back: it counts as paid, and as nothing else
                lost = replace(
                    self._annotation(ask, None, at_most, f"(cost at most) {why}"), id=f"lost-{uuid.uuid4().hex}"
                )
                store.append(lost)
                store.undo(lost.id, lost.annotator)
            budget.settle(at_most, at_most if may_be_paid else 0.0)
            first.failed()

        def before() -> None:
            first.wait()
            budget.reserve(at_most)

        label = None
        while label is None and tries < self.attempts:
            tries += 1
            try:
                reply = chat(ask.body, before, failed)
            except RefusedError as error:
                if self.refusal == "stop":
                    raise LabelsPendingError(
                        f"{chat.url}: pair {ask.pair_id!r} was refused: {error}; mend oracles.judge.request, or "
                        "set oracles.judge.refusal to abstain to go on without such pairs"
                    ) from None
                store.append(self._annotation(ask, None, 0.0, f"{REFUSAL}{error}"))
                return
            cost = self._price(*reply.usage) if reply.usage else at_most
            label = read_reply(reply, soft=self.logprobs > 0)
            note = chat.clean(reply.text)
            store.append(self._annotation(ask, label, cost, note if reply.usage else f"(cost at most) {note}"))
            budget.settle(at_most, cost)
            if self.logprobs and reply.tokens is None:
                raise ConfigError(
                    f"params.yaml: oracles.judge.logprobs: {self.model} at {self.base_url} gives no log-probabilities; "
                    "set it to 0"
                )
            first.heard(reply, note, readable=label is not None)

    def _price(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_input + tokens_out * self.price_output) / 1e6

    def _annotation(self, ask: _Ask, label: float | None, cost: float, note: str) -> Annotation:
        """What is kept of a reply. Each order has a name of its own, or the second would replace the first."""
        return Annotation(
            ask.pair_id,
            label if label is None or ask.shown == "ab" else 1.0 - label,
            f"{self.model} ({ask.shown})",
            now(),
            cost,
            source="judge",
            shown=ask.shown,
            note=note,
            id=f"{ask.key}-{uuid.uuid4().hex[:8]}",
        )


@dataclass(frozen=True)
class _Ask:
    """One pair in one order, as a request.

    Attributes:
        key: A hash of everything that decides the reply: model, request, template, texts and their order.
    """

    pair_id: str
    shown: Shown
    body: dict[str, Any]
    key: str


class _Told:
    """What a store holds, by question."""

    def __init__(self, store: LabelStore) -> None:
        self._annotations: dict[str, list[Annotation]] = {}
        for annotation in store.history():
            self._annotations.setdefault(annotation.id.partition("-")[0], []).append(annotation)

    def tries(self, ask: _Ask) -> int:
        """How many replies a question has had."""
        return len(self._annotations.get(ask.key, []))

    def settles(self, ask: _Ask, attempts: int) -> bool:
        """Whether a question has its label, was refused, or has as many replies as are paid for."""
        had = self._annotations.get(ask.key, [])
        return len(had) >= attempts or any(a.label is not None or a.note.startswith(REFUSAL) for a in had)

    def word(self, ask: _Ask) -> Annotation:
        """The label, or the last abstention, at the cost of every reply to the question.

        The same question may have been asked for a pair of other name and order, before the pool was shuffled anew.
        """
        annotations = self._annotations[ask.key]
        last = ([a for a in annotations if a.label is not None] or annotations)[-1]
        label = last.label if last.label is None or last.shown == ask.shown else 1.0 - last.label
        return replace(last, pair_id=ask.pair_id, shown=ask.shown, label=label, cost=sum(a.cost for a in annotations))


class _Budget:
    """Requests and cost that are left. Requests under way count at their maximum cost, so the limit is never passed."""

    def __init__(self, judge: Judge, store: LabelStore) -> None:
        paid = store.history(retracted=True)
        self.spent = sum(annotation.cost for annotation in paid)
        self._requests, self._under_way = len(paid), 0.0
        self._judge, self._path = judge, store.path
        self._lock = threading.Lock()

    def reserve(self, at_most: float) -> None:
        """Count a request and hold room for what it may cost, if there is any; `settle` gives the room back."""
        with self._lock:
            limit = self._judge.max_requests
            if limit is not None and self._requests >= limit:
                self._refuse("max_requests", f"{self._requests} requests of at most {limit} are made")
            limit = self._judge.max_cost
            if limit is not None and self.spent + self._under_way + at_most > limit:
                self._refuse(
                    "max_cost",
                    f"{self.spent:g} of at most {limit:g} are spent, {self._under_way:g} may be under way, and the "
                    f"next question may cost {at_most:g}",
                )
            self._requests += 1
            self._under_way += at_most

    def settle(self, at_most: float, cost: float) -> None:
        """Note what a request did cost in the place of what it might have."""
        with self._lock:
            self._under_way -= at_most
            self.spent += cost

    def _refuse(self, key: str, why: str) -> None:
        raise LabelsPendingError(
            f"params.yaml: oracles.judge.{key}: {why}; what was answered is kept in {self._path}: raise the limit and "
            "run `dvc repro` again"
        )


class _FirstReplies:
    """Allows only a few requests until one reply was readable, so that a model that replies in prose costs little."""

    def __init__(self, judge: Judge, stop: threading.Event) -> None:
        self._judge, self._stop = judge, stop
        self._change = threading.Condition()
        self._readable = False
        self._under_way = self._unreadable = 0

    def wait(self) -> None:
        """Hold a request back until it is one of the first or a reply was readable."""
        with self._change:
            while not self._readable and self._under_way + self._unreadable >= FIRST:
                if self._stop.is_set():
                    raise StoppedError("another request failed")
                self._change.wait(0.05)
            self._under_way += 1

    def failed(self) -> None:
        """A request brought no reply."""
        with self._change:
            self._under_way -= 1
            self._change.notify_all()

    def heard(self, reply: Reply, shown: str, *, readable: bool) -> None:
        """A reply came; ``shown`` is its beginning as it may be printed.

        Raises:
            ConfigError: If it is the last of the first ones and none of them could be read.
        """
        with self._change:
            self._under_way -= 1
            self._readable |= readable
            self._unreadable += not readable
            self._change.notify_all()
            if not self._readable and self._unreadable >= FIRST:
                cut = " (cut off at its limit of tokens)" if reply.cut else ""
                raise ConfigError(
                    f"params.yaml: oracles.judge: none of the first {FIRST} replies of {self._judge.model} can be "
                    f"read, the last is {shown!r}{cut}; expected {EXPECTED}; mend {self._judge.template} or "
                    "oracles.judge.request (max_tokens), then run `dvc repro` again"
                )


def reconcile(ab: Annotation, ba: Annotation, disagreement: Literal["average", "tie"]) -> float:
    """One label from both orders; NaN where either has none, since the position bias is then not known."""
    if ab.label is None or ba.label is None:
        return math.nan
    if disagreement == "tie" and np.sign(ab.label - 0.5) != np.sign(ba.label - 0.5):
        return 0.5
    return (ab.label + ba.label) / 2


def summary(pairs: Collection[tuple[Annotation, Annotation]], disagreement: Literal["average", "tie"]) -> str:
    """One line on a batch: labels, abstentions, position bias, cost."""
    none = sum(math.isnan(reconcile(ab, ba, disagreement)) for ab, ba in pairs)
    first, second = position_bias(pairs)
    place = (
        "" if math.isnan(first) else f", position bias {first + second:.0%} (first {first:.0%}, second {second:.0%})"
    )
    cost = sum(ab.cost + ba.cost for ab, ba in pairs)
    return f"{len(pairs) - none} of {len(pairs)} pairs have a label{place}, {none} abstentions, cost {cost:g}"
