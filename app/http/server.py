"""
uvicorn, ending well: SIGTERM ends the streams and the readiness at once, then the connections, then the process with exit code 0.

uvicorn itself runs lifespan shutdown only after connections have drained, which open streams never do, and raises the signal again
after it has ended. Clients that stop reading would hold the exit for ever: the graceful time is always bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from app.errors import SettingInvalid
from app.http.border import Door, bounded

GRACEFUL_S_MAX = 5  # requests in flight are answered within milliseconds, streams end at once
KEEP_ALIVE_S = 75  # longer than usual proxies keep an idle connection, so that they close it first
BACKLOG = 2048


class Server(uvicorn.Server):
    """Calls *on_drain* once, as soon as it is told to end. *door* bounds its connections."""

    def __init__(
        self, application: ASGIApp, *, door: Door, drain_s: float, on_drain: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=bounded(door),
                access_log=False,
                log_config=None,
                lifespan="off",
                server_header=False,
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, min(GRACEFUL_S_MAX, int(drain_s))),
                backlog=BACKLOG,
            )
        )
        self._on_drain = on_drain
        self.is_listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and says when connections are accepted."""
        await super().startup(sockets)
        self.is_listening.set()

    def stop(self) -> None:
        """End; call it from the event loop's thread. Told twice, it does not wait for connections any more."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self._on_drain()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT call ``stop``, in the main thread; elsewhere whoever runs the thread calls it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for one in signals:
            loop.add_signal_handler(one, self.stop)
        try:
            yield
        finally:
            for one in signals:
                loop.remove_signal_handler(one)


def listen(host: str, port: int) -> socket.socket:
    """
    A listening socket; port 0 picks a free one.

    Raises:
        SettingInvalid: the address cannot be had, naming the variables.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingInvalid(
            f"VYX_HOST and VYX_PORT: cannot listen on {host}:{port} ({error.strerror or error}); another process may hold it."
        ) from error


def url_of(listener: socket.socket) -> str:
    """How a client on this machine reaches it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 compared, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
