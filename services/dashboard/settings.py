"""Settings of the dashboard (`CALYX_DASHBOARD_…`)."""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from chassis.settings import ServiceSettings, host_port


class DashboardSettings(ServiceSettings):
    """The page's own; addresses of the other services are the station's (`CALYX_ENDPOINT_…`)."""

    model_config = SettingsConfigDict(env_prefix="CALYX_DASHBOARD_", frozen=True, extra="forbid")

    http_listen: str = Field("127.0.0.1:4040", description="Where the page is served.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further names (`name` or `name:port`, comma-separated) under which the page may be opened."
    )
    public_url: str = Field(
        "", description="How login links begin; unset: http:// and the address the page listens on."
    )
    session_hours: float = Field(168.0, gt=0, le=24 * 90, description="How long a login lasts.")
    capacity_interval_seconds: float = Field(
        5.0, gt=0, le=3600, description="How often the governor samples; figures older than two of these are stale."
    )

    @field_validator("http_listen")
    @classmethod
    def _is_http_address(cls, value: str) -> str:
        host_port(value)
        return value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("public_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("write it as http://name:port or https://name")
        return value.rstrip("/")
