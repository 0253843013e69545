"""Whose turn it is: visitors take turns, and each visitor's own things keep their order."""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A queue in which somebody with a hundred things does not hold up somebody with one."""

    def __init__(self) -> None:
        # In the order in which visitors are served next; who has been served goes to the end.
        self._lines: dict[str, deque[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def add(self, visitor: str, item: T) -> None:
        self._lines.setdefault(visitor, deque()).append(item)

    def waiting(self, visitor: str) -> int:
        """How many things of this visitor's wait."""
        return len(self._lines.get(visitor, ()))

    def take(self) -> T:
        """The next in turn.

        Raises:
            IndexError: nothing waits.
        """
        if not self._lines:
            raise IndexError("nothing waits")
        visitor = next(iter(self._lines))
        line = self._lines.pop(visitor)
        item = line.popleft()
        if line:
            self._lines[visitor] = line
        return item

    def remove(self, item: T) -> bool:
        """Take a thing out before its turn; whether it was there."""
        for visitor, line in self._lines.items():
            if item in line:
                line.remove(item)
                if not line:
                    del self._lines[visitor]
                return True
        return False

    def order(self) -> list[T]:
        """All that wait, in the order in which they will be taken if nothing is added."""
        lines = [list(line) for line in self._lines.values()]
        rounds = range(max(map(len, lines), default=0))
        return [line[number] for number in rounds for line in lines if number < len(line)]
