"""A text, its places, and the names it may not hold."""

import ast
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate

RESERVED_PREFIX = "vyx_"
"""Names of the prelude's own machinery begin like this; `syntax` refuses them in a filter."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of the user's text: lines and columns count from 1, columns count characters, the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


class Source:
    """A filter's text with byte offsets, as the syntax tree counts them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.raw = text.encode()
        self.lines = text.split("\n")
        self._starts = [0]
        self._columns: dict[int, list[int]] = {}
        for line in self.lines:
            self._starts.append(self._starts[-1] + len(line.encode()) + 1)

    def offset(self, line: int, byte_column: int) -> int:
        return self._starts[line - 1] + byte_column

    def offset_of_character(self, line: int, column: int) -> int:
        """Byte offset of a position given in characters (both from 1); beyond the text, its nearest end."""
        if line > len(self.lines):
            return len(self.raw)
        before = min(max(column - 1, 0), len(self.lines[line - 1]))
        return self._starts[line - 1] + (before if self._is_ascii(line) else self._byte_columns(line)[before])

    def range_of(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
        return self.offset(node.lineno, node.col_offset), self.offset(end_line, end_column)

    def span(self, start: int, end: int) -> Span:
        line, column = self._position(start)
        end_line, end_column = self._position(end)
        return Span(line, column, end_line, end_column)

    def span_of(self, node: ast.expr | ast.stmt) -> Span:
        return self.span(*self.range_of(node))

    def segment(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.range_of(node)
        return self.raw[start:end].decode()

    def text_at(self, span: Span) -> str:
        start = self.offset_of_character(span.line, span.column)
        return self.raw[start : self.offset_of_character(span.end_line, span.end_column)].decode()

    def _position(self, offset: int) -> tuple[int, int]:
        line = min(bisect_right(self._starts, offset), len(self.lines))
        into = offset - self._starts[line - 1]
        return line, (into if self._is_ascii(line) else bisect_left(self._byte_columns(line), into)) + 1

    def _is_ascii(self, line: int) -> bool:
        return self._starts[line] - self._starts[line - 1] == len(self.lines[line - 1]) + 1

    def _byte_columns(self, line: int) -> list[int]:
        """Where each character of a line begins, in bytes, and where the last one ends."""
        if line not in self._columns:
            sizes = (len(character.encode()) for character in self.lines[line - 1])
            self._columns[line] = [0, *accumulate(sizes)]
        return self._columns[line]
