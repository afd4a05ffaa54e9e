"""The governor's values as messages."""

from calyx.common.v1 import common_pb2
from calyx.governor.v1 import governor_pb2 as pb

from services.governor.capacity import Capacity, Figure
from services.governor.leases import Lease
from services.governor.ram_rule import Intent

STATES = {
    "ok": common_pb2.FIGURE_STATE_OK,
    "stale": common_pb2.FIGURE_STATE_STALE,
    "unknown": common_pb2.FIGURE_STATE_UNKNOWN,
    "absent": common_pb2.FIGURE_STATE_ABSENT,
}
GPU_STATES = {
    "unknown": pb.GPU_STATE_UNSPECIFIED,
    "absent": pb.GPU_STATE_ABSENT,
    "ok": pb.GPU_STATE_OK,
    "error": pb.GPU_STATE_ERROR,
    "unsupported": pb.GPU_STATE_UNSUPPORTED,
}
KINDS = {"throttle": pb.LEASE_KIND_THROTTLE, "sleep": pb.LEASE_KIND_SLEEP}


def figure_to_wire(figure: Figure) -> common_pb2.Figure:
    message = common_pb2.Figure(
        value=figure.value,
        state=STATES[figure.state],
        unit=figure.unit,
        age_seconds=figure.age_seconds or 0.0,
        coverage=figure.coverage,
        note=figure.note,
    )
    if figure.measured_at is not None:
        message.measured_at.FromDatetime(figure.measured_at)
    return message


def capacity_to_wire(capacity: Capacity) -> pb.Capacity:
    figures = {name: figure_to_wire(figure) for name, figure in capacity.figures.items()}
    message = pb.Capacity(
        cpu_percent=figures["cpu"],
        ram_percent=figures["ram"],
        swap_percent=figures["swap"],
        disk_percent=figures["disk"],
        psi=pb.Psi(
            cpu_some=figures["cpu_some"],
            memory_some=figures["memory_some"],
            memory_full=figures["memory_full"],
            io_some=figures["io_some"],
            io_full=figures["io_full"],
        ),
        gpu=pb.Gpu(
            state=GPU_STATES[capacity.gpu_state],
            detail=capacity.gpu_detail,
            devices=[
                pb.GpuDevice(
                    index=each.index,
                    name=each.name,
                    utilization_percent=figure_to_wire(each.utilization_percent),
                    memory_percent=figure_to_wire(each.memory_percent),
                    temperature_celsius=figure_to_wire(each.temperature_celsius),
                )
                for each in capacity.gpus
            ],
        ),
        source={name: figure.source for name, figure in capacity.figures.items() if figure.source},
        sequence=capacity.sequence,
    )
    if capacity.at is not None:
        message.at.FromDatetime(capacity.at)
    return message


def intent_to_wire(intent: Intent) -> pb.Intent:
    message = pb.Intent(id=intent.id, kind=intent.kind, domain=intent.domain, reason=intent.reason)
    message.raised_at.FromDatetime(intent.raised_at)
    return message


def lease_to_wire(lease: Lease) -> pb.Lease:
    message = pb.Lease(
        id=lease.id,
        kind=KINDS[lease.kind],
        target=lease.target,
        reason=lease.reason,
        by=lease.by,
        share=lease.share,
    )
    message.granted_at.FromDatetime(lease.granted_at)
    message.expires_at.FromDatetime(lease.expires_at)
    return message
