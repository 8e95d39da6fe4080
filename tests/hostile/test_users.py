"""What a signed-in user can do to others: open streams, and send tokens that are none."""

from __future__ import annotations

import base64
import json
import uuid

import psycopg
import pytest


@pytest.fixture
def user(target):
    user_id = uuid.uuid4()
    with psycopg.connect(target.dsn, autocommit=True) as connection:
        connection.execute("insert into auth.users (id) values (%s)", (user_id,))
        connection.execute("select public.set_tier(%s, 'pro')", (user_id,))
    return user_id


def part(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


HEADER = part(b'{"alg":"HS256"}')
CLAIMS = part(json.dumps({"sub": str(uuid.uuid4()), "aud": "authenticated", "exp": 2_000_000_000}).encode())


@pytest.mark.parametrize(
    "token",
    [
        b"." * 30_000,
        b".".join((part(b'{"alg":["HS256"]}'), CLAIMS, b"x")),
        b".".join((part(b'{"alg":"HS256","kid":{"a":[1]}}'), CLAIMS, b"x")),
        b".".join((HEADER, part(b'{"exp":1' + b"0" * 400 + b"}"), b"x")),
        b".".join((HEADER, part(b"[" * 5000), b"x")),
        b".".join((HEADER, part(b'{"a":' * 900 + b"1" + b"}" * 900), b"x")),
        b".".join((HEADER, CLAIMS, b"!" * 500)),
        b"vyx_" + b"a" * 20_000,
        b"\xff\xfe",
    ],
)
def test_a_token_that_is_wrong_is_401_whatever_is_in_it(target, token):
    answer = target.ask(
        b"GET /api/v1/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "
        + token
        + b"\r\n\r\n"
    )

    assert answer.split(b" ")[1] == b"401"
    assert target.victim_is_answered()


def test_a_user_holds_ten_streams_and_the_rest_are_told_to_wait(target, user):
    request = (
        f"GET /api/v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.token(user)}\r\n\r\n"
    ).encode()
    connections = [target.connect() for _ in range(14)]
    try:
        statuses = []
        for connection in connections:
            connection.sendall(request)
            statuses.append(connection.recv(12)[-3:])
        answered = target.victim_is_answered()
    finally:
        for connection in connections:
            connection.close()

    assert sorted(statuses) == [b"200"] * 10 + [b"429"] * 4
    assert answered


def test_streams_that_open_and_close_without_end_meet_a_limit(target, user):
    request = (
        f"GET /api/v1/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {target.token(user)}\r\n\r\n"
    ).encode()
    statuses = []
    for _ in range(70):
        with target.connect() as connection:
            connection.sendall(request)
            statuses.append(connection.recv(12)[-3:])

    assert set(statuses) <= {b"200", b"429"}
    assert statuses[-1] == b"429"
    assert target.victim_is_answered()


def test_a_reader_that_reads_nothing_holds_up_nobody(target, user):
    """Requests in one breath, whose answers nobody takes."""
    request = f"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.token(user)}\r\n\r\n".encode()
    with target.connect() as deaf:
        deaf.sendall(request * 10)
        for _ in range(10):
            assert target.victim_is_answered()
