"""
The process that runs third-party channel code: ``python -m app.delivery.channel_child [RANGE …]``.

It reads calls on stdin and answers on stdout, a JSON document a line. Before the first call it gives up what the code has no use for:
memory beyond a limit, files to write, other programs, and connections to anything but the public internet (an audit hook sees every
connection with the address it goes to, and cannot be taken out again). Its own alarm ends it even when its parent is gone.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from ipaddress import ip_network
from typing import Any

import apprise
import msgspec

from app.delivery.rules.addresses import Opening, address_of, refusal
from app.delivery.rules.channels import ChannelCall

MEMORY_BYTES_MAX = 512 << 20
FILES_MAX = 64
ALARM_S = 15  # behind the parent's limit
MAIL_PORTS = frozenset({25, 465, 587, 2525})
_FORBIDDEN = frozenset(
    {
        *("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "pty.spawn"),
        *(
            "os.remove",
            "os.rename",
            "os.mkdir",
            "os.rmdir",
            "os.link",
            "os.symlink",
            "os.chmod",
            "os.truncate",
        ),
        *("ctypes.dlopen", "socket.bind", "shutil.rmtree", "os.kill"),
    }
)


class NotAllowed(PermissionError):
    """Third-party code tried what it has no business with."""


class Guard:
    """The audit hook: called by the interpreter before each of these acts."""

    def __init__(self, allowed: list[Opening]) -> None:
        self._allowed = allowed

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """
        Raises:
            NotAllowed: the act does not happen.
        """
        if event in _FORBIDDEN:
            raise NotAllowed(f"{event} is not allowed here")
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            raise NotAllowed("no file is written here")
        if event in ("socket.connect", "socket.sendto"):
            self._check(arguments[1])

    def _check(self, target: object) -> None:
        if not isinstance(target, tuple) or len(target) < 2:
            raise NotAllowed("only internet addresses can be connected to")
        address, port = address_of(str(target[0])), int(target[1])
        if address is None:
            raise NotAllowed("connections go to addresses, not to names")
        # the ports of mail are open as well; which address it is decides
        reason = refusal(address, 443 if port in MAIL_PORTS else port, self._allowed)
        if reason is not None:
            raise NotAllowed(f"refused: {reason}")


class LastWarning(logging.Handler):
    """Keeps the last thing the library complained of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def main() -> None:
    """Answer calls until stdin ends."""
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    os.nice(5)
    warnings = LastWarning()
    logger = logging.getLogger("apprise")
    logger.addHandler(warnings)
    logger.propagate = False
    apprise.Apprise().add(
        "json://localhost"
    )  # loads the library's plugins while files may still be read freely
    sys.addaudithook(Guard([_opening(text) for text in sys.argv[1:]]))
    answers = sys.stdout.buffer
    answers.write(b"\n")  # ready
    answers.flush()
    for line in sys.stdin.buffer:
        signal.alarm(ALARM_S)
        answers.write(
            msgspec.json.encode(answer(msgspec.json.decode(line, type=ChannelCall), warnings)) + b"\n"
        )
        answers.flush()
        signal.alarm(0)


def _opening(text: str) -> Opening:
    """A range and its port, as the parent writes it: 10.0.0.0/8:443; no port stands for all."""
    network, _, port = text.rpartition(":")
    return ip_network(network), int(port) if port else None


def answer(call: ChannelCall, warnings: LastWarning) -> dict[str, Any]:
    """Make the call; whatever third-party code raises is its answer."""
    warnings.text = ""
    channel = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False, secure_logging=True))
    try:
        if not channel.add(call.url):
            return {"ok": False, "text": "the url is none of the apprise library"}
        ok = bool(channel.notify(body=call.body, title=call.title))
    except Exception as error:  # noqa: BLE001 the border to foreign code: whatever it raises is its answer
        return {"ok": False, "text": warnings.text or f"{type(error).__name__}: {error}"}
    return {"ok": ok, "text": "accepted" if ok else warnings.text or "the service did not take it"}


if __name__ == "__main__":
    main()
