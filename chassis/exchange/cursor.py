"""Where a claimer stands in a ready folder, so that a claim among 100,000 tasks does not list them all."""

import threading
from collections import deque
from collections.abc import Iterator

from chassis.exchange.moves import names

FEW = 256


class Cursor:
    """The rule: what is left of the last listing is used up before the folder is listed again, unless few are left.

    So a small folder is taken in order while nobody else takes from it; in a large one a newcomer waits behind those
    listed before it.
    Higher priorities lie in folders of their own, which are asked first.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._left: deque[str] = deque()
        self._lock = threading.Lock()

    def names(self) -> Iterator[str]:
        """Each name once, in order, until the folder has been looked through to its end."""
        fresh = False
        while True:
            with self._lock:
                if not fresh and len(self._left) <= FEW:
                    self._left, fresh = deque(names(self._folder)), True
                if not self._left:
                    return
                name = self._left.popleft()
            yield name

    def skip(self) -> None:
        """Another claimer was faster, and goes on through the same names: begin in the middle of those left."""
        with self._lock:
            self._left.rotate(-(len(self._left) // 2))
