"""The page as a web server: for this machine alone, or with a token for others.

What a page of another site could do through the browser of somebody who labels is refused: a request with a foreign
``Host`` (DNS rebinding), a foreign ``Origin`` or a cross-site fetch (forged requests), a body that is not JSON (forms).
The page's own policy lets it load nothing but its four files and talk to nobody but this server.

The standard library's server is enough here: a few people, small requests, one process that owns the file of labels.
It speaks HTTP; across a network that is not trusted, put a tunnel (``ssh -L``) or a proxy with TLS in front of it.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import re
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from functools import cache, cached_property
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bgpm.annotate.desk import ClosedError, Desk
from bgpm.annotate.rounds import Rounds
from bgpm.errors import BgpmError, ConfigError, DataError, StateError
from bgpm.reporting.templates import CSS

log = logging.getLogger("bgpm")

LARGEST_BODY = 64 * 1024
SIZE = re.compile("[0-9]{1,9}")
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/text.js": ("text.js", "text/javascript; charset=utf-8"),
}
OPTIONAL = {"note", "strength", "flags", "texts", "more"}
FIELDS = {
    "/api/answer": {"id", "annotator", "pair_id", "choice", "shown", "seconds", *OPTIONAL},
    "/api/undo": {"id", "annotator", "more"},
    "/api/retry": {"annotator", "more"},
}


@cache
def _own_names() -> frozenset[str]:
    """What this machine is called; asked for once, since a name server that is down takes seconds to say so."""
    return frozenset({socket.gethostname().lower(), socket.getfqdn().lower()})


@dataclass(frozen=True)
class Access:
    """Who may talk to the server.

    Attributes:
        address: What it listens on.
        token: What a request must carry; None where this machine alone is served without one.
        hosts: Further names that people reach it by, lower case.
    """

    address: str
    token: str | None
    hosts: frozenset[str] = frozenset()

    @property
    def local(self) -> bool:
        """Whether only this machine can connect."""
        return self.address == "localhost" or ipaddress.ip_address(self.address).is_loopback

    def knows(self, host: str) -> bool:
        """Whether a ``Host`` header names this server.

        A name can be made to point here by whoever owns it; an address cannot. So beside the names that were
        given, addresses are taken where others may connect, and only this machine's own where they may not.
        """
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        if name == "localhost" or name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not self.local and name in _own_names()
        return address.is_loopback or not self.local

    def refusal(self, headers: Message, cookie: str, *, navigation: bool) -> str:
        """Why a request is refused; empty where it is not.

        Args:
            headers: Of the request.
            cookie: Name of the cookie that carries the token.
            navigation: Whether the request may come from a link on another site: it changes nothing.
        """
        host, origin = headers.get("Host", ""), headers.get("Origin")
        try:
            known = self.knows(host)
        except ValueError:
            known = False
        if not known:
            return f"the host {host!r} is not this server: use its address, or start it with --host {host}"
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return f"a request from {origin!r}, which is another site"
        if not navigation and headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return "a request from another site"
        if self.token is not None and not self.holds(token_of(headers, cookie)):
            return "the token is missing or wrong: open the link that `bgpm annotate` printed"
        return ""

    def holds(self, token: str) -> bool:
        """Whether this is the token, compared in constant time; True where none is needed."""
        return self.token is None or hmac.compare_digest(token.encode(), self.token.encode())


def token_of(headers: Message, cookie: str) -> str:
    """The token that a request carries as ``Authorization: Bearer`` or as a cookie; empty without one."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    try:
        found = SimpleCookie(headers.get("Cookie", "")).get(cookie)
    except CookieError:
        return ""
    return found.value if found else ""


