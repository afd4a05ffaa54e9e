"""Settings of the governor (`CALYX_GOVERNOR_…`)."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings
from services.governor.admission import AdmitTerms
from services.governor.capacity import Freshness
from services.governor.governor import Terms
from services.governor.ram_rule import RamTerms


class GovernorSettings(ServiceSettings):
    """How often it looks, when it asks for a cleanup, and when nothing new may start."""

    model_config = SettingsConfigDict(env_prefix="CALYX_GOVERNOR_", frozen=True, extra="forbid")

    sample_seconds: float = Field(5.0, ge=1, le=60, description="Time between two samples.")
    slot_seconds: float = Field(60.0, ge=10, le=3600, description="Time that one row of capacity.csv covers.")
    scope: Literal["auto", "host"] = Field(
        "auto",
        description="auto: CPU and RAM of the cgroup that limits us, if any; host: of the whole machine.",
    )
    ram_high_percent: float = Field(80.0, gt=0, le=100, description="RAM above this counts towards a cleanup.")
    ram_low_percent: float = Field(75.0, gt=0, le=100, description="RAM below this clears the cleanup intent.")
    ram_high_pulses: int = Field(3, ge=1, le=100, description="Pulses above in a row that raise the intent.")
    ram_low_pulses: int = Field(2, ge=1, le=100, description="Pulses below in a row that clear it.")
    admit_ram_percent: float = Field(90.0, gt=0, le=100, description="From this RAM on no task starts.")
    admit_disk_percent: float = Field(95.0, gt=0, le=100, description="From this disk use on no task starts.")
    admit_memory_full_percent: float = Field(
        20.0, gt=0, le=100, description="From this memory pressure (PSI full, 10 s) on no task starts."
    )

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.ram_low_percent > self.ram_high_percent:
            raise ValueError("ram_low_percent must not be above ram_high_percent")
        if self.slot_seconds < 2 * self.sample_seconds:
            raise ValueError("slot_seconds must be at least twice sample_seconds")
        return self

    @property
    def terms(self) -> Terms:
        return Terms(
            fresh=Freshness(
                interval=self.sample_seconds,
                window=max(60.0, self.slot_seconds),
                unknown_after=10 * self.sample_seconds,
            ),
            ram=RamTerms(
                high_percent=self.ram_high_percent,
                low_percent=self.ram_low_percent,
                high_pulses=self.ram_high_pulses,
                low_pulses=self.ram_low_pulses,
            ),
            admit=AdmitTerms(
                ram_percent=self.admit_ram_percent,
                disk_percent=self.admit_disk_percent,
                memory_full_percent=self.admit_memory_full_percent,
            ),
            slot_seconds=self.slot_seconds,
        )
