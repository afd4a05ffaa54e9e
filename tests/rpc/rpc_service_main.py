"""A whole service process in a few lines, for tests that need one."""

from pydantic_settings import SettingsConfigDict
from rpc_harness import CboServicer, MemoryServicer, served

from chassis.clock import SystemClock
from chassis.executor import ThreadExecutor
from chassis.identity import found_station
from chassis.ids import RandomIds
from chassis.rpc.server import run_service
from chassis.settings import ServiceSettings, StationSettings, load


class MemorySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="CALYX_MEMORY_")


if __name__ == "__main__":
    station = load(StationSettings, "memory")
    found_station(station.layout, SystemClock(), RandomIds())
    executor = ThreadExecutor("memory")
    run_service(
        service="memory",
        version="9.9.9",
        station=station,
        settings=load(MemorySettings, "memory", station.layout),
        served=served(MemoryServicer(executor), CboServicer()),
        checks={},
        clock=SystemClock(),
        executor=executor,
        on_stop=lambda: print("on_stop ran", flush=True),
    )
