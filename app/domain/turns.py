"""
Whose request is served next. Pure: one rule for every queue that users share.

Rules:

* A user has a line of their own. A line that is full takes no more.
* At most ``in_flight_max`` requests of one user are served at a time.
* Users are served by turns. The next turn belongs to the user whose last *event* is oldest. Events are: joining with
  an empty line and nothing in flight, a request of theirs that begins, a request of theirs that ends.
* Within a line the oldest request is first.

Why the end of a request counts, too: a user with a long request in flight would otherwise start a second one before
somebody who joined meanwhile.

What follows (`tests/domain/test_turns.py` holds it over random schedules): a request that joins an empty line while
its user has nothing in flight waits at most the longest service time of one request of each other active user,
whatever those users do. `sql/queries/previews.sql` applies the same rule to rows.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

IN_FLIGHT_MAX = 2
"""Requests of one user that are served at a time."""

User = TypeVar("User", bound=Hashable)
Request = TypeVar("Request")


class LineFull(Exception):
    """The user's own line has no room; nothing has changed."""


@dataclass
class _Line(Generic[Request]):
    waiting: deque[Request] = field(default_factory=deque)
    in_flight: int = 0

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.in_flight


class Turns(Generic[User, Request]):
    """
    The lines of all users before a number of places.

    Args:
        places: Requests served at a time, of all users; at least 1.
        in_flight_max: Of one user; at least 1.
        waiting_max: Length of one user's line, those in flight not counted.
    """

    def __init__(self, *, places: int, waiting_max: int, in_flight_max: int = IN_FLIGHT_MAX) -> None:
        self._places = places
        self._in_flight_max = in_flight_max
        self._waiting_max = waiting_max
        self._in_flight = 0
        self._lines: OrderedDict[User, _Line[Request]] = OrderedDict()  # the oldest event first

    def join(self, user: User, request: Request) -> None:
        """
        Put a request at the end of its user's line.

        Raises:
            LineFull: ``waiting_max`` requests of the user wait already.
        """
        line = self._lines.get(user)
        if line is None:
            line = self._lines[user] = _Line()
        if len(line.waiting) >= self._waiting_max:
            raise LineFull
        line.waiting.append(request)

    def begin(self) -> Request | None:
        """Take the request whose turn it is; None while no place is free or nobody may begin."""
        if self._in_flight >= self._places:
            return None
        for user, line in self._lines.items():
            if line.waiting and line.in_flight < self._in_flight_max:
                self._lines.move_to_end(user)
                line.in_flight += 1
                self._in_flight += 1
                return line.waiting.popleft()
        return None

    def end(self, user: User) -> None:
        """A request of the user that had begun has ended."""
        line = self._lines[user]
        line.in_flight -= 1
        self._in_flight -= 1
        self._lines.move_to_end(user)
        self._forget_idle(user)

    def leave(self, user: User, request: Request) -> None:
        """A request that waits gives up."""
        self._lines[user].waiting.remove(request)
        self._forget_idle(user)

    def waiting(self, user: User) -> int:
        """How many requests of the user wait."""
        line = self._lines.get(user)
        return len(line.waiting) if line else 0

    def in_flight(self, user: User) -> int:
        """How many requests of the user are being served."""
        line = self._lines.get(user)
        return line.in_flight if line else 0

    @property
    def waiting_count(self) -> int:
        """How many requests wait in all lines."""
        return sum(len(line.waiting) for line in self._lines.values())

    def _forget_idle(self, user: User) -> None:
        """Who comes back joins behind everybody who waits, so forgetting gives no advantage."""
        if self._lines[user].is_idle:
            del self._lines[user]
