"""
A webhook receiver for a newcomer's terminal: it checks each message as a bot should and prints a line about it.

It is also the shortest honest example of a receiver: verify the signature over the raw bytes, act once per ``webhook-id``, answer 2xx
at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

BODY_BYTES_MAX = 64 * 1024
IDS_KEPT = 10_000
NAMED_MAX = 5


class TerminalReceiver:
    """
    Args:
        say: Gets a line for each new message.

    ``secret``, of the destination's signatures, is set once the destination is made; until then messages are asked for again.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.secret: str | None = None
        self._say = say
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def receive(self, headers: dict[str, str], body: bytes) -> int:
        """The HTTP status for a message; a new one is said."""
        if self.secret is None:
            return 503
        try:
            message = Webhook(self.secret).verify(body, headers)
        except (WebhookVerificationError, ValueError):
            return 401
        with self._lock:
            if headers["webhook-id"] in self._seen:
                return 204
            self._seen[headers["webhook-id"]] = None
            while len(self._seen) > IDS_KEPT:
                self._seen.popitem(last=False)
        self._say(line_of(message))
        return 204


def line_of(message: dict[str, Any]) -> str:
    """A message in one line."""
    data = message["data"]
    signals = data["signals"] if message["type"] == "digest" else [data] if "symbol" in data else []
    if not signals:
        return f"delivered: {message['type']} {data.get('reason') or ''}".rstrip()
    named = ", ".join(f"{s['symbol']} {s['price']:g} ({s['trader_name']})" for s in signals[:NAMED_MAX])
    more = data.get("count", 1) - min(len(signals), NAMED_MAX)
    return f"delivered: {named}" + (f" and {more} more" if more > 0 else "")


@contextmanager
def serving(receiver: TerminalReceiver) -> Iterator[str]:
    """Serve on a free port of the loopback; yields the URL to post to."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(min(length, BODY_BYTES_MAX))
            status = receiver.receive({k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing: each message is said already."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