def access(address: str, token: str | None, hosts: Iterable[str] = ()) -> Access:
    """Who may talk to a server on this address: where others can get to it, by address or name, there is a token.

    Raises:
        ConfigError: If the address is none, or the token is too short or would not fit into a cookie.
    """
    if address != "localhost":
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ConfigError(
                f"--address {address!r}: expected an IP address such as 127.0.0.1 (this machine) or 0.0.0.0 (everyone)"
            ) from None
    if token is not None and not TOKEN.fullmatch(token):
        raise ConfigError("--token: expected 16 to 128 letters, digits, _ or -; leave it out to have one made")
    found = Access(address, token, frozenset(name.lower() for name in hosts))
    alone = found.local and not found.hosts  # a further name is a proxy's or a tunnel's, whose clients look local
    return found if alone or token else Access(address, secrets.token_urlsafe(24), found.hosts)


def read_guidelines(path: Path) -> str:
    """The text of the guidelines.

    Raises:
        StateError: If the file cannot be read or is longer than `LARGEST_BODY` bytes.
    """
    try:
        data = path.read_bytes()
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{path}: cannot be read ({error}); name a UTF-8 text file with --guidelines") from None
    if len(data) > LARGEST_BODY:
        raise StateError(f"{path}: {len(data)} bytes; guidelines that people read are at most {LARGEST_BODY}")
    return text


