"""A process that does nothing but send, to be killed: ``python -m tests.delivery.sender_process DSN LEASE_S TIMEOUT_S``."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import sys

from prometheus_client import CollectorRegistry

from app.delivery.channel_process import ChannelProcess
from app.delivery.sealing import Sealer
from app.delivery.sender import Sender
from app.delivery.transport import Transport
from app.metrics import DeliveryMetrics
from app.store.pool import make_pool

KEY = "a-key-of-a-test-that-is-long-enough-to-be-one"
LOOPBACK = ((ipaddress.ip_network("127.0.0.0/8"), None),)


async def main(dsn: str, lease_s: float, timeout_s: float) -> None:
    pool = make_pool(dsn, max_size=4, name="sender")
    await pool.open(wait=True)
    transport = Transport(LOOPBACK, timeout_s=timeout_s)
    sender = Sender(
        pool,
        transport=transport,
        third_party=ChannelProcess(LOOPBACK),
        sealer=Sealer([KEY]),
        public_url="https://vyx.test",
        metrics=DeliveryMetrics(CollectorRegistry()),
        lease_s=lease_s,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sender.stop)
    await sender.run()
    await transport.close()
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
