"""The guardian's settings (`CALYX_GUARDIAN_…`) and the broker's (`CALYX_BROKER_…`)."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.settings import ServiceSettings


class GuardianSettings(ServiceSettings):
    """What the guardian looks at, how often, and through which runtime it acts."""

    model_config = SettingsConfigDict(env_prefix="CALYX_GUARDIAN_", frozen=True, extra="forbid")

    runtime: Literal["supervisord", "broker"] = Field(
        "supervisord", description="What starts and stops the services: supervisord or the Docker broker."
    )
    supervisor_socket: Path | None = Field(
        None,
        # `calyx up` tells supervisord and the guardian the same by one variable.
        validation_alias=AliasChoices("CALYX_GUARDIAN_SUPERVISOR_SOCKET", "CALYX_SUPERVISOR_SOCKET"),
        description="supervisord's unix socket; unset: CALYX_SUPERVISOR_SOCKET, else `<station>/run/supervisor.sock`.",
    )
    broker_socket: Path = Field(Path("/run/calyx-broker/broker.sock"), description="The Docker broker's unix socket.")
    probe_seconds: float = Field(3.0, ge=1, le=60, description="Time between two rounds of health probes.")
    start_grace_seconds: float = Field(
        15.0, ge=1, le=300, description="How long a service that was just started may take to answer."
    )


class BrokerSettings(BaseSettings):
    """The Docker broker: whose containers, which sockets."""

    model_config = SettingsConfigDict(env_prefix="CALYX_BROKER_", frozen=True, extra="forbid")

    station: str = Field("station", pattern=r"^[a-zA-Z0-9._-]{1,64}$", description="Value of the label calyx.station.")
    socket: Path = Field(Path("/run/calyx-broker/broker.sock"), description="Where the broker listens.")
    socket_gid: int | None = Field(None, ge=0, description="Group that may use the socket; unset: as created.")
    docker_socket: Path = Field(Path("/var/run/docker.sock"), description="The Docker engine's socket.")
    audit_file: Path = Field(Path("/station/audit/broker.jsonl"), description="One line for each request.")
