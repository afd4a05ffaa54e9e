"""Settings of the analytics service (`CALYX_ANALYTICS_…`)."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class AnalyticsSettings(ServiceSettings):
    """How often the Cheetah Agent looks at the pulses by itself."""

    model_config = SettingsConfigDict(env_prefix="CALYX_ANALYTICS_", frozen=True, extra="forbid")

    analyze_every_seconds: float = Field(1800.0, ge=60, description="Time between two analyses of its own.")
    min_pulses: int = Field(12, ge=1, description="No analysis of its own before there are so many pulses.")
    last_pulses: int = Field(1440, ge=1, le=20_000, description="How many pulses such an analysis covers.")
