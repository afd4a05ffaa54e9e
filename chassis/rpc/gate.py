"""What every request passes before it reaches a servicer: metrics, error mapping, deadline, auth."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from typing import Any

import grpc
import prometheus_client

from chassis.errors import InvalidInput
from chassis.rpc import auth, deadline
from chassis.rpc.status import DETAILS_KEY, to_wire

REQUESTS = prometheus_client.Counter("calyx_rpc_requests", "Requests answered.", ["service", "method", "code"])
SECONDS = prometheus_client.Histogram("calyx_rpc_seconds", "Time to answer a unary request.", ["service", "method"])


class Gate:
    """Stands between a generated `add_…_to_server` and the server, and wraps each handler once, when it is added.

    Outermost first: metrics → errors to status → deadline → token and allow-list. An interceptor would do the same
    anew at each call.
    """

    def __init__(
        self, server: grpc.aio.Server, service: str, callers: auth.Callers, allow: Mapping[str, Mapping[str, Set[str]]]
    ) -> None:
        self._server, self._service, self._callers, self._allow = server, service, callers, allow

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Nothing: it could not be told which methods these serve. Each comes again by its name."""

    def add_registered_method_handlers(self, full_name: str, handlers: Mapping[str, Any]) -> None:
        gated = {name: self._gated(full_name, name, handler) for name, handler in handlers.items()}
        known = {name: handler for name, handler in gated.items() if handler is not None}
        self._server.add_registered_method_handlers(full_name, known)

    def _gated(self, full_name: str, method: str, handler: Any) -> Any:
        coding = (_decoding(handler.request_deserializer), handler.response_serializer)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, full_name, method), *coding)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._stream(handler.unary_stream, full_name, method), *coding)
        return None  # no contract of ours streams requests: UNIMPLEMENTED rather than past the gate

    def _admit(self, full_name: str, method: str, context: Any, remaining: float | None) -> None:
        name = self._callers.identify(_authorization(context))
        auth.permit(name, full_name, method, self._allow.get(full_name, {}))
        auth.set_caller(name)
        deadline.set_remaining(remaining)

    def _unary(self, behaviour: Any, full_name: str, method: str) -> Any:
        answered = REQUESTS.labels(self._service, method, "OK")
        took = SECONDS.labels(self._service, method)

        async def call(request: Any, context: Any) -> Any:
            started = time.monotonic()
            code = "CANCELLED"
            try:
                remaining = context.time_remaining()
                if remaining is None:
                    raise InvalidInput("set a deadline, e.g. grpcurl -max-time 10")
                self._admit(full_name, method, context, remaining)
                _whole(request)
                answer = await behaviour(request, context)
                code = "OK"
                return answer
            except grpc.aio.AbortError:
                code = _name(context.code())
                raise
            except Exception as error:
                wire = to_wire(error)
                code = wire.code.name
                await context.abort(wire.code, wire.message, ((DETAILS_KEY, wire.details),))
            finally:
                (answered if code == "OK" else REQUESTS.labels(self._service, method, code)).inc()
                took.observe(time.monotonic() - started)

        return call

    def _stream(self, behaviour: Any, full_name: str, method: str) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            code = "CANCELLED"
            try:
                self._admit(full_name, method, context, context.time_remaining())
                _whole(request)
                async for answer in behaviour(request, context):
                    yield answer
                code = "OK"
            except grpc.aio.AbortError:
                code = _name(context.code())
                raise
            except Exception as error:
                wire = to_wire(error)
                code = wire.code.name
                await context.abort(wire.code, wire.message, ((DETAILS_KEY, wire.details),))
            finally:
                REQUESTS.labels(self._service, method, code).inc()

        return call


def _authorization(context: Any) -> str:
    """The last header of this name; empty: none."""
    for key, value in reversed(context.invocation_metadata() or ()):
        if key == "authorization":
            return str(value)
    return ""


_MALFORMED = object()
"""Stands for a request that could not be decoded, until it is known who sent it."""


def _decoding(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Decodes without raising: gRPC would put the exception's own text on the wire, for anybody."""

    def decode(data: bytes) -> Any:
        if deserialize is None:
            return data
        try:
            return deserialize(data)
        except Exception:  # protobuf has errors of its own for each of its backends
            return _MALFORMED

    return decode


def _whole(request: Any) -> None:
    if request is _MALFORMED:
        raise InvalidInput("the request is no message of this method's type; is it from another version?")


def _name(code: Any) -> str:
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
