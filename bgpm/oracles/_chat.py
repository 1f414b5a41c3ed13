"""Requests to an OpenAI-compatible chat endpoint. Failed requests are retried with exponential backoff.

https://platform.openai.com/docs/api-reference/chat. The key travels in one header and is taken out of every message.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from bgpm.errors import BgpmError, ConfigError, LabelsPendingError, visible

BUSY = (408, 409, 425, 429)  # try again later; so is every 5xx
REFUSED = (400, 413, 422)  # this request as it stands: too long, filtered, or a parameter the model does not know
# A gateway may say so of work that the model has done (520, 524: Cloudflare's); other failures cost nothing.
MAY_BE_PAID = (408, 500, 502, 504, 520, 524)
MOST_TOKENS = 10**9  # that one request can have
ENCODED = ("content-encoding", "content-length", "transfer-encoding")  # headers that speak of the packed body
LONGEST_QUOTE = 10_000  # characters that are looked at to quote a beginning
LONGEST_BACKOFF, LONGEST_WAIT = 60.0, 300.0  # seconds

T = TypeVar("T")


class RefusedError(BgpmError, ValueError):
    """The service understood the request and will not answer it; asking again is no use."""


class TooLongError(Exception):
    """A reply is longer than it may be."""


class StoppedError(BgpmError, RuntimeError):
    """Another thread failed and this one gave up waiting."""


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        text: The message.
        cut: Whether it was cut off at the limit of tokens.
        tokens: Each token of the message with the log-probabilities of the likeliest tokens in its place; None where
            the service gave none.
        usage: Tokens of request and reply; None where the service does not say.
    """

    text: str
    cut: bool
    tokens: tuple[tuple[str, Mapping[str, float]], ...] | None
    usage: tuple[int, int] | None


