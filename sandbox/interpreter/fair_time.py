"""
How the users of a machine share the time that their functions have in a slot. Pure: the caller says what each one took.

Half of the time is divided equally between the users with functions due in the slot. That part is a user's own until the
slot ends; nobody else can take it. The other half is common: a user who has spent the own part continues with it. Functions
run in order of what their users have spent, least first, so that small needs get the common half before large ones.

Example: 5 s, 10 users. Each has 0.25 s of its own. One needs 2 s, the others 0.1 s each: they run first, then the one has its
0.25 s and 1.75 s of the common 2.5 s.

Why not equal parts alone: 500 users would have 10 ms each, too little for two functions, while most need less. Why not
order alone: a slot asks for functions in several rounds (functions of functions' values, bars that were missed, series
recomputed), and what comes last must still find time.

A function that traders of several users have in common runs once. Its time comes in equal parts out of what they have
left of their own, then out of the common half, on the account of the one who has spent least. It fails only when none of
them has time, and nobody pays more than alone.
"""

from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush

User = Hashable
Node = Hashable
"""One function as it runs: what equal `each` of all plans have become."""

OWN_SHARE = 0.5
"""Of the whole time, the part divided between the users."""
OVERRUN_MAX = 1.0
"""
Of the whole time, what may be taken beyond it by functions already running: they are stopped between calls only. What
they overrun does not come out of others' own time, yet a crowd of such users must not stretch the slot without end.
"""


class Shares:
    """
    The time of one slot.

    Args:
        seconds: For all functions.
        users: Of each function, the users with a trader due in this slot that has it. Any other function has the common
            time only; without any users all of it is common.
        before: What users spent in the slot before: those known to need little run before the unknown.
    """

    def __init__(
        self, seconds: float, users: Mapping[Node, Collection[User]], before: Mapping[User, float]
    ) -> None:
        self._users = users
        everybody = {user for those in users.values() for user in those}
        own_s = OWN_SHARE * seconds / len(everybody) if everybody else 0.0
        self._own = dict.fromkeys(everybody, own_s)
        self._common = seconds - own_s * len(everybody)
        self._end = seconds * (1 + OVERRUN_MAX)
        self._equal_s = seconds / max(1, len(everybody))
        self._before = before
        self.spent: dict[User, float] = {}
        self.total = 0.0

    def left(self, node: Node) -> float:
        """How many seconds there are for a function; at least 0."""
        own = sum(self._own.get(user, 0.0) for user in self._users_of(node))
        return max(0.0, min(own + max(0.0, self._common), self._end - self.total))

    def charge(self, node: Node, seconds: float) -> None:
        """A function took *seconds*, which may be more than it had left."""
        users, rest = self._users_of(node), seconds
        for at, user in enumerate(sorted(users, key=lambda user: self._own.get(user, 0.0))):
            part = min(self._own.get(user, 0.0), rest / (len(users) - at))
            if part:
                self._own[user] -= part
                self._spend(user, part)
                rest -= part
        self._common -= rest
        # Not divided: a large need would look small beside a user who has already had more than an equal part.
        self._spend(min(users, key=lambda user: self.spent.get(user, 0.0)), rest)
        self.total += seconds

    def spent_by(self, node: Node) -> list[float]:
        """What each user of a function has spent."""
        return [self.spent.get(user, 0.0) for user in self._users_of(node)]

    def in_turn(self, nodes: Sequence[Node]) -> Iterator[Node]:
        """
        All of *nodes*, once each, in the order to run them, which depends on what is charged in between.

        Next is a function of the user who has spent least, or is expected to: what was spent in the slot before counts
        until this slot's is more, an equal part for whom is not known. Of one user's functions the first is first.
        """
        queues: dict[User, deque[Node]] = {}
        for node in nodes:
            for user in self._users_of(node):
                queues.setdefault(user, deque()).append(node)
        turns = [(self._turn(user), at, user) for at, user in enumerate(queues)]
        heapify(turns)
        done: set[Node] = set()
        while turns:
            was, at, user = heappop(turns)
            queue = queues[user]
            if was == self._turn(user):  # else a shared one was paid for meanwhile
                node = queue.popleft()
                if node not in done:
                    done.add(node)
                    yield node
            if queue:
                heappush(turns, (self._turn(user), at, user))

    def _users_of(self, node: Node) -> Collection[User]:
        return self._users.get(node) or (None,)

    def _spend(self, user: User, seconds: float) -> None:
        self.spent[user] = self.spent.get(user, 0.0) + seconds

    def _turn(self, user: User) -> float:
        return max(self.spent.get(user, 0.0), self._before.get(user, self._equal_s))
