"""A program that writes numbered lines to a log until told to stop, in one of three ways.

open: opens the file for each line. watched: `logging.handlers.WatchedFileHandler`. hold: opens once, never reopens.
Prints `started` after the first line and how many lines it wrote at the end; at most LIMIT
lines, in bursts of A_MILLISECOND lines.
"""

import logging.handlers
import select
import sys
from collections.abc import Callable
from pathlib import Path

LIMIT, A_MILLISECOND = 1_000_000, 50


def line_writer(style: str, path: str) -> Callable[[str], None]:
    if style == "hold":
        file = Path(path).open("a", buffering=1)  # noqa: SIM115 - held open on purpose, until the process ends
        return lambda line: (file.write(line + "\n"), None)[1]
    if style == "watched":
        handler = logging.handlers.WatchedFileHandler(path)
        return lambda line: handler.emit(logging.makeLogRecord({"msg": line}))

    def open_for_each(line: str) -> None:
        with Path(path).open("a") as file:
            file.write(line + "\n")

    return open_for_each


def main() -> None:
    style, path = sys.argv[1:]
    write = line_writer(style, path)
    count = 0
    while count < LIMIT and not select.select([sys.stdin], [], [], 0 if count % A_MILLISECOND else 0.001)[0]:
        write(f"{style} {count:07d} of a program that goes on writing")
        count += 1
        if count == 1:
            print("started", flush=True)
    print(count, flush=True)


if __name__ == "__main__":
    main()
