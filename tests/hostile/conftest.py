"""
A real web process on loopback, and clients that wish it ill. Each attack is small; the bench has them in
full.

What is held is never a duration: an attack has an answer that ends it, and while it goes on others are
answered.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-for-tests-that-is-long-enough"
PATIENCE_S = 20  # until a test gives up on the server
SCRIPT = """
import asyncio
import app.http.border as border
from app.logging import configure
from app.settings import read_settings
from app.web import serve
border.HEADER_S_MAX = border.BODY_S_MAX = 1.0
configure("json")
asyncio.run(serve(read_settings(), ready=lambda url: print(url, flush=True)))
"""


@dataclass(frozen=True)
class Target:
    """The process under attack."""

    host: str
    port: int
    dsn: str

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=PATIENCE_S)

    def ask(self, sent: bytes) -> bytes:
        """Everything the server answers to *sent*, until it ends the connection."""
        with self.connect() as connection:
            return self.converse(connection, sent)

    @staticmethod
    def converse(connection: socket.socket, sent: bytes) -> bytes:
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it has heard enough; its answer is read below
            connection.sendall(sent)
        answer = bytearray()
        while chunk := connection.recv(65536):
            answer += chunk
        return bytes(answer)

    def victim_is_answered(self) -> bool:
        answer = self.ask(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return answer.startswith(b"HTTP/1.1 200 ")

    def token(self, user_id: uuid.UUID) -> str:
        claims = {
            "sub": str(user_id),
            "role": "authenticated",
            "aud": "authenticated",
            "exp": time.time() + 600,
        }
        return jwt.encode(claims, SECRET, algorithm="HS256")


@pytest.fixture(scope="module")
def target(admin_dsn, template, tmp_path_factory) -> Iterator[Target]:
    name = f"vyx_hostile_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(f"create database {name} template {template}")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": make_conninfo(admin_dsn, dbname=name),
        "VYX_DATA_DIR": str(tmp_path_factory.mktemp("hostile")),
        "VYX_JWT_SECRET": SECRET,
        "VYX_PORT": "0",
        "VYX_METRICS_PORT": "off",
        "VYX_CONNECTIONS_PER_ADDRESS_MAX": "40",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    drain = threading.Thread(target=process.stderr.read, daemon=True)
    drain.start()
    try:
        host, port = process.stdout.readline().decode().strip().removeprefix("http://").split(":")
        yield Target(host, int(port), environment["DATABASE_URL"])
        assert process.poll() is None, "the process did not survive its attackers"
    finally:
        process.kill()
        process.wait()
        drain.join(PATIENCE_S)
        process.stdout.close()
        process.stderr.close()
        with psycopg.connect(admin_dsn, autocommit=True) as admin:
            admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def at_once() -> Callable[..., list[bytes]]:
    """``at_once(n, work)``: *work* in n threads; what each returned."""

    def run(count: int, work: Callable[[], bytes]) -> list[bytes]:
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(work())) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        return answers

    return run
