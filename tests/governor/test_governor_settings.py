"""Every setting is documented, and a wrong one is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from chassis.domains import load_domains
from chassis.layout import DEPLOY
from services.governor.cleanup import Cleanup
from services.governor.codecs import PROCEDURES
from services.governor.disk_cleanup import DiskCleanup
from services.governor.settings import GovernorSettings

SPEC = Path(__file__).parents[2] / "docs" / "specs" / "governor-agent.md"


@pytest.mark.parametrize(
    "name", sorted(set(GovernorSettings.model_fields) - {"listen", "metrics_listen", "grace_seconds"})
)
def test_every_setting_is_in_the_spec_with_its_default(name: str) -> None:
    default = GovernorSettings.model_fields[name].default
    shown = f"{default:g}" if isinstance(default, int | float) else str(default)
    assert f"| `CALYX_GOVERNOR_{name.upper()}` | {shown} |" in SPEC.read_text()


@pytest.mark.parametrize(
    "wrong",
    [{"sample_seconds": 0.5}, {"ram_low_percent": 81}, {"slot_seconds": 10, "sample_seconds": 6}, {"scope": "moon"}],
)
def test_settings_that_contradict_themselves_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GovernorSettings(**wrong)


def test_the_shipped_domains_name_exactly_the_procedures_that_exist() -> None:
    domains = load_domains(DEPLOY / "domains")
    assert domains["log_rotation"].procedures == tuple(PROCEDURES)
    assert domains["cleanup"].procedures == Cleanup.procedures
    assert domains["disk_cleanup"].procedures == DiskCleanup.procedures
    assert {domains[d].owner for d in ("log_rotation", "cleanup", "disk_cleanup")} == {"governor"}
