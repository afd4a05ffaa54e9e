"""SQLite's and the system's errors as ours, with what was kept and what to do."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chassis.errors import CalyxError, Damaged, Internal, ResourceExhausted, Unavailable


@contextmanager
def explained(what: str, path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into ours; `what` is what was tried, as in "could not …"."""
    try:
        yield
    except CalyxError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise explain(what, path, error) from error


def explain(what: str, path: Path, error: Exception) -> CalyxError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = getattr(error, "errno", None)
    if code == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceExhausted(
            f"the disk of {path} is full: could not {what}, nothing was half done; free some space"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(f"could not {what}: {path} is damaged ({error}); run `calyx memory restore`")
    if code == sqlite3.SQLITE_READONLY or number == errno.EROFS:
        return Unavailable(f"could not {what}: {path} is read-only; make its folder writable for the memory service")
    if isinstance(error, (OSError, sqlite3.OperationalError)):
        return Unavailable(f"could not {what}: {path} can't be used now ({error}); nothing was half done")
    return Internal(f"could not {what} in {path}: {error}; nothing was half done")
