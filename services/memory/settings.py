"""Settings of the memory service (`CALYX_MEMORY_…`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings


class MemorySettings(ServiceSettings):
    """Which index and which embedding model."""

    model_config = SettingsConfigDict(env_prefix="CALYX_MEMORY_", frozen=True, extra="forbid", protected_namespaces=())

    index: Literal["exact", "chroma"] = Field(
        "exact",
        description="Vector index: a scan of 8-bit codes in memory, scored exactly from the store, or Chroma "
        "(needs the extra memory-chroma).",
    )
    model_dir: Path | None = Field(
        None, description="Folder with your own model.onnx and tokenizer.json; unset: the packaged MiniLM."
    )
    cached_texts: int = Field(2048, ge=0, le=1_000_000, description="How many texts' vectors are kept in memory.")
    roll_up_after_days: int = Field(30, ge=1, description="When successes and no-work runs may be rolled up.")
    retention: dict[str, int] = Field(
        {},
        description="Days that experiences are kept, by kind/outcome (JSON, `*` is any); unset: all are kept for ever. "
        'Example: {"task/no_work": 365}.',
    )
    nightly_hour: int = Field(
        3, ge=0, le=23, description="Hour (UTC) of compaction, backup and a fresh index; made up for after a pause."
    )
