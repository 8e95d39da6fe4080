"""
Waiting for one's turn, in one process: `app.domain.turns` over asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

from app.domain.turns import LineFull, Turns
from app.errors import Kind, Refused

_Place = asyncio.Future[None]


class SharedQueue:
    """
    A queue that users share, served by turns.

    Args:
        what: What waits, in the plural, for the person who is refused: "filters".
        places: Served at a time, of all users.
        waiting_max: Of one user, beside the two that are served.
        wait_s: The longest wait.
    """

    def __init__(self, what: str, *, places: int, waiting_max: int, wait_s: float) -> None:
        self._what = what
        self._wait_s = wait_s
        self._turns: Turns[UUID, _Place] = Turns(places=places, waiting_max=waiting_max)

    @contextlib.asynccontextmanager
    async def turn(self, user_id: UUID) -> AsyncIterator[None]:
        """
        The block runs when it is the user's turn.

        Raises:
            Refused: BUSY when the user's own line is full or too slow, UNAVAILABLE when all others' are.
        """
        place: _Place = asyncio.get_running_loop().create_future()
        try:
            self._turns.join(user_id, place)
        except LineFull:
            raise self._busy(user_id) from None
        self._serve()
        try:
            await asyncio.wait([place], timeout=self._wait_s)
            if not place.done():
                raise self._too_slow(user_id)
            yield
        finally:
            if place.done():
                self._turns.end(user_id)
            else:
                self._turns.leave(user_id, place)
            self._serve()

    def _serve(self) -> None:
        while (place := self._turns.begin()) is not None:
            place.set_result(None)

    def _busy(self, user_id: UUID) -> Refused:
        waiting, in_flight = self._turns.waiting(user_id), self._turns.in_flight(user_id)
        return Refused(
            Kind.BUSY,
            f"{waiting} of your {self._what} wait and {in_flight} are being worked on; "
            "send the next one when one of them is answered.",
            retry_after_s=1,
        )

    def _too_slow(self, user_id: UUID) -> Refused:
        if self._turns.in_flight(user_id) or self._turns.waiting(user_id) > 1:
            return self._busy(user_id)
        return Refused(Kind.UNAVAILABLE, f"Too many {self._what} of other users wait; try again.")
