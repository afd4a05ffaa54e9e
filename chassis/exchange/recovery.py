"""What a dead process or a power cut left half done is brought to what its log promised."""

import contextlib
import fcntl
import json
from dataclasses import replace
from pathlib import Path

from chassis.errors import InvalidInput
from chassis.exchange.commits import Kind, left_behind, read_records, sync_file_system
from chassis.exchange.custody import Custody
from chassis.exchange.folder import MAX_ACK_BYTES, Folder, Place, parse_manifest
from chassis.exchange.manifest import MAX_MANIFEST_BYTES, Ack, Manifest, TaskId
from chassis.exchange.moves import Unfit, link, lstats, move_into, names, read_regular, remove, there, write_new
from chassis.exchange.port import TaskState


class Recovery:
    """Replays logs whose process is dead. Replaying what is already in the folders changes nothing."""

    def __init__(self, folder: Folder, custody: Custody) -> None:
        self._folder, self._custody = folder, custody
        self._log = folder.root / "log"

    def run(self) -> bool:
        """Before anything is claimed, and at each sweep; True if there was something to replay."""
        with left_behind(self._log) as left:
            if not left.segments:
                return False
            submitted: dict[tuple[str, str], tuple[Kind, Manifest, bytes]] = {}
            acked: list[bytes] = []
            for segment in left.segments:
                writer = segment.name.partition(".")[0]
                for record in read_records(segment):
                    if record.kind == "A":
                        acked.append(record.body)
                    elif record.kind == "R":  # a later submit of the same id counts again
                        submitted.pop((writer, record.body.decode(errors="replace")), None)
                    else:
                        with contextlib.suppress(Unfit):  # no exchange wrote that
                            manifest = parse_manifest(record.body)
                            submitted[writer, manifest.task_id] = (record.kind, manifest, record.body)
            for kind, manifest, body in submitted.values():
                self._submitted(kind, manifest, body)
            for body in acked:
                self._acked(body)
            if not left.others_live:
                self._unanswered()
                with contextlib.suppress(BlockingIOError), self._folder.intake(fcntl.LOCK_EX | fcntl.LOCK_NB):
                    self._unpublished()
            sync_file_system(self._log)
            for segment in left.segments:
                segment.unlink(missing_ok=True)
            return True

    def _submitted(self, kind: Kind, manifest: Manifest, body: bytes) -> None:
        task_id = manifest.task_id
        task = self._folder.task(task_id)
        if not there(task):
            if self._folder.compacted(task_id):
                return
            self._restore(task, manifest, body)
        elif not _whole(task, task_id):  # else: as it was, or the id was given back and submitted anew
            _rewrite(task, body)
        if there(self._folder.ack(task_id)):
            return
        epoch = self._folder.epoch(task_id)
        if self._folder.find(task_id, manifest, epoch) is None and not self._folder.passed(task_id, epoch):
            state: TaskState = "held" if kind == "H" else self._folder.placed(manifest)
            with contextlib.suppress(FileExistsError):
                link(task, self._folder.target(state, manifest, 1))

    def _restore(self, task: str, manifest: Manifest, body: bytes) -> None:
        """The record from whatever other name of the task is left, else from the log."""
        place = self._folder.find(manifest.task_id, manifest, self._folder.epoch(manifest.task_id))
        if place is None:
            write_new(task, body)
            return
        if _content(place.path, MAX_MANIFEST_BYTES) != body:
            _rewrite(place.path, body)
        link(place.path, task)

    def _acked(self, body: bytes) -> None:
        """Every ack in a log had passed the fence: its task is done, wherever the folders of a cut show it."""
        try:
            ack = Ack.from_json(json.loads(body))
        except (InvalidInput, ValueError, RecursionError):
            return
        manifest = self._folder.read_manifest(ack.task_id)
        if manifest is None or self._went_on(ack, manifest):
            return
        done = self._folder.done(ack)
        if not there(done):
            place = self._folder.find(ack.task_id, manifest, ack.epoch)
            if place is not None and place.state == "dead":
                return
            if place is not None:
                move_into(place.path, done)
            else:
                link(self._folder.task(ack.task_id), done)
        answer = self._folder.ack(ack.task_id)
        if _content(answer, MAX_ACK_BYTES) == body:
            return
        if there(answer):
            if self._folder.read_ack(ack.task_id) is not None and _readable(answer):
                return
            remove(answer)
        Path(answer).parent.mkdir(parents=True, exist_ok=True)
        write_new(answer, body)

    def _went_on(self, ack: Ack, manifest: Manifest) -> bool:
        """Is the task at a higher epoch, its holder having been told that this ack failed? A mark alone is no move."""
        current = self._folder.epoch(ack.task_id)
        if current <= ack.epoch:
            return False
        place = self._folder.find(ack.task_id, manifest, current)
        later = place is not None and place.epoch > ack.epoch
        return later or current > ack.epoch + 1 or there(self._folder.done(replace(ack, epoch=current)))

    def _unanswered(self) -> None:
        """After a power cut, with nobody at work: past the fence, but the ack was never durable, nor told. Again."""
        for worker in self._folder.holders():
            self._custody.finish_acks(worker)
        for day in names(f"{self._folder.at}/done")[-2:]:
            for name in names(f"{self._folder.at}/done/{day}"):
                place = self._folder.parse("done", f"{self._folder.at}/done/{day}/{name}")
                if place is not None and not there(self._folder.ack(place.task_id)):
                    self._again(place)

    def _unpublished(self) -> None:
        """Records of submits that were never promised. One that stays, since somebody submits now, harms nobody."""
        for name, found in lstats(f"{self._folder.at}/tasks"):
            task_id = TaskId(name.removesuffix(".json"))
            if found.st_nlink == 1 and self._folder.unpublished(task_id):
                remove(self._folder.task(task_id))

    def _again(self, place: Place) -> None:
        manifest = self._folder.read_manifest(place.task_id)
        if manifest is not None:
            self._custody.next_epoch(place, manifest, None, "a power cut took its answer before it was kept")


def _content(path: str, cap_bytes: int) -> bytes | None:
    try:
        return read_regular(path, cap_bytes)
    except (FileNotFoundError, NotADirectoryError, Unfit):
        return None


def _whole(task: str, task_id: str) -> bool:
    try:
        return parse_manifest(read_regular(task, MAX_MANIFEST_BYTES)).task_id == task_id
    except (Unfit, FileNotFoundError):
        return False


def _readable(answer: str) -> bool:
    try:
        Ack.from_json(json.loads(read_regular(answer, MAX_ACK_BYTES)))
    except (Unfit, InvalidInput, ValueError, RecursionError, FileNotFoundError):
        return False
    return True


def _rewrite(path: str, body: bytes) -> None:
    """In place, since every link of the task is this inode; what a cut left there was never whole."""
    with Path(path).open("r+b") as file:
        file.write(body)
        file.truncate()
