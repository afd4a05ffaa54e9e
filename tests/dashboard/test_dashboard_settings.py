"""Settings of the dashboard: read from the environment, refused in one line."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from dashboard_fakes import bench
from dashboard_scenes import busy

from chassis.clock import VirtualClock
from chassis.settings import load
from services.dashboard.http import bind, serve
from services.dashboard.settings import DashboardSettings


def test_allowed_hosts_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALYX_DASHBOARD_ALLOWED_HOSTS", "station.lan, dashboard:4040,")
    assert load(DashboardSettings, "dashboard").allowed_hosts == ("station.lan", "dashboard:4040")


def test_the_page_is_on_loopback_unless_somebody_says_otherwise() -> None:
    settings = load(DashboardSettings, "dashboard")
    assert (settings.http_listen, settings.listen) == ("127.0.0.1:4040", "127.0.0.1:50056")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_LISTEN", "4040"),
        ("PUBLIC_URL", "station.lan"),
        ("SESSION_HOURS", "0"),
        ("METRICS_LISTEN", "x"),
    ],
)
def test_a_bad_value_ends_with_status_two_and_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"CALYX_DASHBOARD_{name}", value)
    with pytest.raises(SystemExit) as ended:
        load(DashboardSettings, "dashboard")
    assert ended.value.code == 2
    assert f"CALYX_DASHBOARD_{name}" in capsys.readouterr().err


def test_a_busy_port_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="can't serve the page on"):
        bind(f"127.0.0.1:{taken.getsockname()[1]}")


def test_the_page_is_served_on_its_socket_and_stops_with_a_watcher_connected(tmp_path: Path) -> None:
    async def run() -> tuple[int, bytes]:
        listener = bind("127.0.0.1:0")
        port = listener.getsockname()[1]
        made = bench(tmp_path / "station", busy(VirtualClock()), port=port)
        serving = asyncio.create_task(serve(made.app, listener, made.at.stopping, 2.0))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            page = await client.get("/")
            async with client.stream("GET", "/api/events") as stream:
                first = await anext(aiter(stream.aiter_bytes()))
                serving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await serving
        return page.status_code, first

    status, first = asyncio.run(run())
    assert status == 200
    assert first.startswith(b"retry: ")
