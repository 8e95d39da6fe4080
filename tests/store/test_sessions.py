"""A direct connection is proved by what it is needed for."""

from __future__ import annotations

import os
import socket
import struct
import threading

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from app.errors import SettingInvalid
from app.store.sessions import prove_direct


class TransactionPooler:
    """
    What a transaction pooler does: each transaction of a client runs on whichever server connection is free.

    Enough of the protocol for one statement after another; notifications to an idle server connection are nobody's.
    """

    def __init__(self, dsn, server_connections):
        self._connections = [psycopg.connect(dsn, autocommit=True) for _ in range(server_connections)]
        self._idle = [socket.socket(fileno=os.dup(c.fileno())) for c in self._connections]
        self._servers = tuple(self._idle)
        for server in self._servers:
            server.setblocking(True)
        self._threads = []
        self._turn = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            self._threads[-1].start()

    def _serve(self, client):
        try:
            with client:
                self._pool(client)
        except (OSError, EOFError):
            return

    def _pool(self, client):
        self._greet(client)
        while True:
            first = read_message(client)
            with self._turn:
                self._turn.wait_for(lambda: self._idle)
                server = self._idle.pop(0)
            self._transaction(client, server, first)
            with self._turn:
                self._idle.append(server)
                self._turn.notify_all()

    def _greet(self, client):
        (length,) = struct.unpack("!i", read(client, 4))
        while struct.unpack("!i", read(client, length - 4)[:4])[0] == 80877103:  # may I speak TLS?
            client.sendall(b"N")
            (length,) = struct.unpack("!i", read(client, 4))
        client.sendall(b"R" + struct.pack("!ii", 8, 0))
        for name, value in (("server_version", "18.0"), ("client_encoding", "UTF8")):
            body = f"{name}\0{value}\0".encode()
            client.sendall(b"S" + struct.pack("!i", len(body) + 4) + body)
        client.sendall(b"Z" + struct.pack("!i", 5) + b"I")

    def _transaction(self, client, server, message):
        while True:
            server.sendall(message)
            if message[:1] in b"QS":
                while (answer := read_message(server))[:1] != b"Z":
                    if answer[:1] != b"A":
                        client.sendall(answer)
                client.sendall(answer)
                if answer[5:6] == b"I":
                    return
            message = read_message(client)


def read(end, count):
    data = b""
    while len(data) < count:
        more = end.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def read_message(end):
    head = read(end, 5)
    return head + read(end, struct.unpack("!i", head[1:])[0] - 4)


@pytest.fixture
def pooler(dsn):
    made = TransactionPooler(dsn, server_connections=3)
    yield made
    made.close()


async def test_a_direct_connection_is_proved(dsn):
    """
    It hears, and keeps its lock.
    """
    await prove_direct(dsn)


async def test_a_transaction_pooler_is_found_out_on_any_port(dsn, pooler):
    """
    It answers every statement, and the start is refused with one sentence all the same.
    """
    url = make_conninfo(dsn, host="127.0.0.1", port=pooler.port, sslmode="disable")
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as client:
        assert client.execute("select 1").fetchone() == (1,)

    with pytest.raises(SettingInvalid, match="is a transaction pooler"):
        await prove_direct(url)


async def test_a_database_that_is_out_of_reach_proves_nothing():
    """
    The process starts and waits for it, as always.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    await prove_direct(f"postgresql://127.0.0.1:{port}/nothing")
