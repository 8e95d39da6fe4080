"""
What a connection may cost before anybody knows who it is: bytes, pieces, time and number are bounded before
the application is asked.

uvicorn's own httptools protocol does the work of HTTP; decided here is only when it has seen enough.
Without these bounds one request of 250,000 chunks of one byte held the process for 2 s, and a connection
could stay for ever by sending an empty line a minute.

How a connection ends beside the usual ways: a refusal is answered with a problem (400, 408, 413, 431, 503);
an answer that is given before its request's body was read ends the connection; what the client still sends
then is thrown away unparsed, for a moment, since a socket closed with unread bytes is reset and the answer
would be lost with it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.errors import Kind
from app.http.problems import TYPE_PREFIX

HEADER_S_MAX = 10.0
BODY_S_MAX = 10.0  # 256 KiB at 26 KB/s
WRITE_S_MAX = 30.0  # a client that takes nothing for this long is gone
HEAD_BYTES_MAX = 32 * 1024  # request line and headers; a token has at most 8 KiB
HEADERS_MAX = 100
MESSAGE_BYTES_MAX = 1 << 20  # of a body as sent: four times the largest body, for the framing of chunks
PIECES_MAX = 4096  # chunks, and reads of a body that is not chunked
PIECES_FREE = 128  # before their average size counts
PIECE_BYTES_MIN = 64  # on the average; a packet carries 1,400
PIPELINED_MAX = 16
LINGER_S = 2.0
LINGER_BYTES_MAX = 1 << 20

_log = structlog.get_logger(__name__)


@dataclass
class Door:
    """
    Counts the connections of one process.

    Args:
        connections_max: In all; each holds a file descriptor and some 10 KB.
        per_address_max: Of one peer address. Behind a proxy all share its address.
    """

    connections_max: int
    per_address_max: int
    refused: int = 0
    _by_address: Counter[str] = field(default_factory=Counter)

    def enter(self, address: str) -> bool:
        """Count a connection; False when there is no room for it, and it is not counted."""
        if (
            self._by_address.total() >= self.connections_max
            or self._by_address[address] >= self.per_address_max
        ):
            self.refused += 1
            return False
        self._by_address[address] += 1
        return True

    def leave(self, address: str) -> None:
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class _Overdrawn(Exception):
    """A request is over one of the bounds; raised inside the parser, which stops at once."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within the bounds above. *door* is set by ``bounded``."""

    door: Door

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if (connection := transport.get_extra_info("socket")) is not None and self.client is not None:
            # asyncio does so only for sockets that were made with a protocol number; headers and body are two
            # writes, and without it the second waits 40 ms for the client's delayed acknowledgement
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_ending = False
        self._discarded = 0
        self._in_message = False
        self._in_body = False
        self._read_bytes = self._message_bytes = self._head_bytes = self._body_bytes = self._pieces = 0
        self._refusal: tuple[int, Kind, str] = _NOT_HTTP
        self._address = self.client[0] if self.client else "local"
        self._is_counted = self.door.enter(self._address)
        if not self._is_counted:
            transport.write(
                _problem(503, Kind.UNAVAILABLE, "Too many connections are open; close some, or try again.")
            )
            transport.close()
            return
        self._expect(HEADER_S_MAX)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._write_timer = None
        self._unset_keepalive_if_required()
        if self._is_counted:
            self._is_counted = False
            self.door.leave(self._address)
        super().connection_lost(exc)

    # -- reading --------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES_MAX:
                self.transport.abort()
            return
        if self._deadline is None and not self._in_message and self._is_idle:
            self._expect(
                HEADER_S_MAX
            )  # a line without a request in it would otherwise be waited behind for ever
        self._read_bytes = len(data)
        self._message_bytes += len(data)
        super().data_received(data)
        if self._in_body:
            if self._message_bytes > MESSAGE_BYTES_MAX:
                self._refuse(413, Kind.PAYLOAD_TOO_LARGE, "The body is larger than any that is taken here.")
        elif self._in_message and self._message_bytes > HEAD_BYTES_MAX:
            self._refuse(431, Kind.REQUEST_INVALID, _HEAD_TOO_LARGE)

    def send_400_response(self, _msg: str) -> None:
        """The parser stopped: at what is no HTTP, or because ``_overdraw`` told it to."""
        self._refuse(*self._refusal)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message, self._in_body = True, False
        self._message_bytes = self._read_bytes
        self._head_bytes = self._body_bytes = self._pieces = 0
        if len(self.pipeline) >= PIPELINED_MAX:
            self._overdraw(400, f"At most {PIPELINED_MAX} requests may wait on a connection.")
        if self._deadline is None:
            self._expect(HEADER_S_MAX)

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._overdraw(431, _HEAD_TOO_LARGE)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            self._overdraw(400, "Trailers after a body are not taken.")
        if len(self.headers) >= HEADERS_MAX:
            self._overdraw(431, f"A request has at most {HEADERS_MAX} headers.")
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._overdraw(431, _HEAD_TOO_LARGE)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.url = _origin_form(self.url)
        super().on_headers_complete()
        self.cycle.transport = cast("asyncio.Transport", _GentleTransport(self))
        self._in_body = True
        self._message_bytes = 0
        self._expect(BODY_S_MAX)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._pieces += 1
        if self._pieces > PIECES_MAX or (
            self._pieces > PIECES_FREE and self._body_bytes < self._pieces * PIECE_BYTES_MIN
        ):
            self._overdraw(
                400,
                "The body comes in too many small pieces; send it with a Content-Length, or in larger chunks.",
            )
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = self._in_body = False
        self._deadline = None
        super().on_message_complete()

    # -- answering and ending -------------------------------------------------------------------------------------------

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def on_response_complete(self) -> None:
        if not self._is_ending:  # a request that waits behind it gets no answer
            super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_S_MAX, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # close() would wait for a client that takes nothing
            return
        super().timeout_keep_alive_handler()

    def _unsupported_upgrade_warning(self) -> None:
        self.cycle.keep_alive = False  # what follows would not be HTTP/1.1

    def end(self) -> None:
        """
        Close the connection after the answer: at once, or, while the client still sends, when it has had
        time to read it.
        """
        if not self._in_message or self.transport.is_closing() or not self.transport.can_write_eof():
            self.transport.close()
            return
        if self._is_ending:
            return
        self._is_ending = True
        self._deadline = None
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self._close_if_open)

    def _close_if_open(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()

    def _expect(self, seconds: float) -> None:
        """What comes next has this long."""
        self._deadline = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer = None
        if self._deadline is None or self.transport.is_closing():
            return
        left_s = self._deadline - self.loop.time()
        if left_s > 0:
            self._timer = self.loop.call_later(left_s, self._check_deadline)
            return
        self._deadline = None
        if self._in_message or self._is_idle:
            self._refuse(408, Kind.TIMEOUT, "The request did not arrive in time.")

    def _overdraw(self, status: int, detail: str) -> None:
        self._refusal = (status, Kind.REQUEST_INVALID, detail)
        raise _Overdrawn

    def _refuse(self, status: int, kind: Kind, detail: str) -> None:
        """Answer with a problem, where no other answer is on its way, and end the connection."""
        if self._is_ending or self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            is_answered = cycle.response_started or bool(self.pipeline)
            cycle.disconnected = True
            cycle.message_event.set()
            if is_answered:
                self.transport.abort()  # half of another answer is out already
                return
        self.transport.write(_problem(status, kind, detail))
        self._in_message = True  # whatever it was: nothing more is parsed
        self.end()


class _GentleTransport:
    """What an answer's cycle needs of a transport; closing goes through ``BoundedProtocol.end``."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        self._protocol.end()


def bounded(door: Door) -> type[BoundedProtocol]:
    """The protocol of one server, whose connections *door* counts."""
    return type("ServerProtocol", (BoundedProtocol,), {"door": door})


_HEAD_TOO_LARGE = f"A request line and its headers have at most {HEAD_BYTES_MAX // 1024} KiB."
_NOT_HTTP = (400, Kind.REQUEST_INVALID, "This is not an HTTP/1.1 request.")


def _origin_form(target: bytes) -> bytes:
    """
    ``/path?query`` of any form of request target (RFC 9112, 3.2); what has no path, ``*`` and CONNECT's,
    stays without a resource.
    """
    if target.startswith(b"/"):
        return target
    scheme, separator, _ = target.partition(b"://")
    if separator and scheme.lower() in {b"http", b"https"}:
        parts = urlsplit(target)
        path = parts.path or b"/"
        return path + b"?" + parts.query if parts.query else path
    return b"/*"


def _problem(status: int, kind: Kind, detail: str) -> bytes:
    body: dict[str, Any] = {
        "type": f"{TYPE_PREFIX}{kind}",
        "title": _TITLES[status],
        "status": status,
        "detail": detail,
    }
    headers = b"content-type: application/problem+json\r\nconnection: close\r\n"
    if status == 503:
        body["retry_after_s"] = 1
        headers += b"retry-after: 1\r\n"
    content = msgspec.json.encode(body)
    return STATUS_LINE[status] + headers + b"content-length: %d\r\n\r\n" % len(content) + content


_TITLES = {
    400: "Invalid request",
    408: "Took too long",
    413: "Payload too large",
    431: "Headers too large",
    503: "Unavailable for the moment",
}
