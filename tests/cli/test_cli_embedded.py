"""The ground the embedded station stands on: folder, ports, one at a time, supervisord's configuration."""

import configparser
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from chassis.clock import VirtualClock
from chassis.errors import InvalidInput, Refused
from chassis.layout import DEPLOY, SERVICES, Layout
from cli.embedded import ground, maintenance, supervisor
from cli.embedded.endpoints import Endpoints
from cli.embedded.station import STOP_ORDER


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield int(sock.getsockname()[1])


def calyx(*arguments: str, station: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**os.environ, "CALYX_STATION_DIR": str(station)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def refused_in_one_line(done: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    assert done.returncode == status, done.stderr
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in words), line
    assert done.stdout == ""


def test_up_with_a_busy_dashboard_port_says_what_to_do(tmp_path: Path, taken: int) -> None:
    done = calyx("up", "--detach", "--port", str(taken), station=tmp_path / "station")
    refused_in_one_line(done, f"port {taken} is taken", "--port")


def test_up_in_a_folder_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    refused_in_one_line(
        calyx("up", "--detach", "--port", "0", station=Path("/proc/calyx")), "can't write in /proc/calyx"
    )
    (tmp_path / "file").write_text("")
    done = calyx("up", "--detach", "--port", "0", station=tmp_path / "file")
    refused_in_one_line(done, "is not a folder", "--station")


def test_up_with_a_silly_interval_is_wrong_use(tmp_path: Path) -> None:
    done = calyx("up", "--detach", "--pulse-interval", "0.2s", station=tmp_path / "station")
    refused_in_one_line(done, "--pulse-interval", status=2)
    assert not (tmp_path / "station").exists()


def test_up_beside_another_up_of_the_same_station_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with ground.only_one(layout):
        refused_in_one_line(calyx("up", "--detach", "--port", "0", station=tmp_path), "another `calyx up`")


def test_down_where_nothing_runs_is_done_already(tmp_path: Path) -> None:
    done = calyx("down", station=tmp_path / "station")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Nothing runs" in done.stdout


def test_processes_left_without_supervisord_are_found_and_down_ends_them(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    program = "import sys, signal; print('up', flush=True); signal.pause()"
    left = subprocess.Popen(
        [sys.executable, "-c", program, "-m", "services.cbo"],
        env={**os.environ, "CALYX_STATION_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    try:
        assert left.stdout is not None and left.stdout.readline() == b"up\n"
        assert ground.processes(layout) == {left.pid: "cbo"}
        assert ground.processes(Layout(tmp_path / "other")) == {}
        refused_in_one_line(calyx("up", "--detach", "--port", "0", station=tmp_path), f"cbo {left.pid}", "calyx down")
        assert calyx("down", station=tmp_path).returncode == 0
        assert left.wait(10) == -15
    finally:
        left.kill()
        left.wait(10)
        left.stdout.close()


def test_a_disk_without_room_is_refused_with_figures(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"nearly full \(\d+ MiB free, \d+ needed\)"):
        ground.check_folder(Layout(tmp_path / "station"), least_free_bytes=2**60)


def test_the_station_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    ground.check_folder(Layout(tmp_path / "a" / "station"))
    assert (tmp_path / "a" / "station").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "a" / "station").iterdir()) == []


def test_an_old_python_and_another_system_are_named() -> None:
    with pytest.raises(Refused, match=r"Python 3\.10\.4 is too old"):
        ground.check_python((3, 10, 4), "linux")
    with pytest.raises(Refused, match="docker compose up"):
        ground.check_python((3, 12, 0), "darwin")
    ground.check_python((3, 11, 0), "linux")


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_is_a_port(port: int) -> None:
    with pytest.raises(InvalidInput):
        ground.check_port(port)


def test_ports_are_kept_while_free_and_all_different(tmp_path: Path, taken: int) -> None:
    first = Endpoints.choose({}, 0, tmp_path / "s")
    ports = [*first.grpc.values(), *first.metrics.values(), first.dashboard]
    assert len(set(ports)) == 13
    before = first.to_json()
    again = Endpoints.choose(before, 0, tmp_path / "s")
    assert again == first
    before["services"]["cbo"]["grpc"] = f"127.0.0.1:{taken}"
    moved = Endpoints.choose(before, 0, tmp_path / "s")
    assert moved.grpc["cbo"] != taken
    assert {**moved.grpc, "cbo": 0} == {**first.grpc, "cbo": 0}


def test_stations_that_start_at_once_get_ports_of_their_own_out_of_the_kernels_reach(tmp_path: Path) -> None:
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chosen = []
    with ExitStack() as starting:
        for _ in range(3):  # of one name, so that all begin at one block; none of their services listens yet
            found = Endpoints.choose({}, 0, tmp_path / "s", starting)
            chosen += [*found.grpc.values(), *found.metrics.values(), found.dashboard]
    assert len(set(chosen)) == 3 * 13
    assert lowest_outgoing < 20_100 or max(chosen) < lowest_outgoing


def test_endpoints_are_written_for_the_owner_in_the_agreed_shape(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.run.mkdir()
    chosen = Endpoints.choose({}, 0, tmp_path / "s")
    chosen.write(layout)
    assert layout.endpoints.stat().st_mode & 0o777 == 0o600
    value = json.loads(layout.endpoints.read_text())
    assert set(value) == {"services", "dashboard", "supervisor"}
    assert list(value["services"]["memory"]) == ["grpc", "metrics"]
    told = chosen.environment(layout, 5.0)
    assert told["CALYX_ENDPOINT_CBO"] == told["CALYX_CBO_LISTEN"] == f"127.0.0.1:{chosen.grpc['cbo']}"
    assert told["CALYX_CBO_PULSE_INTERVAL_SECONDS"] == "5"
    assert told["CALYX_DASHBOARD_HTTP_LISTEN"] == f"127.0.0.1:{chosen.dashboard}"


def test_supervisord_reads_the_configuration_and_restarts_nobody_but_the_guardian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "my station; 100% #1"
    layout = Layout(root)
    layout.run.mkdir(parents=True)
    layout.logs.mkdir()
    socket_path = supervisor.choose_socket(layout, "")
    told = Endpoints.choose({}, 0, socket_path).environment(layout, 60)
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(root)
    options = ServerOptions()
    options.realize(["-c", str(supervisor.write_conf(layout))])
    programs = [group.process_configs[0] for group in sorted(options.process_group_configs)]
    assert [program.name for program in programs] == list(SERVICES)
    assert [program.name for program in programs if program.autorestart] == ["guardian"]
    assert all(program.startretries == 0 for program in programs if program.name != "guardian")
    assert all(program.stopwaitsecs >= 20 for program in programs)
    assert programs[0].command == f'"{sys.executable}" -P -m services.memory'
    assert programs[0].stdout_logfile == "logs/memory.out"
    (server,) = options.server_configs
    assert (server["file"], server["chmod"]) == (str(socket_path), 0o700)
    assert options.umask == 0o077


def test_the_template_names_no_machine(tmp_path: Path) -> None:
    template = (DEPLOY / "supervisor" / "supervisord.conf.tmpl").read_text()
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(supervisor.render(template))
    assert [s for s in parser.sections() if s.startswith("program:")] == [f"program:{s}" for s in SERVICES]


def test_a_socket_path_that_is_too_long_moves_to_a_private_folder_and_goes_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path / ("deep" * 30))
    chosen = supervisor.choose_socket(layout, "")
    try:
        assert len(os.fsencode(chosen)) < 96
        assert chosen.parent.stat().st_mode & 0o777 == 0o700
        assert supervisor.choose_socket(layout, str(chosen)) == chosen
    finally:
        supervisor.drop_socket(layout, chosen)
    assert not chosen.parent.exists()
    assert supervisor.choose_socket(Layout(Path("/s")), "") == Path("/s/run/supervisor.sock")


def test_the_guardian_is_stopped_first_and_memory_last() -> None:
    assert STOP_ORDER == ("guardian", "dashboard", "analytics", "cbo", "governor", "memory")


def test_down_opens_one_maintenance_window_and_up_closes_it(tmp_path: Path) -> None:
    layout, clock = Layout(tmp_path), VirtualClock()
    layout.run.mkdir()
    maintenance.end(layout, clock)
    maintenance.begin(layout, clock)
    clock.advance(60)
    maintenance.begin(layout, clock)
    assert (layout.run / "maintenance.json").exists()
    maintenance.end(layout, clock)
    maintenance.end(layout, clock)
    lines = (tmp_path / "guardian" / "maintenance.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"from": "2026-01-01T00:00:00.000000Z", "to": None},
        {"from": "2026-01-01T00:00:00.000000Z", "to": "2026-01-01T00:01:00.000000Z"},
    ]
    assert not (layout.run / "maintenance.json").exists()
