"""What anybody can send without a token."""

from __future__ import annotations

import contextlib

import pytest

from app.http import border

CHUNKED = b"POST /health/live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_body_of_tiny_chunks_ends_the_connection_of_who_sends_it(target, at_once):
    """250,000 chunks of one byte held the process for 2 s, eight such requests for 42 s."""
    answers = at_once(8, lambda: target.ask(CHUNKED + b"1\r\nx\r\n" * 250_000))

    assert len(answers) == 8
    assert all(b" 400 " in answer.splitlines()[0] or b" 405 " in answer.splitlines()[0] for answer in answers)
    assert target.victim_is_answered()


def test_others_are_answered_between_the_pieces_of_an_attack(target):
    with target.connect() as attacker:
        attacker.sendall(CHUNKED + b"40\r\n" + b"x" * 64 + b"\r\n")
        for _ in range(20):
            assert target.victim_is_answered()
        assert target.converse(attacker, b"1\r\nx\r\n" * 5000).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"\r\n\r\n",
        b"GET /health",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /api/v1/traders HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    ],
)
def test_what_does_not_arrive_in_time_ends(target, begun):
    """The server speaks, or hangs up: nobody waits for it with nothing to come."""
    answer = target.ask(begun)

    assert answer == b"" or answer.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 401 "))


def test_an_empty_line_now_and_then_does_not_keep_a_connection(target):
    with target.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(10) == b"HTTP/1.1 2"
        answer = target.converse(connection, b"\r\n")

    assert b"HTTP/1.1 408 " in answer


def test_headers_have_an_end(target):
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"

    assert target.ask(head + b"X: y\r\n" * 200 + b"\r\n").startswith(b"HTTP/1.1 431 ")
    assert target.ask(head + b"X: " + b"y" * border.HEAD_BYTES_MAX * 2).startswith(b"HTTP/1.1 431 ")
    assert target.ask(b"GET /" + b"y" * border.HEAD_BYTES_MAX * 2).startswith(b"HTTP/1.1 431 ")


def test_trailers_are_not_taken(target):
    assert b" 40" in target.ask(CHUNKED + b"0\r\n" + b"X: y\r\n" * 200 + b"\r\n").splitlines()[0]


def test_many_requests_in_one_breath_are_refused(target):
    answer = target.ask(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)

    assert answer.count(b"HTTP/1.1 200 ") <= border.PIPELINED_MAX + 1
    assert target.victim_is_answered()


def test_an_answer_that_needs_no_body_ends_the_connection_and_arrives(target):
    """The rest of the body is thrown away, not left unread: a reset would take the answer with it."""
    body = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000

    answer = target.ask(body)

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"\r\nconnection: close\r\n" in answer


def test_a_body_that_is_too_large_is_told_so(target):
    head = b"POST /api/v1/traders HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n"

    assert target.ask(head + b"x" * 900_000).startswith(b"HTTP/1.1 401 ")


def test_connections_of_one_address_are_bounded(target):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(target.connect()) for _ in range(40)]
        refused = target.ask(b"")
        held.pop().close()

    assert refused.startswith(b"HTTP/1.1 503 ")
    assert target.victim_is_answered()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET http://elsewhere/health/live HTTP/1.1", b"200"),
        (b"GET http://elsewhere HTTP/1.1", b"200"),
        (b"GET https://u:p@h:1/health/live?a=1 HTTP/1.1", b"422"),
        (b"GET ftp://h/health/live HTTP/1.1", b"404"),
        (b"OPTIONS * HTTP/1.1", b"404"),
        (b"CONNECT h:80 HTTP/1.1", b"404"),
        (b"GET /health/live%0A HTTP/1.1", b"404"),
        (b"GET /health/live%0D%0A HTTP/1.1", b"404"),
        (b"OPTIONS /health/live%0A HTTP/1.1", b"404"),
        (b"GET /health/live%00 HTTP/1.1", b"404"),
        (b"GET /health/live\x0b HTTP/1.1", b"400"),
        (b"GET //health/live HTTP/1.1", b"404"),
        (b"GET /%ff HTTP/1.1", b"404"),
        (b"BREW /health/live HTTP/1.1", b"400"),
    ],
)
def test_a_target_is_one_path_in_whatever_form_it_comes(target, request_line, status):
    answer = target.ask(request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert answer.split(b" ")[1] == status


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 100_000,
    ],
)
def test_what_is_no_http_is_told_so_and_ended(target, sent):
    answer = target.ask(sent)

    assert answer.split(b" ")[1] in {b"400", b"405", b"431"}
    assert target.victim_is_answered()


def test_an_upgrade_is_answered_and_ended(target):
    answer = target.ask(
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        + b"x" * 5000
    )

    assert answer.startswith(b"HTTP/1.1 200 ")
