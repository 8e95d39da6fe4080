"""
Third-party channel code: what reaches a real mail server, and what the child process may not do.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
import textwrap
from types import SimpleNamespace

import pytest
from aiohttp import web

from app.delivery.channel_process import ChannelProcess, masked
from app.delivery.rules.channels import ChannelCall
from tests.world import eventually

LOOPBACK = ((ipaddress.ip_network("127.0.0.0/8"), None),)


@pytest.fixture
async def channels():
    process = ChannelProcess(LOOPBACK)
    yield process
    await process.close()


@pytest.fixture
async def mail_server():
    """A mail server that keeps what it gets."""
    from aiosmtpd.smtp import SMTP

    class Keep:
        def __init__(self):
            self.mails = []

        async def handle_DATA(self, server, session, envelope):
            self.mails.append(envelope)
            return "250 OK"

    keep = Keep()
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(keep, enable_SMTPUTF8=True), "127.0.0.1", 0
    )
    yield SimpleNamespace(port=server.sockets[0].getsockname()[1], mails=keep.mails)
    server.close()


async def test_a_signal_arrives_by_mail(channels, mail_server, make, make_sender, screen, rows):
    await make(
        kind="email",
        url=None,
        settings={
            "smtp_host": "127.0.0.1",
            "smtp_port": str(mail_server.port),
            "smtp_security": "none",
            "from": "vyx@vyx.test",
            "to": "someone@vyx.test",
        },
    )
    screen.match("BTCUSDT")

    async with make_sender(third_party=channels):
        await eventually(lambda: rows("state = 'sent'"), within_s=60)

    (mail,) = mail_server.mails
    assert mail.rcpt_tos == ["someone@vyx.test"]
    assert b"BTCUSDT" in mail.content


async def test_the_child_reaches_no_private_address():
    process = ChannelProcess(())
    try:
        answer = await process.send(ChannelCall(url="json://127.0.0.1:9/", title="t", body="b"))
    finally:
        await process.close()

    assert answer.status is None


async def test_the_guard_refuses_what_channel_code_has_no_business_with():
    from app.delivery.channel_child import Guard, NotAllowed

    guard = Guard([])
    for event, arguments in (
        ("subprocess.Popen", ("sh",)),
        ("os.fork", ()),
        ("open", ("/tmp/x", "w", 0)),
        ("socket.connect", (None, ("10.0.0.1", 443))),
        ("socket.connect", (None, ("::ffff:127.0.0.1", 443, 0, 0))),
        ("socket.connect", (None, ("localhost", 443))),
        ("socket.connect", (None, "/var/run/docker.sock")),
        ("socket.connect", (None, ("8.8.8.8", 5432))),
    ):
        with pytest.raises(NotAllowed):
            guard(event, arguments)
    guard("socket.connect", (None, ("8.8.8.8", 443)))
    guard("socket.connect", (None, ("8.8.8.8", 587)))
    guard("open", ("/etc/ssl/certs/ca-certificates.crt", "r", 0))


async def test_the_child_inherits_no_environment(monkeypatch, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(
        textwrap.dedent("""
            import json, os, sys
            sys.stdout.write("\\n"); sys.stdout.flush()
            for line in sys.stdin:
                print(json.dumps({"ok": True, "text": " ".join(sorted(os.environ))}), flush=True)
        """)
    )
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    process = ChannelProcess((), command=(sys.executable, str(script)))
    try:
        answer = await process.send(ChannelCall(url="x://y", title="", body=""))
    finally:
        await process.close()

    assert "DATABASE_URL" not in answer.text
    assert os.environ["DATABASE_URL"]


@pytest.mark.parametrize(
    ("body", "text"),
    [("import time; time.sleep(60)", "no answer in time"), ("sys.exit(1)", "the channel's code crashed")],
)
async def test_code_that_hangs_or_dies_costs_one_attempt_and_the_next_gets_a_new_child(tmp_path, body, text):
    script = tmp_path / "child.py"
    script.write_text(
        f"import sys\nsys.stdout.write('\\n'); sys.stdout.flush()\nsys.stdin.readline()\n{body}\n"
    )
    process = ChannelProcess((), command=(sys.executable, str(script)), time_limit_s=0.5)
    try:
        answers = [await process.send(ChannelCall(url="x://y", title="", body="")) for _ in range(2)]
    finally:
        await process.close()

    assert [a.text for a in answers] == [text, text]
    assert [a.status for a in answers] == [None, None]


def test_what_the_library_complains_of_holds_no_part_of_the_url():
    url = "mailto://someone:s3cret%20word@mail.example.com/?from=a@b.c"

    assert masked("login failed for someone with s3cret word at mail.example.com", url) == (
        "login failed for … with … at mail.example.com"
    )


async def test_telegram_answers_and_their_retry_after_are_understood(
    make, make_sender, screen, receiver, rows
):
    receiver.answer = lambda _: web.json_response(
        {"ok": False, "error_code": 429, "parameters": {"retry_after": 33}}, status=429
    )
    await make(
        kind="telegram",
        url=receiver.url,
        settings={"bot_token": "123:abc", "chat_id": "7"},
        template="<b>{{symbol}}</b> {{price}} {{trader_name}}",
    )
    screen.connection.execute("update public.traders set name = 'a < b'")
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("status = 429"))

    (received,) = receiver.log
    assert received.path == "/hook/bot123:abc/sendMessage"
    assert received.json["text"] == "<b>BTCUSDT</b> 1.5 a &lt; b"
    assert "webhook-id" not in received.headers
    (row,) = rows()
    assert (row.next_attempt_at - row.answered_at).total_seconds() == pytest.approx(33, abs=1)


@pytest.mark.parametrize(
    ("kind", "given", "field"),
    [
        ("discord", {}, "content"),
        ("slack", {}, "text"),
        ("ntfy", {"settings": {"topic": "vyx-test"}}, "message"),
        ("pushover", {"settings": {"app_token": "aaaa", "user_key": "uuuuu"}}, "message"),
    ],
)
async def test_each_kind_says_the_symbol_and_the_price(
    make, make_sender, screen, receiver, rows, kind, given, field
):
    await make(kind=kind, **given)
    screen.match("BTCUSDT")

    async with make_sender():
        await eventually(lambda: rows("state = 'sent'"))

    (received,) = receiver.log
    assert "1.5" in received.json[field]
    assert "BTCUSDT" in received.json[field] + received.json.get("title", "")
