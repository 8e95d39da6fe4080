"""
Runs users' functions (`each`) in interpreter processes of their own.

Decided here: what a function is given and may give back, its limits, and who is blamed when it strikes one. Not
decided here: for which symbols and bars it is asked (`sandbox.engine.ranges`), what its text may say
(`sandbox.plan.text.function`), whose time it takes (`sandbox.interpreter.fair_time`).

A value is a fact of its inputs. Every call runs the function's definitions again, in a session that holds one function
only, so nothing is left behind for the next symbol, slot or tenant. Calls travel in batches; when a batch strikes a
limit its calls are made one by one, so that a single call is blamed, by its symbol. An interpreter process that dies
is replaced by the pool.
"""

import ast
import functools
import math
import threading
import time
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic_monty import (
    Monty,
    MontyCrashedError,
    MontyError,
    MontyRuntimeError,
    MontySession,
    ResourceLimits,
)

from sandbox.interpreter.cpu_time import CpuWatch
from sandbox.interpreter.fair_time import Shares
from sandbox.interpreter.limits import limit_worker
from sandbox.plan.operators.kind import Array, Params

CALL_SECONDS_MAX = 0.05
"""Of CPU, like all limits of time here: on a busy machine a function has as much time as on an idle one."""
NODE_SECONDS_MAX = 0.25
"""All calls of one `each` in a slot; 400 symbols at 10 to 20 us take a thirtieth of it."""
SLOT_SECONDS_MAX = 5.0
"""All functions of all traders in a slot, so that they cannot keep a machine from the next one; shared between their users."""
MEMORY_BYTES_MAX = 32_000_000
RECURSION_MAX = 100
PATIENCE = (1, 8, 64)
"""
Monty limits wall-clock time: so many times the CPU time of a call. A call that strikes the limit without having used its
CPU time is made again with the next one.
"""
REQUEST_SECONDS_MAX = 0.4
"""The host's own limit of CPU behind the sandbox's: after it the process is killed (arithmetic on huge integers)."""
REQUEST_WALL_SECONDS_MAX = 5.0
WALL_FACTOR = 20
"""A run ends after so many times its CPU time, too: on a machine that has no time for it."""
WORKER_BYTES_MAX = 1 << 30
CHECKOUTS_PER_WORKER_MAX = 10_000
BATCH_CALLS = 64
"""Calls fed at once: 64 x 4 series x 500 bars x 16 bytes is 2 MB of a session's 32."""
_QUOTED_CHARS_MAX = 200

_LIMITS: tuple[ResourceLimits, ...] = tuple(
    {
        "max_feed_duration_secs": CALL_SECONDS_MAX * patience,
        "max_memory": MEMORY_BYTES_MAX,
        "max_recursion_depth": RECURSION_MAX,
    }
    for patience in PATIENCE
)
_STRUCK = {
    "TimeoutError": f"takes longer than {CALL_SECONDS_MAX * 1000:g} ms",
    "MemoryError": f"needs more than {MEMORY_BYTES_MAX // 10**6} MB",
    "RecursionError": f"makes calls more than {RECURSION_MAX} deep",
}
_GIVES = "vyx gives "
_HARNESS = f"""
vyx_at = [0]
def print(*args, **options):
    pass
def vyx_number(value):
    if value is None:
        return None
    if not isinstance(value, (bool, int, float)):
        raise TypeError({_GIVES!r} + "a " + type(value).__name__)
    if isinstance(value, int) and abs(value) >= 10 ** 300:
        raise TypeError({_GIVES!r} + "a number too large")
    return float(value)
def vyx_run(calls):
    answers = []
    for at in range(len(calls)):
        vyx_at[0] = at
        answers.append(vyx_number(vyx_make()(*calls[at])))
    return answers
"""
_ONE_LINE = str.maketrans({"\n": " ", "\r": " ", "\t": " "})

