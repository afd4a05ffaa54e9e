"""`docs/settings.md`, made from the settings classes themselves: `python -m cli.settings_page` writes it."""

import importlib
import importlib.util
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from chassis.layout import SERVICES
from chassis.settings import ServiceSettings, StationSettings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

HEAD = """# Settings

Made by `make docs` from the settings classes; a test keeps it current. A setting comes from the environment or,
for one service, from `<station>/config/<service>.env` (the environment goes first). A bad value ends the service
at start with one line that names the variable.
"""


def discovered() -> list[type[BaseSettings]]:
    """StationSettings, then each service's own class, from `services.<name>.settings` or its `__main__`."""
    found: list[type[BaseSettings]] = [StationSettings]
    for service in SERVICES:
        for module in (f"services.{service}.settings", f"services.{service}.__main__"):
            if importlib.util.find_spec(f"services.{service}") is None or importlib.util.find_spec(module) is None:
                continue
            for _name, cls in inspect.getmembers(importlib.import_module(module), inspect.isclass):
                if issubclass(cls, BaseSettings) and cls.__module__.startswith("services.") and cls not in found:
                    found.append(cls)
    return found


def render(classes: Iterable[type[BaseSettings]]) -> str:
    """The page for these classes."""
    parts = [HEAD]
    for cls in classes:
        prefix = str(cls.model_config.get("env_prefix", ""))
        name = prefix.removeprefix("CALYX_").strip("_").lower()
        parts.append(f"\n## {name.capitalize() or 'The station'}\n\n| variable | default | what |\n|---|---|---|\n")
        defaults = {} if cls is StationSettings else _defaults(cls)
        for field_name, field in cls.model_fields.items():
            default = defaults.get(field_name, field.default)
            parts.append(f"| `{prefix}{field_name.upper()}` | {_shown(default)} | {field.description or ''} |\n")
    return "".join(parts)


def _defaults(cls: type[BaseSettings]) -> dict[str, Any]:
    """Ports that the class works out from its own name; the environment is not asked."""
    made: dict[str, Any] = cls._own_ports({}) if issubclass(cls, ServiceSettings) else {}  # type: ignore[operator] # pydantic wraps the classmethod
    return made


def _shown(default: Any) -> str:
    if default is None or default == "" or repr(default) == "PydanticUndefined":
        return ""
    return f"`{default}`"


if __name__ == "__main__":
    PAGE.write_text(render(discovered()))
