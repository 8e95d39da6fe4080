"""
Real sender processes, killed every few seconds and in the middle of requests, against receivers that misbehave.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.delivery.storm import BEHAVIOURS, Storm, judge


@pytest.mark.timeout(170)
async def test_every_delivery_arrives_or_expires_and_no_signal_has_two_ids(dsn, make, screen, connection):
    storm = Storm(dsn, kill_every_s=4.0)
    async with storm.receiving():
        for behaviour in BEHAVIOURS:
            await make(url=f"{storm.url}/{behaviour}", name=behaviour, expires_after_s=60)
        for slot in range(1, 6):
            screen.match(*[f"S{n}USDT" for n in range(40)], slot=slot)
        await storm.until_nothing_is_pending(within_s=150)

    rows = connection.execute(
        "select source_id, destination_id, event, state::text, attempts, status from vyx.deliveries"
    ).fetchall()
    verdict = judge(rows, storm.log)
    assert verdict.faults == []
    assert storm.kills >= 5
    assert verdict.deliveries >= 5 * 40 * len(BEHAVIOURS)
    states = dict(
        connection.execute(
            "select n.name, min(d.state::text) filter (where d.state <> 'sent') from vyx.deliveries d"
            " join public.destinations n on n.id = d.destination_id where d.event = 'signal' group by n.name"
        ).fetchall()
    )
    assert states["ok"] is None, "a receiver without fault gets everything, whoever is killed"
    assert states["redirect"] == "expired"
    assert states["gone"] in ("failed", "expired")


async def test_a_certificate_nobody_vouches_for_is_a_failure(tmp_path):
    import ssl

    from aiohttp import web
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from app.delivery.rules.channels import HttpRequest
    from app.delivery.transport import Transport
    from tests.delivery.conftest import LOOPBACK

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    transport = Transport(LOOPBACK)

    answer = await transport.send(
        HttpRequest(url=f"https://127.0.0.1:{runner.addresses[0][1]}/", headers={}, body=b"{}")
    )
    await transport.close()
    await runner.cleanup()

    assert answer.status is None
    assert answer.text.startswith("its certificate is not valid")


async def test_an_answer_that_is_not_http_is_a_failure():
    import asyncio

    from app.delivery.rules.channels import HttpRequest
    from app.delivery.transport import Transport
    from tests.delivery.conftest import LOOPBACK

    async def garbage(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    transport = Transport(LOOPBACK, timeout_s=2)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    answer = await transport.send(HttpRequest(url=url, headers={}, body=b"{}"))
    await transport.close()
    server.close()

    assert answer.status is None
    assert not answer.is_final
