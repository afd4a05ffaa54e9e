"""The named statements of the `.sql` files here and the numbered migrations beside them."""

from collections.abc import Mapping
from pathlib import Path

_HERE = Path(__file__).parent


def _named(text: str) -> Mapping[str, str]:
    parts = text.split("-- name: ")[1:]
    return {name.strip(): body.strip() for name, _, body in (part.partition("\n") for part in parts)}


SQL: Mapping[str, str] = {
    name: body for path in sorted(_HERE.glob("*.sql")) for name, body in _named(path.read_text()).items()
}


def migrations(folder: Path = _HERE / "migrations") -> list[tuple[int, str]]:
    """(number, script) in order; numbers run from 1 without a gap."""
    found = [(int(path.name[:4]), path.read_text()) for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))]
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise RuntimeError(f"the migrations in {folder} are not numbered 1 to {len(found)}")
    return found
