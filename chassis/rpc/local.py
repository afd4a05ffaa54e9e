"""The in-process channel: generated stubs call servicers of the same process, on one thread, without a network."""

import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

import grpc

from chassis.errors import Internal, Unavailable
from chassis.rpc import auth
from chassis.rpc.server import Served
from chassis.rpc.status import from_wire, to_wire

T = TypeVar("T")


class LocalChannel(grpc.Channel):
    """Duck-typed channel over servicers that run on an InlineExecutor, with the wire's error mapping.

    `servicers` maps full service name → servicer, or → Served to have its allow-list applied too. It is looked
    up at each call: a service that is not (or no longer) in it is Unavailable, as one that crashed would be.
    """

    def __init__(self, servicers: Mapping[str, object], caller: str) -> None:
        self._servicers, self._caller = servicers, caller

    def unary_unary(self, method: str, *_args: Any, **_kwargs: Any) -> Any:
        def call(request: Any, timeout: float | None = None, metadata: Any = None, **_options: Any) -> Any:
            def answer() -> Any:
                behaviour = self._admit(method)
                return _drive(behaviour(_copy(request), LocalContext()))

            return _copy(_as_on_the_wire(contextvars.copy_context(), answer))

        return call

    def unary_stream(self, method: str, *_args: Any, **_kwargs: Any) -> Any:
        def call(request: Any, timeout: float | None = None, metadata: Any = None, **_options: Any) -> "LocalStream":
            def answers() -> AsyncIterator[Any]:
                behaviour = self._admit(method)
                stream: AsyncIterator[Any] = behaviour(_copy(request), LocalContext())
                return stream

            return LocalStream(contextvars.copy_context(), answers)

        return call

    def stream_unary(self, method: str, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("no contract of ours streams requests")

    def stream_stream(self, method: str, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("no contract of ours streams requests")

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """There is no connection whose state could change."""

    def unsubscribe(self, callback: Any) -> None:
        """As subscribe."""

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> "LocalChannel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _admit(self, path: str) -> Any:
        full_name, method = path.lstrip("/").split("/", 1)
        service = self._servicers.get(full_name)
        if service is None:
            raise Unavailable(f"{full_name} does not answer")
        if isinstance(service, Served):
            auth.permit(self._caller, full_name, method, service.allow)
            service = service.servicer
        auth.set_caller(self._caller)
        return getattr(service, method)


class LocalStream(Iterator[Any]):
    """Answers of a streaming call, each computed when asked for."""

    def __init__(self, context: contextvars.Context, answers: Callable[[], AsyncIterator[Any]]) -> None:
        self._context, self._answers = context, answers
        self._open: AsyncIterator[Any] | None = None

    def __next__(self) -> Any:
        def answer() -> Any:
            if self._open is None:
                self._open = self._answers()
            return _drive(_next(self._open))

        value = _as_on_the_wire(self._context, answer)
        if value is _END:
            raise StopIteration
        return _copy(value)

    def cancel(self) -> None:
        if self._open is not None:
            close = getattr(self._open, "aclose", None)
            if close is not None:
                self._context.run(_drive, close())


class LocalContext:
    """The little of a ServicerContext that makes sense without a network."""

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def cancelled(self) -> bool:
        return False


_END = object()


async def _next(stream: AsyncIterator[Any]) -> Any:
    async for value in stream:
        return value
    return _END


def _as_on_the_wire(context: contextvars.Context, fn: Callable[[], T]) -> T:
    """Run in the callee's own context; whatever it raises arrives as it would over gRPC."""
    try:
        return context.run(fn)
    except Exception as error:
        raise from_wire(to_wire(error)) from error


def _drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends (InlineExecutor) to its end."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise Internal("a servicer suspended on the local channel; give it an InlineExecutor")


def _copy(message: Any) -> Any:
    """What the other side gets is its own, as after serialization."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