EachCall = tuple[str, Sequence[list[Any]]]
"""The symbol, and one list for each series: numbers or booleans, oldest first."""


class EachError(Exception):
    """A function of the user's has failed; the message names it, the symbol and the limit."""


class _LimitStruck(Exception):
    """A batch struck a limit; the message says which. *in_time*: Monty's, of wall-clock time."""

    def __init__(self, message: str, *, in_time: bool = False) -> None:
        super().__init__(message)
        self.in_time = in_time


class _TimeUp(Exception):
    """There is no time for another batch."""


class _Meter:
    """The CPU time of one `run`: of the calling thread, and of the interpreter process while it works for it."""

    def __init__(self) -> None:
        self._began_s = time.thread_time()
        self._began_at = time.monotonic()
        self.process_s = 0.0

    @property
    def spent_s(self) -> float:
        return self.process_s + time.thread_time() - self._began_s

    def is_over(self, limit_s: float) -> bool:
        return self.spent_s >= limit_s or time.monotonic() - self._began_at >= limit_s * WALL_FACTOR


class EachRunner:
    """
    Runs functions in at most *processes* interpreter processes, started when first needed.

    Use it as a context manager, or `close` it. `run` may be called from any thread.

    Args:
        node_seconds: Of CPU, for all calls of one `run`.
        slot_seconds: For all runs between two calls of `begin`, shared between the users.
    """

    def __init__(
        self,
        *,
        processes: int = 1,
        node_seconds: float = NODE_SECONDS_MAX,
        slot_seconds: float = SLOT_SECONDS_MAX,
    ) -> None:
        self._processes = processes
        self._node_seconds = node_seconds
        self._slot_seconds = slot_seconds
        self._lock = threading.Lock()
        self._pool: Monty | None = None
        self._watch = CpuWatch()
        self._process_s = 0.0
        self._shares = Shares(slot_seconds, {}, {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the interpreter processes; the next run would start new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.__exit__(None, None, None)

    @property
    def spent_s(self) -> float:
        """CPU seconds that functions took since the last `begin`."""
        return self._shares.total

    @property
    def process_s(self) -> float:
        """The part of ``spent_s`` that the interpreter process used."""
        return self._process_s

    def begin(self, users: Mapping[Hashable, Collection[Hashable]] | None = None) -> None:
        """
        A new slot, or another piece of work with a time of its own.

        *users* are those of each node, a function as it is given to `run`; None: all is one user's.
        """
        self._shares = Shares(self._slot_seconds, users or {}, self._shares.spent)
        self._process_s = 0.0

    def in_turn(self, nodes: Sequence[Hashable]) -> Iterator[Any]:
        """The nodes in the order to `run` them, so that who needs little does not wait behind who needs much."""
        return self._shares.in_turn(nodes)

    def run(self, source: str, name: str, calls: Iterable[EachCall], node: Hashable = None) -> list[float]:
        """
        The answers of the function *name*, defined by *source*, in the order of *calls*; NaN for None.

        *node* says whose time it takes: that of the users that `begin` got for it.

        Raises:
            EachError: The function raised, gave what is no number, or struck a limit; it names the symbol. Or its users
                have no time left in this slot.
        """
        share_s = self._shares.left(node)
        try:
            with self._charged(node) as meter:
                text = _definition(source, name)
                return list(self._answers(text, name, iter(calls), meter, share_s))
        except _TimeUp as up:
            had_less = share_s < self._node_seconds
            raise (self._used_up(node) if had_less else self._too_slow(name)) from up

    @contextmanager
    def _charged(self, node: Hashable) -> Iterator[_Meter]:
        meter, shares = _Meter(), self._shares
        try:
            yield meter
        finally:
            shares.charge(node, meter.spent_s)
            self._process_s += meter.process_s

    def _answers(
        self, text: str, name: str, calls: Iterator[EachCall], meter: _Meter, share_s: float
    ) -> Iterator[float]:
        while batch := list(islice(calls, BATCH_CALLS)):
            if meter.is_over(min(share_s, self._node_seconds)):
                raise _TimeUp
            try:
                yield from self._fed(text, name, batch, meter)
            except _LimitStruck:
                once_more_s = min(share_s, meter.spent_s + self._node_seconds)
                for call in batch:
                    if meter.is_over(once_more_s):
                        raise _TimeUp from None
                    yield from self._alone(text, name, call, meter)

    def _alone(self, text: str, name: str, call: EachCall, meter: _Meter) -> list[float]:
        """A call in a session of its own. If it strikes a limit again, it is to blame, or the machine was too busy."""
        for limits in _LIMITS:
            before_s = meter.process_s
            try:
                return self._fed(text, name, [call], meter, limits)
            except _LimitStruck as struck:
                had_its_time = meter.process_s - before_s >= CALL_SECONDS_MAX * 0.9
                if had_its_time or not struck.in_time or limits is _LIMITS[-1]:
                    raise EachError(f"{name} {struck} on {call[0]}") from struck
        raise AssertionError("there is a last limit")

    def _too_slow(self, name: str) -> EachError:
        return EachError(
            f"{name} takes longer than {self._node_seconds * 1000:g} ms for all symbols; call it on fewer, with when="
        )

    def _used_up(self, node: Hashable) -> EachError:
        spent = self._shares.spent_by(node)
        least = "at least " if max(spent) > min(spent) else ""  # one message for the traders of several users
        return EachError(
            f"your functions took {least}{min(spent):.2g} s of this slot, all the time there was for them; "
            "call them on fewer symbols, with when="
        )

    def _fed(
        self,
        text: str,
        name: str,
        batch: Sequence[EachCall],
        meter: _Meter,
        limits: ResourceLimits = _LIMITS[0],
    ) -> list[float]:
        """The answers of one session. Raises _LimitStruck, or EachError for what the function itself did."""
        try:
            with self._opened().checkout(limits=limits) as session:
                limit_worker(session.worker_pid, WORKER_BYTES_MAX)
                with self._watch.limit(session.worker_pid, REQUEST_SECONDS_MAX) as watched:
                    try:
                        session.feed_run(text)
                        given = [list(arguments) for _, arguments in batch]
                        answers: object = session.feed_run("vyx_run(vyx_calls)", inputs={"vyx_calls": given})
                    except MontyRuntimeError as error:
                        raise _failure(error, session, text, name, batch) from error
                    finally:
                        meter.process_s += watched.spent_s
        except MontyCrashedError as error:
            raise _LimitStruck("is too much for the interpreter") from error
        except MontyError as error:
            raise EachError(f"{name} cannot be read: {_line(str(error))}") from error
        return _checked(answers, name, batch)

    def _opened(self) -> Monty:
        with self._lock:
            if self._pool is None:
                self._pool = Monty(
                    min_processes=0,
                    max_processes=self._processes,
                    request_timeout=REQUEST_WALL_SECONDS_MAX,
                    max_checkouts_per_worker=CHECKOUTS_PER_WORKER_MAX,
                )
                self._pool.__enter__()
            return self._pool


def each_values(
    runner: EachRunner, params: Params, args: Sequence[Array], names: Sequence[str], node: Hashable = None
) -> npt.NDArray[np.float64]:
    """
    The values of one `each`: shape (symbols or 1, bars), NaN where it was not called or gave None.

    It is called where the condition holds and every series has all its values: a symbol too young for the function is no
    reason for it to fail.

    *args* are the condition and the series, shape (symbols or 1, bars + `bars` - 1); *names* the symbols; *node* as for `EachRunner.run`.

    Raises:
        EachError: As `EachRunner.run`.
    """
    bars, rows = int(params["bars"]), max(len(arg) for arg in args)
    asked: Any = np.broadcast_to(args[0][:, bars - 1 :], (rows, args[0].shape[1] - bars + 1))
    for arg in args[1:]:
        asked = asked & _complete(arg, bars)
    result = np.full(asked.shape, np.nan)
    where = np.nonzero(asked)
    if not len(where[0]):
        return result
    lists = [arg.tolist() for arg in args[1:]]
    labels = names if rows == len(names) else ["the fixed symbol"] * rows
    calls = (
        (labels[row], [one[row if len(one) > 1 else 0][bar : bar + bars] for one in lists])
        for row, bar in zip(where[0].tolist(), where[1].tolist(), strict=True)
    )
    result[where] = runner.run(str(params["source"]), str(params["name"]), calls, node)
    return result


def _complete(values: Array, bars: int) -> Array:
    """Where the last *bars* values are all there: shape (symbols or 1, values - *bars* + 1)."""
    if values.dtype == np.bool_:
        return np.ones((1, 1), dtype=np.bool_)
    missing: Any = np.isnan(values.astype(np.float64, copy=False))
    before = np.concatenate([np.zeros((len(values), 1), dtype=np.int64), np.cumsum(missing, axis=1)], axis=1)
    whole: Array = before[:, bars:] == before[:, :-bars]
    return whole


@functools.lru_cache(maxsize=1024)
def _definition(source: str, name: str) -> str:
    """What a session is fed first: the harness, and *source* inside a function that defines the user's once more."""
    tree = ast.parse("def vyx_make():\n    pass")
    make = tree.body[0]
    assert isinstance(make, ast.FunctionDef)  # noqa: S101 - just parsed
    given = [
        statement
        for statement in ast.parse(source).body
        if not (isinstance(statement, ast.ImportFrom) and statement.module == "__future__")
    ]
    make.body = [*given, ast.Return(ast.Name(name, ast.Load()))]
    return _HARNESS + ast.unparse(ast.fix_missing_locations(tree))


def _failure(
    error: MontyRuntimeError, session: MontySession, text: str, name: str, batch: Sequence[EachCall]
) -> Exception:
    """What an exception that ended a batch means."""
    kind, _, message = error.display("type-msg").partition(": ")
    if kind in _STRUCK:
        return _LimitStruck(_STRUCK[kind], in_time=kind == "TimeoutError")
    try:
        at: object = session.feed_run("vyx_at[0]")
    except MontyError:
        at = None
    known = at if isinstance(at, int) and 0 <= at < len(batch) else None
    symbol = batch[known][0] if known is not None else "a symbol"
    if kind == "TypeError" and message.startswith(_GIVES):
        what = _line(message.removeprefix(_GIVES))
        return EachError(f"{name} gives {what} on {symbol}, not a number, True, False or None")
    lines = text.split("\n")
    at_line = next((f.line for f in reversed(error.traceback()) if 0 < f.line <= len(lines)), 0)
    place = f", in `{_line(lines[at_line - 1].strip())}`" if at_line else ""
    what = _line(f"{kind}: {message}" if message else kind)
    return EachError(f"{name} fails on {symbol}: {what}{place}")


def _checked(answers: object, name: str, batch: Sequence[EachCall]) -> list[float]:
    """The answers as numbers, whatever the session said."""
    if not isinstance(answers, list) or len(answers) != len(batch):
        raise EachError(f"{name} gives no answers")
    numbers = []
    for answer, (symbol, _) in zip(answers, batch, strict=True):
        number = math.nan if answer is None else answer
        if not isinstance(number, float) or math.isinf(number):
            raise EachError(f"{name} gives {_line(str(number))} on {symbol}, not a finite number")
        numbers.append(number)
    return numbers


def _line(text: str) -> str:
    """A text out of the sandbox as a message may quote it."""
    cut = text[:_QUOTED_CHARS_MAX].translate(_ONE_LINE)
    return "".join(sign if sign.isprintable() else "?" for sign in cut)
