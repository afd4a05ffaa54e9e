"""NATS JetStream: a work-queue stream in files, one durable pull consumer, each message acknowledged and confirmed."""

import asyncio
import os
import socket
import sys
import time

import nats
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NothingYet
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from bench.peers.window import PATIENCE_SECONDS, PAYLOAD, tell

STREAM, SUBJECT, CONSUMER = "bench", "bench.tasks", "workers"


async def end(message: Msg) -> None:
    await message.ack_sync(timeout=PATIENCE_SECONDS)
    tell(int.from_bytes(message.data[:4], "big"))


async def work(url: str, batch: int) -> None:
    """A worker process, until it is ended."""
    client = await nats.connect(url)
    tasks = await client.jetstream().pull_subscribe_bind(consumer=CONSUMER, stream=STREAM)
    print("up", flush=True)
    while True:
        try:
            found = await tasks.fetch(batch, timeout=1)
        except NothingYet:
            continue
        await asyncio.gather(*(end(message) for message in found))


async def measure(url: str, told: socket.socket, *, tasks: int, in_flight: int, warm: int = 32) -> float:
    """Tasks a second; submits are awaited side by side, as many as there is room for."""
    client = await nats.connect(url)
    stream = client.jetstream()
    room = asyncio.Semaphore(in_flight)
    missing: set[int] = set()
    ended = asyncio.Event()
    told.setblocking(False)

    def one_ended() -> None:
        number = int.from_bytes(told.recv(4), "big")
        if number in missing:
            missing.discard(number)
            room.release()
        if not missing:
            ended.set()

    asyncio.get_running_loop().add_reader(told.fileno(), one_ended)

    async def submit(number: int) -> None:
        await stream.publish(SUBJECT, number.to_bytes(4, "big") + PAYLOAD.encode(), timeout=PATIENCE_SECONDS)

    async def turn(numbers: range) -> None:
        missing.update(numbers)
        ended.clear()
        running = []
        for number in numbers:
            await room.acquire()
            running.append(asyncio.create_task(submit(number)))
        await asyncio.gather(*running)
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)
        while True:
            info = await stream.consumer_info(STREAM, CONSUMER)
            if not info.num_pending and not info.num_ack_pending:
                return

    await turn(range(warm))
    began = time.perf_counter()
    await turn(range(warm, warm + tasks))
    rate = tasks / (time.perf_counter() - began)
    await client.close()
    return rate


async def prepare(url: str) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(
        StreamConfig(
            name=STREAM, subjects=[SUBJECT], storage=StorageType.FILE, retention=RetentionPolicy.WORK_QUEUE,
            num_replicas=1,
        )
    )  # fmt: skip
    await stream.add_consumer(STREAM, ConsumerConfig(durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT))
    await client.close()


if __name__ == "__main__":
    asyncio.run(work(os.environ["BENCH_STORE"], int(sys.argv[1])))
