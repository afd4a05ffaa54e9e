"""`python -m services.guardian.broker`: serves the guardian on a unix socket until SIGTERM."""

import signal
import sys
import threading
from collections.abc import Callable

from chassis.audit import Audit
from chassis.clock import SystemClock
from chassis.errors import CalyxError
from chassis.settings import load
from services.guardian.broker.broker import Broker
from services.guardian.broker.engine import Engine
from services.guardian.broker.server import UnixServer
from services.guardian.settings import BrokerSettings


def main() -> None:
    settings = load(BrokerSettings, "broker")
    clock = SystemClock()
    engine = Engine(settings.docker_socket)
    audit = Audit(settings.audit_file, clock, "broker")
    broker = Broker(engine, settings.station, clock, audit, _in_thread)
    server = UnixServer(settings.socket, broker.handle, gid=settings.socket_gid)

    def stop(_signum: int, _frame: object) -> None:
        threading.Thread(target=server.shutdown, name="stop").start()  # shutdown waits for serve_forever to end

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        server.serve_forever(poll_interval=1.0)
    finally:
        server.server_close()
        settings.socket.unlink(missing_ok=True)
        engine.close()


def _in_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="act", daemon=True).start()


if __name__ == "__main__":
    try:
        main()
    except (OSError, CalyxError) as error:
        print(f"broker: can't start: {error}", file=sys.stderr)  # noqa: T201 - the one line a person sees
        raise SystemExit(1) from error
