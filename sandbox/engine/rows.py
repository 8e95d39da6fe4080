"""Tables of newest values: a row of float64 for each series, conditions packed 64 symbols to a word."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sandbox.engine.calls import Ref
from sandbox.engine.candles.frame import Bools, Floats
from sandbox.plan.operators.kind import Array

CHUNK_ROWS = 256
"""Rows computed at once: 256 x 400 symbols x 8 bytes fits the second-level cache."""
Words = npt.NDArray[np.uint64]


class Rows:
    """
    The two tables of newest values, and which row each output has.

    Some rows belong to no output: what a group keeps of the bar before (`take`, `release`).
    """

    def __init__(self, symbols: int) -> None:
        self.symbols = symbols
        self.bytes = (symbols + 7) // 8
        words = (symbols + 63) // 64
        self.floats: Floats = np.full((64, symbols), np.nan)
        self.bits: Words = np.zeros((64, words), dtype=np.uint64)
        self._rows: dict[Ref, int] = {}
        self._free: dict[bool, list[int]] = {False: list(range(63, -1, -1)), True: list(range(63, -1, -1))}
        self.every = self.packed(np.ones((1, symbols), dtype=np.bool_))[0]

    def add(self, ref: Ref) -> None:
        """Give an output a row; what the row held before is still in it."""
        self._rows[ref] = self.take(is_bool=ref.call.is_bool)

    def remove(self, ref: Ref) -> None:
        """Give an output's row back."""
        self.release(self._rows.pop(ref), is_bool=ref.call.is_bool)

    def of(self, ref: Ref) -> int:
        """The row of an output."""
        return self._rows[ref]

    def take(self, *, is_bool: bool) -> int:
        """A free row."""
        free = self._free[is_bool]
        if not free:
            table = self.bits if is_bool else self.floats
            more = max(64, len(table) // 2)
            free.extend(range(len(table) + more - 1, len(table) - 1, -1))
            if is_bool:
                self.bits = np.concatenate([self.bits, np.zeros((more, self.bits.shape[1]), dtype=np.uint64)])
            else:
                self.floats = np.concatenate([self.floats, np.full((more, self.symbols), np.nan)])
        return free.pop()

    def release(self, row: int, *, is_bool: bool) -> None:
        """Give a row back."""
        self._free[is_bool].append(row)

    def packed(self, values: Any) -> Words:
        """Conditions of shape (n, symbols) as words."""
        words = np.zeros((len(values), (self.symbols + 63) // 64), dtype=np.uint64)
        words.view(np.uint8)[:, : self.bytes] = np.packbits(values, axis=1, bitorder="little")
        return words

    def unpacked(self, words: Words) -> Bools:
        """The reverse of `packed`."""
        octets = np.ascontiguousarray(words).view(np.uint8)
        return np.unpackbits(octets, axis=1, count=self.symbols, bitorder="little").view(np.bool_)

    def read(self, rows: Any, *, is_bool: bool) -> Array:
        """Values of *rows*, all conditions or all numbers; shape (n, symbols)."""
        return self.unpacked(self.bits[rows]) if is_bool else self.floats[rows]

    def write(self, row: int, values: Any, *, is_bool: bool) -> None:
        """Set one row from values of shape (symbols,) or (1,)."""
        if is_bool:
            self.bits[row] = self.packed(np.broadcast_to(values, (1, self.symbols)))[0]
        else:
            self.floats[row] = values

    def newest(self, ref: Ref) -> Array:
        """The newest values of an output, shape (symbols,)."""
        values: Array = self.read([self._rows[ref]], is_bool=ref.call.is_bool)[0]
        return values

    def set_newest(self, ref: Ref, values: Any) -> None:
        """Set the newest values of an output, as `write` takes them."""
        self.write(self._rows[ref], values, is_bool=ref.call.is_bool)
