"""A chat service on this machine that does what a test tells it, misbehaviour included."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

DRIP = 0.05  # seconds a byte


@dataclass
class Response:
    """What to send: a status, headers and a body.

    ``cut`` promises more bytes than come; ``delay`` sleeps first; with ``drip`` the body, or all of it, comes a byte at
    a time.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    delay: float = 0.0
    drip: Literal["", "body", "all"] = ""


def completion(text: str | None, usage: tuple[int, int] | None = (100, 1), **choice: Any) -> Response:
    """A chat completion as services write it."""
    whole: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}],
    }
    if usage:
        whole["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Response(body=json.dumps(whole).encode())


@dataclass
class Request:
    """One request as it came: its body, the texts in it, its headers, when, and how many others were under way."""

    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    others: int

    @property
    def shown(self) -> tuple[str, str]:
        """The answers in the order in which they were shown, by the tests' template."""
        _, a, b = self.body["messages"][0]["content"].split("|")
        return a, b


class Service:
    """Requests so far, and how the next is answered: ``behave(number, request)``, counted from 1."""

    def __init__(self, behave: Callable[[int, Request], Response]) -> None:
        self.behave = behave
        self.requests: list[Request] = []
        self.under_way = 0
        self.lock = threading.Lock()
        self.url = ""

    def keys(self) -> list[tuple[str, str]]:
        return [request.shown for request in self.requests]


@contextmanager
def serve(behave: Callable[[int, Request], Response]) -> Iterator[Service]:
    service = Service(behave)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with service.lock:
                request = Request(
                    body, {k.lower(): v for k, v in self.headers.items()}, time.monotonic(), service.under_way
                )
                service.requests.append(request)
                number = len(service.requests)
                service.under_way += 1
            try:
                response = service.behave(number, request) if self.path == "/v1/chat/completions" else Response(404)
                time.sleep(response.delay)
            finally:
                with service.lock:
                    service.under_way -= 1
            try:
                if response.drip:
                    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(response.body)
                    at_once = head if response.drip == "body" else b""
                    self.wfile.write(at_once)
                    for byte in (head + response.body)[len(at_once) :]:
                        self.wfile.write(bytes([byte]))
                        time.sleep(DRIP)
                    return
                self.send_response(response.status)
                for name, value in response.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(response.body) + 50 * response.cut))
                self.end_headers()
                self.wfile.write(response.body)
            except ConnectionError:  # the client has gone
                return

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
