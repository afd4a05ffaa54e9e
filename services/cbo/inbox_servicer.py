"""InboxService: decode → ask → encode."""

from collections.abc import Mapping
from typing import Any

from calyx.inbox.v1 import inbox_pb2 as pb
from calyx.inbox.v1 import inbox_pb2_grpc

from chassis.executor import Executor
from services.cbo import wire
from services.cbo.overseer import Overseer
from services.cbo.waiting import Item

FULL_NAME = "calyx.inbox.v1.InboxService"
ALLOW: Mapping[str, frozenset[str]] = {
    "ListWaiting": frozenset({"operator", "dashboard"}),
    "TestNotification": frozenset({"operator"}),
}
DECIDES = ("TestNotification",)


class InboxServicer(inbox_pb2_grpc.InboxServiceServicer):
    def __init__(self, overseer: Overseer, executor: Executor) -> None:
        self._overseer, self._executor = overseer, executor

    async def ListWaiting(self, request: pb.ListWaitingRequest, context: Any) -> pb.ListWaitingResponse:
        return await self._executor.run(self._waiting)

    def _waiting(self) -> pb.ListWaitingResponse:
        items, unknown = self._overseer.waiting.items()
        return pb.ListWaitingResponse(items=[self._item(each) for each in items], unknown=unknown)

    def _item(self, item: Item) -> pb.WaitingItem:
        made = pb.WaitingItem(
            kind=item.kind,
            id=item.id,
            title=item.title,
            domain=item.domain,
            since=wire.stamp(item.since),
            expires_at=wire.stamp(item.until),
            commands=item.commands,
        )
        if item.task is not None:
            looks = self._overseer.bridge.store.rows("verifications_of", item.task.id)
            undo = self._overseer.desk.undo_possible(item.task)
            made.task.CopyFrom(wire.task_to_wire(item.task, looks, undo))
        return made

    async def TestNotification(self, request: pb.TestNotificationRequest, context: Any) -> pb.TestNotificationResponse:
        tried = await self._executor.run(self._overseer.notifier.test, request.target)
        return pb.TestNotificationResponse(
            targets=[
                pb.TargetTried(name=each.name, kind=each.kind, sent=each.sent, detail=each.detail) for each in tried
            ]
        )
