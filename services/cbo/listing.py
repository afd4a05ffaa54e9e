"""Which tasks a person asks to see, newest first: each question has its own index, so it costs what it shows."""

from chassis.errors import InvalidInput
from services.cbo.store import Store
from services.cbo.tasks import Task


def tasks(store: Store, *, state: str = "", domain: str = "", query: str = "", limit: int) -> list[Task]:
    """Empty means any. `query`: all of its words, whole ones, in objective, domain or reason."""
    if query.strip():
        return store.tasks("tasks_matching", expression(query, state, domain), state, domain, limit)
    if state and domain:
        return store.tasks("tasks_by_both", domain, state, limit)
    if state:
        return store.tasks("tasks_by_state", state, limit)
    return store.tasks("tasks_by_domain", domain, limit) if domain else store.tasks("tasks_newest", limit)


def expression(query: str, state: str, domain: str) -> str:
    """What FTS5 is asked. Whole words: their lists are read from the newest on, beginnings' would be merged first.

    Words are quoted, so that none is an operator; state and domain narrow inside the index.

    Raises InvalidInput where there is no word.
    """
    words = [word for word in query.split() if any(each.isalnum() for each in word)]
    if not words:
        raise InvalidInput("the query holds no word to search for")
    parts = ["{objective domain why} : (" + " AND ".join(_quoted(word) for word in words) + ")"]
    parts += [f"{column} : {_quoted(value)}" for column, value in (("state", state), ("domain", domain)) if value]
    return " AND ".join(parts)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