class Server(ThreadingHTTPServer):
    """Serves a desk.

    Args:
        desk: What is asked and answered.
        overview: Makes the page about the campaign.
        access: Who may talk to it.
        port: 0 for any free one.
        rounds: What runs the rounds; None where people do.
        guidelines: Markdown on how to label, read anew each time; None for none.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        desk: Desk,
        overview: Callable[[], str],
        access: Access,
        port: int,
        rounds: Rounds | None = None,
        guidelines: Path | None = None,
    ) -> None:
        self.desk, self.overview, self.access, self.rounds = desk, overview, access, rounds
        self.guidelines = guidelines
        self.address_family = socket.AF_INET6 if ":" in access.address else socket.AF_INET
        super().__init__((access.address, port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error; anything else is shown as the standard library does."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def state(self, annotator: str, *, more: bool) -> dict[str, Any]:
        """What the page shows a person: their pairs, and where the round stands that runs here."""
        return {**self.desk.state(annotator, more=more), "run": self.rounds.state() if self.rounds else None}

    @property
    def url(self) -> str:
        """Where people go, the token included."""
        everyone = not self.access.local and ipaddress.ip_address(self.access.address).is_unspecified
        host = socket.gethostname() if everyone else self.access.address
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.server_port}/" + (f"?token={self.access.token}" if self.access.token else "")

    @cached_property
    def page(self) -> Mapping[str, tuple[bytes, str]]:
        """The files of the page by path, with their types."""
        folder = files("bgpm.annotate") / "page"
        style = CSS + (folder / "page.css").read_text(encoding="utf-8")
        found = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in PAGE.items()}
        return found | {"/page.css": (style.encode(), "text/css; charset=utf-8")}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60
    # One packet a reply: of head and body in two the second waits 40 ms for a delayed acknowledgement (Nagle).
    wbufsize, disable_nagle_algorithm = -1, True
    server_version, sys_version = "bgpm", ""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a token in an address must not get into a log."""

    @property
    def cookie(self) -> str:
        """Its name carries the port, since a browser sends cookies to every port of a host."""
        return f"bgpm-{self.server.server_port}"

    def do_GET(self) -> None:
        """The page, its files, the overview, and where the work stands."""
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        navigation = url.path in ("/", "/campaign")
        if url.path == "/" and "token" in query and self.server.access.token:
            self._enter(query["token"])
        elif refusal := self.server.access.refusal(self.headers, self.cookie, navigation=navigation):
            self._refuse(refusal)
        elif url.path in self.server.page:
            self._send(HTTPStatus.OK, *self.server.page[url.path])
        elif url.path == "/campaign":
            self._annotation(lambda: self.server.overview())
        elif url.path == "/api/guidelines":
            path = self.server.guidelines
            self._annotation(lambda: {"text": read_guidelines(path) if path else ""})
        elif url.path == "/api/state":
            more = query.get("more") == "1"
            self._annotation(lambda: self.server.state(query.get("annotator", ""), more=more))
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "no such page"})

    def do_POST(self) -> None:
        """An answer, taking one back, or another try of a round."""
        self.close_connection = True  # until the body is read, what follows in the stream is not a request
        path = urlsplit(self.path).path
        if refusal := self.server.access.refusal(self.headers, self.cookie, navigation=False):
            self._refuse(refusal)
        elif path not in FIELDS:
            self._json(HTTPStatus.NOT_FOUND, {"error": "no such page"})
        elif self.headers.get_content_type() != "application/json":
            self._json(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "expected JSON"})
        elif not SIZE.fullmatch(length := self.headers.get("Content-Length", "")) or int(length) > LARGEST_BODY:
            self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"expected at most {LARGEST_BODY} bytes"})
        else:
            body = self.rfile.read(int(length))
            self.close_connection = False
            self._annotation(lambda: self._change(path, body))

    def _change(self, path: str, body: bytes) -> dict[str, Any]:
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise DataError("the request is not JSON, or nested too deep") from None
        expected = FIELDS[path]
        needed = expected - OPTIONAL
        if not isinstance(given, dict) or not needed <= given.keys() <= expected:
            raise DataError(f"expected an object with {', '.join(sorted(needed))}")
        flags = given.get("flags", [])
        texts = [value for name, value in given.items() if name not in ("seconds", "flags", "more")]
        if not isinstance(flags, list) or not all(isinstance(value, str) for value in (*texts, *flags)):
            raise DataError("expected text in every field but seconds, more and flags, a list of texts")
        more, desk = given.pop("more", False) is True, self.server.desk
        extra = {}
        if path == "/api/retry":
            if self.server.rounds:
                self.server.rounds.retry()
        elif path == "/api/answer":
            extra["notice"] = desk.annotate(**given)
        else:
            extra["question"] = desk.undo(**given)
        return {"saved": given.get("id"), **extra, "state": self.server.state(given["annotator"], more=more)}

    def _enter(self, token: str) -> None:
        """Take a token from the address into a cookie, so that it stands in no history and no screenshot."""
        access = self.server.access
        host_only = Access(access.address, None, access.hosts).refusal(self.headers, self.cookie, navigation=True)
        if host_only or not access.holds(token):
            self._refuse(host_only or "the token is wrong: open the link that `bgpm annotate` printed")
            return
        # Lax, not Strict: the link may be opened from a chat or a mail. What changes anything needs our Origin too.
        cookie = f"{self.cookie}={access.token}; Path=/; HttpOnly; SameSite=Lax"
        self._send(HTTPStatus.SEE_OTHER, b"", "text/plain", {"Location": "/", "Set-Cookie": cookie})

    def _annotation(self, make: Callable[[], str | dict[str, Any]]) -> None:
        """Send what ``make`` returns; its errors become answers that a page can act upon."""
        try:
            value = make()
        except ClosedError as error:
            self._json(HTTPStatus.CONFLICT, {"error": str(error)})
        except (StateError, ConfigError, OSError) as error:  # a full disk, a file being edited: worth another try
            log.warning("%s", error)
            self._json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        except BgpmError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        else:
            if isinstance(value, str):
                self._send(HTTPStatus.OK, value.encode(), "text/html; charset=utf-8")
            else:
                self._json(HTTPStatus.OK, value)

    def _refuse(self, why: str) -> None:
        self.close_connection = True
        self._send(HTTPStatus.FORBIDDEN, f"Refused: {why}\n".encode(), "text/plain; charset=utf-8")

    def _json(self, status: HTTPStatus, value: object) -> None:
        # Half a character (a lone surrogate) may stand in a text; JSON's own escape carries it.
        self._send(status, json.dumps(value, allow_nan=False).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def serve(server: Server) -> None:
    """Serve until Ctrl-C or SIGTERM."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("stopped; every annotation is on the disk")
    finally:
        server.server_close()
