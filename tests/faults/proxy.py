"""A TCP proxy that can swallow everything while its sockets stay open: a link on which packets vanish, as no error tells."""

from __future__ import annotations

import select
import socket
import threading


class StallingProxy:
    """
    Listens on a free loopback port and passes bytes on to a Postgres server.

    While stalled it accepts connections and reads nothing: whoever waits for an answer waits for ever.
    """

    def __init__(self, address):
        """*address* is a (host, port), or the path of a Unix socket."""
        self._address = address
        self._stalled = threading.Event()
        self._closed = threading.Event()
        self.swallowed = 0  # connections that were open, or came, while it was stalled
        self._open = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self):
        self.swallowed = len(self._open)
        self._stalled.set()

    def close(self):
        self._closed.set()
        self._listener.close()
        for one in list(self._open):
            one.close()

    def _accept(self):
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._stalled.is_set():
                self.swallowed += 1
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _connect(self):
        if isinstance(self._address, str):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._address)
            return server
        return socket.create_connection(self._address)

    def _pass_on(self, client):
        with client, self._connect() as server:
            self._open.add(client)
            ends = {client: server, server: client}
            try:
                while not self._closed.is_set():
                    if self._stalled.is_set():
                        self._closed.wait()
                        return
                    for ready in select.select(list(ends), [], [], 0.05)[0]:
                        if self._stalled.is_set():
                            break
                        data = ready.recv(65536)
                        if not data:
                            return
                        ends[ready].sendall(data)
            except OSError:
                return
            finally:
                self._open.discard(client)


def address_of(parameters):
    """Where libpq would connect with these connection parameters."""
    host, port = parameters.get("host", "127.0.0.1"), parameters.get("port", "5432")
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, int(port))
