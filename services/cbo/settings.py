"""Settings of the CBO (`CALYX_CBO_…`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class CboSettings(ServiceSettings):
    """How often pulses run, how much of them is kept, and how long to wait for others."""

    model_config = SettingsConfigDict(env_prefix="CALYX_CBO_", frozen=True, extra="forbid")

    pulse_interval_seconds: float = Field(60.0, ge=1, le=86_400, description="Time from one pulse to the next.")
    keep_pulses: int = Field(20_000, ge=10, description="How many pulse records are kept.")
    reap_seconds: float = Field(
        1.0, ge=0.2, le=10, description="Time between two sweeps of the task exchange between pulses."
    )
    compact_seconds: float = Field(
        300.0, ge=1, le=86_400, description="Time between two steps of moving finished tasks to the archive."
    )
    keep_task_days: float = Field(
        3.0, ge=0, le=365, description="How long finished tasks keep files of their own before they are archived."
    )
    keep_archive_days: float = Field(
        365.0,
        ge=1,
        description="How long archived tasks are kept whole and listed; after it, only their ids and how they ended.",
    )
    probe_tries: int = Field(
        3, ge=1, le=100, description="In how many pulses a silent prober is asked before a TES stays unknown."
    )
    undo_wait_seconds: float = Field(
        4.0, ge=0, le=60, description="How long Undo waits for the agent's answer before it says that it goes on."
    )
    answer_days: float = Field(
        7.0, gt=0, le=365, description="How long a plan or proposal waits for a person's answer before it ends."
    )
    notify_seconds: float = Field(
        10.0, ge=1, le=3600, description="Time between two looks at what people elsewhere have to be told."
    )
    notify_file: Path | None = Field(
        None, description="Where to tell people, one `name = address` a line; unset: notify.conf among the secrets."
    )
    page: str = Field("", description="The dashboard's address in notices; unset: as the embedded station has it.")
    explore: Literal["on", "off"] = Field(
        "on", description="off: no procedure is tried to learn; each domain takes what is best as far as it is known."
    )
    policy_file: Path | None = Field(
        None, description="Rules from here, not config/policy.yaml; without it nothing acts."
    )