class Chat:
    """A client that threads share.

    Args:
        base_url: Up to and including ``/v1``.
        key: Sent as a bearer token; None for none.
        timeout: Seconds after which a request without a whole reply counts as failed.
        retries: Further tries of a request that failed for the service's sake.
        backoff: Seconds before the first further try; doubled each time, and shortened by up to a half at random.
        per_minute: At most so many requests a minute, evenly spaced; None for no limit.
        longest: Bytes of a reply, unpacked, after which it is not read on and counts as none.
        stop: Set it to end all waiting.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None,
        *,
        timeout: float,
        retries: int,
        backoff: float,
        per_minute: float | None,
        longest: int,
        stop: threading.Event,
    ) -> None:
        self.url = base_url.rstrip("/") + "/chat/completions"
        self._key = key
        self._retries, self._backoff, self._stop = retries, backoff, stop
        self._longest = longest
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._free_at = 0.0
        self._lock = threading.Lock()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # The client's own time-outs are for one read each: a byte a second would pass them for ever. A coroutine can
        # be given up as a whole, so requests run in a loop beside the threads that wait for them.
        self._timeout = timeout
        self._client = httpx2.AsyncClient(headers=headers, timeout=None, limits=httpx2.Limits(max_connections=None))
        self._loop = asyncio.new_event_loop()
        self._runner = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
        self._runner.start()

    def close(self) -> None:
        """Close the connections."""
        self._run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._runner.join()
        self._loop.close()

    def clean(self, text: str) -> str:
        """The beginning of a text as one line that any terminal can show, without the key."""
        if self._key:
            text = text.replace(self._key, "***")
        return visible(" ".join(text[:LONGEST_QUOTE].split()))[:300]

    def __call__(
        self, body: Mapping[str, Any], before: Callable[[], None], failed: Callable[[str, bool], None]
    ) -> Reply:
        """The model's reply.

        Args:
            body: The request.
            before: Called before every try; what it raises ends the request.
            failed: Called after every try without a reply: why, and whether it may have been paid for all the same.

        Raises:
            LabelsPendingError: If the service is in trouble for longer than our patience.
            ConfigError: If it knows neither key, address nor model.
            RefusedError: If it refuses this request.
            StoppedError: If ``stop`` was set.
        """
        trouble = ""
        for tries in range(self._retries + 1):
            self._wait_for_a_turn()
            before()
            asked_to_wait, response, sent = None, None, threading.Event()
            try:
                response = self._run(self._post(body, sent))
            except TimeoutError:
                trouble = f"no whole reply within {self._timeout:g} s"
            except TooLongError:
                trouble = f"a reply of more than {self._longest} bytes (oracles.judge.max_reply_bytes)"
            except httpx2.RequestError as error:
                trouble = f"{type(error).__name__}: {error}"
            if response is None:
                failed(self.clean(trouble), sent.is_set())
            elif response.status_code == 200:
                reply = _reply(response)
                if reply is not None:
                    return reply
                trouble = "status 200, but not a chat completion: " + response.text
                failed(self.clean(trouble), True)
            else:
                trouble = f"status {response.status_code}: {_message(response)}"
                failed(self.clean(trouble), response.status_code in MAY_BE_PAID)
                asked_to_wait = self._judge_failure(response, trouble)
            if tries < self._retries:
                self._pause(tries, asked_to_wait)
        raise LabelsPendingError(
            f"{self.url}: no reply after {self._retries + 1} tries; the last: {self.clean(trouble)}; what was answered "
            "is kept: run `dvc repro` again when the service is well"
        )

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _post(self, body: Mapping[str, Any], sent: threading.Event) -> httpx2.Response:
        """The whole response; ``sent`` is set once a part of the request may have reached the service.

        Raises:
            TooLongError: As soon as the unpacked body is longer than it may be.
            TimeoutError: If the whole exchange takes too long.
        """

        async def note(event: str, _: object) -> None:
            if event == "http11.send_request_headers.started":
                sent.set()

        content = bytearray()
        async with (
            asyncio.timeout(self._timeout),
            self._client.stream("POST", self.url, json=body, extensions={"trace": note}) as response,
        ):
            async for part in response.aiter_bytes():
                content += part
                if len(content) > self._longest:
                    raise TooLongError
        headers = [(name, value) for name, value in response.headers.items() if name not in ENCODED]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(content))

    def _judge_failure(self, response: httpx2.Response, trouble: str) -> float | None:
        """Seconds that the service asks us to wait, if it does; an error where waiting is no use."""
        status = response.status_code
        if status in REFUSED:
            raise RefusedError(self.clean(trouble))
        if status not in BUSY and status < 500:
            raise ConfigError(
                f"{self.url}: {self.clean(trouble)}; look at base_url, model and api_key_env in params.yaml under "
                "oracles.judge"
            )
        wait = _retry_after(response)
        if wait is not None and wait > LONGEST_WAIT:
            raise LabelsPendingError(
                f"{self.url}: {self.clean(trouble)}; the service asks for a wait of {wait:.0f} s; what was answered "
                "is kept: run `dvc repro` again then"
            )
        return wait

    def _wait_for_a_turn(self) -> None:
        with self._lock:
            turn = max(time.monotonic(), self._free_at)
            self._free_at = turn + self._gap
        self._sleep(turn - time.monotonic())

    def _pause(self, tries: int, asked_to_wait: float | None) -> None:
        """Wait before the next try; a wait that the service asks for holds for every thread."""
        # Unseeded on purpose: clients that failed together must not come back together. No result depends on it.
        own = min(self._backoff * 2.0**tries, LONGEST_BACKOFF) * random.uniform(0.5, 1.0)
        if asked_to_wait is not None:
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic() + asked_to_wait)
        self._sleep(own)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(max(seconds, 0.0)):
            raise StoppedError("another request failed")


def _reply(response: httpx2.Response) -> Reply | None:
    """The first choice of a chat completion; None where the body is none."""
    try:
        body = response.json()
        choice = body["choices"][0]
        text = choice["message"]["content"] or ""
        listed = (choice.get("logprobs") or {}).get("content")
        tokens = listed and tuple(
            (str(t["token"]), {str(a["token"]): _logprob(a["logprob"]) for a in t["top_logprobs"]}) for t in listed
        )
        usage = body.get("usage")
        counts = usage and (int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        if not isinstance(text, str) or (counts and not 0 <= min(counts) <= max(counts) <= MOST_TOKENS):
            return None
        return Reply(text, choice.get("finish_reason") == "length", tokens or None, counts or None)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _logprob(value: Any) -> float:
    number = float(value)
    if not number <= 1e-6:  # NaN too
        raise ValueError(f"{value} is no log-probability")
    return number


def _message(response: httpx2.Response) -> str:
    """What the service says of its failure, however it says it."""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError, RecursionError):
        return response.text


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds to wait by the header Retry-After, which holds a number or a date; None where it holds neither."""
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, OverflowError):  # no date, or a zone that no clock has
        return None
