"""Settings: frozen, read once in `__main__.py` from the environment and `<station>/config/<service>.env`."""

import sys
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.layout import SERVICES, Layout

GRPC_PORTS = {service: 50051 + n for n, service in enumerate(SERVICES)}
METRICS_PORTS = {service: 9151 + n for n, service in enumerate(SERVICES)}
"""memory 50051/9151 … dashboard 50056/9156, in start order."""

assert list(SERVICES) == ["memory", "governor", "guardian", "cbo", "analytics", "dashboard"], "ports follow this order"


def host_port(address: str) -> tuple[str, int]:
    """`host:port` as its parts. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError("write it as host:port, for example 127.0.0.1:50051")
    return host, int(port)


class StationSettings(BaseSettings):
    """What all services of a station share (`CALYX_…`)."""

    model_config = SettingsConfigDict(env_prefix="CALYX_", frozen=True, extra="forbid")

    station_dir: Path = Field(Path("station"), description="The state folder.")
    secrets_dir: Path | None = Field(None, description="Tokens and the grant key; unset: `<station>/secrets`.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="What goes to the terminal: json, console, or auto (console on a terminal, else nothing)."
    )
    endpoint_memory: str = Field("127.0.0.1:50051", description="Where memory answers gRPC.")
    endpoint_governor: str = Field("127.0.0.1:50052", description="Where governor answers gRPC.")
    endpoint_guardian: str = Field("127.0.0.1:50053", description="Where guardian answers gRPC.")
    endpoint_cbo: str = Field("127.0.0.1:50054", description="Where cbo answers gRPC.")
    endpoint_analytics: str = Field("127.0.0.1:50055", description="Where analytics answers gRPC.")
    endpoint_dashboard: str = Field("127.0.0.1:50056", description="Where dashboard answers gRPC.")

    @field_validator(*(f"endpoint_{service}" for service in SERVICES))
    @classmethod
    def _is_address(cls, value: str) -> str:
        host_port(value)
        return value

    @property
    def layout(self) -> Layout:
        return Layout(self.station_dir.absolute())

    @property
    def secrets(self) -> Path:
        """The secrets folder, given or by default."""
        return self.secrets_dir if self.secrets_dir is not None else self.layout.secrets

    def endpoint(self, service: str) -> str:
        """`host:port` of a service's gRPC."""
        return str(getattr(self, f"endpoint_{service}"))


class ServiceSettings(BaseSettings):
    """What every service has; a service adds its own and sets `env_prefix` (`CALYX_MEMORY_`)."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    listen: str = Field("", description="gRPC address; unset: loopback with the service's own port.")
    metrics_listen: str = Field("", description="Prometheus address; unset: loopback with the service's own port.")
    grace_seconds: float = Field(5.0, ge=0, le=60, description="How long running calls may finish when stopping.")

    @model_validator(mode="before")
    @classmethod
    def _own_ports(cls, data: Any) -> Any:
        service = str(cls.model_config.get("env_prefix", "")).removeprefix("CALYX_").strip("_").lower()
        if not isinstance(data, dict):
            return data
        own = {
            "listen": f"127.0.0.1:{GRPC_PORTS.get(service, 0)}",
            "metrics_listen": f"127.0.0.1:{METRICS_PORTS.get(service, 0)}",
        }
        return {**data, **{key: value for key, value in own.items() if not data.get(key)}}

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        host_port(value)
        return value


S = TypeVar("S", bound=BaseSettings)


def load(cls: type[S], service: str, layout: Layout | None = None) -> S:
    """Read `cls`; the environment goes before `<station>/config/<service>.env`.

    Bad values end the process with status 2 and one line that names each variable (never its value).
    """
    file = layout.root / "config" / f"{service}.env" if layout is not None else None
    try:
        return cls(_env_file=file) if file is not None and file.is_file() else cls()
    except ValidationError as error:
        _give_up(cls, service, error, file)


def _give_up(cls: type[BaseSettings], service: str, error: ValidationError, file: Path | None) -> NoReturn:
    prefix = cls.model_config.get("env_prefix", "")
    faults = "; ".join(
        f"{_variable(prefix, fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in error.errors(include_input=False, include_url=False)
    )
    where = f" (environment or {file})" if file is not None and file.is_file() else ""
    print(f"{service}: bad settings{where}: {faults}", file=sys.stderr)  # noqa: T201 — logging is not set up yet
    raise SystemExit(2)


def _variable(prefix: str, loc: tuple[int | str, ...]) -> str:
    name = ".".join(str(part) for part in loc).upper()
    return name if name.startswith(prefix) else prefix + name
