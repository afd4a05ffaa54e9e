"""What the two Grafana dashboards show. `build.py` makes Grafana's JSON of it; the stack test asks every query.

Unknown figures are NaN or missing in Prometheus and read "unknown" here, never 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. `queries`: legend → PromQL. `filled`: a station that has pulsed three times has data for it."""

    title: str
    description: str
    unit: str
    queries: Mapping[str, str]
    kind: Literal["stat", "lines", "states"] = "lines"
    width: int = 8
    filled: bool = True
    names: Mapping[int, str] = field(default_factory=dict)
    """Words for values: 1 → "on"."""
    bad_above: float | None = None
    bad_below: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard: rows of panels."""

    uid: str
    title: str
    description: str
    rows: Mapping[str, tuple[Panel, ...]]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows.values() for panel in row)


STATION = Board(
    uid="calyx-station",
    title="Station overview",
    description="Is the station well, what is it doing, and how well does it do it.",
    rows={
        "Now": (
            Panel(
                title="Services up",
                description=(
                    "How many of the six services answered the guardian's last probe; unknown while any of them is."
                ),
                unit="none",
                queries={"": "sum(calyx_service_up)"},
                kind="stat",
                width=4,
                bad_below=6,
            ),
            Panel(
                title="Kill switch",
                description="On: no new effect starts. The services, probes and undo go on.",
                unit="none",
                queries={"": "calyx_kill_switch"},
                kind="stat",
                width=4,
                names={0: "off", 1: "ON"},
                bad_above=1,
            ),
            Panel(
                title="Last pulse",
                description="How long ago the last Bridge Pulse began.",
                unit="s",
                queries={"": "calyx_pulse_age_seconds"},
                kind="stat",
                width=4,
                bad_above=180,
            ),
            Panel(
                title="Open incidents",
                description="Faults the guardian has found and not closed yet.",
                unit="none",
                queries={"": "calyx_incidents_open"},
                kind="stat",
                width=4,
                bad_above=1,
            ),
            Panel(
                title="Uptime, 24 h",
                description="Slots of 60 s in which all six services answered. Target 95 %. "
                "Coverage says how much of the day it rests on; under 90 % there is no verdict.",
                unit="percent",
                queries={"": 'calyx_kpi{name="uptime"}'},
                kind="stat",
                width=4,
                filled=False,
                bad_below=95,
            ),
            Panel(
                title="Mean TES, 24 h",
                description="Tool Efficacy Score of the tasks with effects. Target 96.",
                unit="none",
                queries={"": 'calyx_kpi{name="mean_tes"}'},
                kind="stat",
                width=4,
                filled=False,
                bad_below=96,
            ),
        ),
        "Work": (
            Panel(
                title="TES by domain",
                description=(
                    "Mean score of each domain's tasks in its last pulse with a known one; it stands until the next."
                ),
                unit="none",
                queries={"{{domain}}": "calyx_tes"},
            ),
            Panel(
                title="Level by domain",
                description="How far each domain may act unattended: Watch, Suggest, Rehearse and ask, Act.",
                unit="none",
                queries={"{{domain}}": "calyx_level"},
                kind="states",
                names={1: "OBSERVE", 2: "SUGGEST", 3: "GUIDE", 4: "EXECUTE"},
            ),
            Panel(
                title="Confidence",
                description="Posterior mean of success, by domain and procedure.",
                unit="percentunit",
                queries={"{{domain}} {{procedure}}": "calyx_confidence"},
                filled=False,
            ),
            Panel(
                title="Tasks by state",
                description="Tasks the overseer knows now, by state.",
                unit="none",
                queries={"{{state}}": "calyx_tasks"},
            ),
            Panel(
                title="Tasks ended per hour",
                description="How tasks ended, over the last hour.",
                unit="none",
                queries={"{{state}}": "sum by (state) (increase(calyx_task_ends_total[1h]))"},
                filled=False,
            ),
            Panel(
                title="Exchange depth",
                description="Manifests in the task exchange, by state.",
                unit="none",
                queries={"{{state}}": "calyx_exchange_depth"},
            ),
        ),
        "Tasks by domain": (
            Panel(
                title="Depth",
                description="Tasks that have not ended, and the dead, as of the last pulse.",
                unit="none",
                queries={"{{domain}} {{state}}": "calyx_task_depth"},
                filled=False,
            ),
            Panel(
                title="Oldest ready task",
                description="Since it was given to the exchange. No line: none is ready; unknown: it can't be told.",
                unit="s",
                queries={"{{domain}}": "calyx_task_oldest_ready_seconds"},
                filled=False,
            ),
            Panel(
                title="Retries and dead letters per hour",
                description="Epochs beyond the first, and tasks given up, over the last hour.",
                unit="none",
                queries={
                    "{{domain}} retries": "sum by (domain) (increase(calyx_task_retries_total[1h]))",
                    "{{domain}} dead": "sum by (domain) (increase(calyx_task_dead_letters_total[1h]))",
                },
                filled=False,
            ),
            Panel(
                title="Ready to claimed",
                description="How long tasks wait to be taken (first attempts of the last hour): half, and 99 of 100.",
                unit="s",
                queries={
                    "{{domain}} p50": "histogram_quantile(0.5, sum by (domain, le) "
                    "(rate(calyx_task_claim_seconds_bucket[1h])))",
                    "{{domain}} p99": "histogram_quantile(0.99, sum by (domain, le) "
                    "(rate(calyx_task_claim_seconds_bucket[1h])))",
                },
                width=12,
                filled=False,
            ),
            Panel(
                title="Claimed to acked",
                description="How long their owner needs to answer them (last hour): half, and 99 of 100.",
                unit="s",
                queries={
                    "{{domain}} p50": "histogram_quantile(0.5, sum by (domain, le) "
                    "(rate(calyx_task_ack_seconds_bucket[1h])))",
                    "{{domain}} p99": "histogram_quantile(0.99, sum by (domain, le) "
                    "(rate(calyx_task_ack_seconds_bucket[1h])))",
                },
                width=12,
                filled=False,
            ),
        ),
        "Pulses and calls": (
            Panel(
                title="Pulse duration",
                description="How long a Bridge Pulse takes: half of them, and 19 of 20, are shorter.",
                unit="s",
                queries={
                    "p50": "histogram_quantile(0.5, sum by (le) (rate(calyx_pulse_seconds_bucket[$__rate_interval])))",
                    "p95": "histogram_quantile(0.95, sum by (le) (rate(calyx_pulse_seconds_bucket[$__rate_interval])))",
                },
            ),
            Panel(
                title="Calls per second",
                description="gRPC calls that each service answers.",
                unit="reqps",
                queries={"{{service}}": "sum by (service) (rate(calyx_rpc_requests_total[$__rate_interval]))"},
            ),
            Panel(
                title="Failed calls per second",
                description="gRPC calls that ended in anything but OK, by service and status.",
                unit="reqps",
                queries={
                    "{{service}} {{code}}": "sum by (service, code) "
                    '(rate(calyx_rpc_requests_total{code!="OK"}[$__rate_interval]))'
                },
                filled=False,
            ),
        ),
        "Healing": (
            Panel(
                title="Services",
                description="Each service by the guardian's probe.",
                unit="none",
                queries={"{{target}}": "calyx_service_up"},
                kind="states",
                width=12,
                names={0: "down", 1: "up"},
            ),
            Panel(
                title="Recoveries per hour",
                description="What the guardian did over the last hour, by action.",
                unit="none",
                queries={"{{action}}": "sum by (action) (increase(calyx_recoveries_total[1h]))"},
                width=6,
                filled=False,
            ),
            Panel(
                title="Time to recover",
                description="From a fault's detection to the service answering again: 19 of 20 recoveries are faster.",
                unit="s",
                queries={"p95": "histogram_quantile(0.95, sum by (le) (rate(calyx_recovery_seconds_bucket[1h])))"},
                width=6,
                filled=False,
            ),
        ),
        "KPIs": (
            Panel(
                title="Coverage",
                description="How much of the last 24 h each KPI was measured on. Under 90 % there is no verdict.",
                unit="percentunit",
                queries={"{{name}}": "calyx_kpi_coverage"},
                width=12,
            ),
            Panel(
                title="Overrides, 24 h",
                description="A person's actions that contradicted the station's. Target: at most 1.",
                unit="none",
                queries={"": 'calyx_kpi{name="overrides"}'},
                kind="stat",
                width=6,
                bad_above=2,
            ),
            Panel(
                title="Policy violations, 24 h",
                description="Executed ones. Target: none.",
                unit="none",
                queries={"": 'calyx_kpi{name="policy_violations"}'},
                kind="stat",
                width=6,
                bad_above=1,
            ),
        ),
    },
)

RESOURCES = Board(
    uid="calyx-resources",
    title="Resources",
    description="What the machine has left, and what the station itself takes of it.",
    rows={
        "Machine": (
            Panel(
                title="Reading's age",
                description=(
                    "Age of the governor's last reading (one every 5 s). Over 10 s it is stale, over 50 s unknown."
                ),
                unit="s",
                queries={"": "calyx_capacity_age_seconds"},
                kind="stat",
                width=4,
                bad_above=50,
            ),
            Panel(
                title="Coverage",
                description="Share of the samples of the last minute that could be taken.",
                unit="percentunit",
                queries={"": "calyx_capacity_coverage"},
                kind="stat",
                width=4,
                bad_below=0.9,
            ),
            Panel(
                title="GPU",
                description="What the driver says: absent, ok, error or unsupported.",
                unit="none",
                queries={"{{state}}": "calyx_gpu_state == 1"},
                kind="stat",
                width=4,
            ),
            Panel(
                title="Leases",
                description="Throttle and sleep leases in force; they end by themselves.",
                unit="none",
                queries={"{{kind}}": "calyx_leases"},
                kind="stat",
                width=4,
            ),
            Panel(
                title="Intents, 24 h",
                description="What the governor asked the overseer for, such as a cleanup.",
                unit="none",
                queries={"{{kind}}": "sum by (kind) (increase(calyx_intents_total[24h]))"},
                kind="stat",
                width=8,
                filled=False,
            ),
            Panel(
                title="CPU, RAM, swap and disk",
                description="In use. RAM over 80 % for three pulses makes the governor ask for a cleanup.",
                unit="percent",
                queries={
                    "CPU": "calyx_cpu_percent",
                    "RAM": "calyx_ram_percent",
                    "swap": "calyx_swap_percent",
                    "disk": "calyx_disk_percent",
                },
                width=12,
            ),
            Panel(
                title="Pressure",
                description="Share of time in which work waited for a resource (PSI, 10 s mean).",
                unit="percent",
                queries={"{{resource}} {{kind}}": "calyx_psi_percent"},
                width=12,
                filled=False,
            ),
            Panel(
                title="GPU utilization",
                description="By device; no data on a machine without one.",
                unit="percent",
                queries={"GPU {{index}}": "calyx_gpu_utilization_percent"},
                filled=False,
            ),
            Panel(
                title="Trends",
                description=(
                    "Slope of each measured trend, per day, as of the last analysis; none under an hour of known "
                    "points."
                ),
                unit="none",
                queries={"{{metric}}": "calyx_trend_slope_per_day"},
                filled=False,
            ),
            Panel(
                title="Analysis' age",
                description="How long ago the analytics last looked at the pulses.",
                unit="s",
                queries={"": "calyx_analysis_age_seconds"},
                filled=False,
            ),
        ),
        "Station": (
            Panel(
                title="Memory by service",
                description="Resident memory of each service's process.",
                unit="bytes",
                queries={"{{instance}}": 'process_resident_memory_bytes{job="station"}'},
            ),
            Panel(
                title="CPU by service",
                description="Share of one core that each service's process takes.",
                unit="percentunit",
                queries={"{{instance}}": 'rate(process_cpu_seconds_total{job="station"}[$__rate_interval])'},
            ),
            Panel(
                title="Open files by service",
                description="File descriptors in use.",
                unit="none",
                queries={"{{instance}}": 'process_open_fds{job="station"}'},
            ),
        ),
        "Memory": (
            Panel(
                title="Experiences",
                description="Experiences kept, and vectors in the index; the two should agree.",
                unit="none",
                queries={"experiences": "calyx_memory_experiences", "vectors": "calyx_memory_vectors"},
            ),
            Panel(
                title="Recalls per hour",
                description="Recalls that found something similar (hit) and those that did not.",
                unit="none",
                queries={"hit {{hit}}": "sum by (hit) (increase(calyx_memory_recalls_total[1h]))"},
                filled=False,
            ),
            Panel(
                title="Recall time",
                description="19 of 20 recalls are faster.",
                unit="s",
                queries={"p95": "histogram_quantile(0.95, sum by (le) (rate(calyx_memory_recall_seconds_bucket[1h])))"},
                filled=False,
            ),
            Panel(
                title="Floor and feedback",
                description="The cosine a match must be above, and the share of judgements that say useful.",
                unit="none",
                queries={"floor": "calyx_memory_floor", "useful": "calyx_memory_feedback_precision"},
                width=12,
                filled=False,
            ),
            Panel(
                title="Evicted and silent",
                description="Experiences left out because they did harm, and recalls an hour that found nothing alike.",
                unit="none",
                queries={
                    "evicted": "calyx_memory_evicted",
                    "abstentions": "increase(calyx_memory_abstentions_total[1h])",
                },
                width=12,
                filled=False,
            ),
            Panel(
                title="Last verification",
                description="How long ago memory's integrity was last verified.",
                unit="s",
                queries={"": "calyx_memory_verify_age_seconds"},
                kind="stat",
                width=12,
                filled=False,
            ),
            Panel(
                title="Dashboard requests per second",
                description="What people and scripts ask of the page on port 4040, by status.",
                unit="reqps",
                queries={"{{code}}": "sum by (code) (rate(calyx_dashboard_requests_total[$__rate_interval]))"},
                width=12,
                filled=False,
            ),
        ),
    },
)

BOARDS = (STATION, RESOURCES)
