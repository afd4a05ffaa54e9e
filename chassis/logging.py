"""Structured logs: JSON lines in the station's log folder, readable lines on a terminal, secrets left out."""

import logging
import logging.handlers
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

SECRET_KEY = re.compile(r"token|secret|password|authorization|credential|private_key|cookie", re.IGNORECASE)
SECRET_TEXT = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}|([?&](?:token|key|code)=)[^&\s\"']+")
REDACTED = "[redacted]"


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor: values under secret-looking keys and tokens inside texts never reach a file."""
    for key, value in event.items():
        event[key] = _clean(key, value)
    return event


def redact_text(text: str) -> str:
    """The text without bearer tokens and one-time codes."""
    return SECRET_TEXT.sub(lambda m: (m.group(1) or m.group(2)) + REDACTED, text)


def _clean(key: str, value: Any) -> Any:
    if SECRET_KEY.search(key):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {k: _clean(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", v) for v in value]
    return value


def configure(service: str, level: str, fmt: str, file: Path | None) -> None:
    """Route structlog and the standard library's logging to `file` (JSON) and the terminal.

    fmt: console and json always write to the terminal as well; auto does so only if it is a terminal (under
    supervisord the file is enough). The file is reopened when it was renamed away, so that it can be rotated.
    """

    def name_service(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", service)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        name_service,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )

    def formatter(*renderers: structlog.typing.Processor) -> logging.Formatter:
        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )

    as_json = (structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(ensure_ascii=False))
    handlers: list[logging.Handler] = []
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.handlers.WatchedFileHandler(file, encoding="utf-8"))
        handlers[-1].setFormatter(formatter(*as_json))
    terminal = sys.stderr.isatty()
    if fmt == "json":
        handlers.append(logging.StreamHandler(sys.stdout))
        handlers[-1].setFormatter(formatter(*as_json))
    elif fmt == "console" or terminal or file is None:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[-1].setFormatter(formatter(redact, structlog.dev.ConsoleRenderer(colors=terminal)))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "asyncio", "matplotlib", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
