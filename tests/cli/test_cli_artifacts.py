"""`calyx artifact` and `calyx objective add --file` against a real store of payloads."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from calyx.agent.v1 import agent_pb2 as pb
from calyx.cbo.v1 import cbo_pb2
from cli_harness import Console

from chassis.exchange.artifacts import PIECE_BYTES, Artifacts, Named

CONTENT = bytes(range(256)) * 5000
NAME = f"sha256:{sha256(CONTENT).hexdigest()}:{len(CONTENT)}"


class Payloads:
    """The CBO's two calls, without the rest of it."""

    def __init__(self, svf: Path) -> None:
        self.artifacts = Artifacts(svf)

    async def PutArtifact(self, request: pb.PutArtifactRequest, _context: Any) -> pb.PutArtifactResponse:
        named = Named.parse(request.artifact)
        received = self.artifacts.put("operator", named, request.offset, request.data)
        return pb.PutArtifactResponse(received=received, complete=received == named.size)

    async def GetArtifact(self, request: pb.GetArtifactRequest, _context: Any) -> pb.GetArtifactResponse:
        return pb.GetArtifactResponse(
            data=self.artifacts.get(Named.parse(request.artifact), request.offset, request.limit or PIECE_BYTES)
        )


@pytest.fixture
def console(calyx: Console, tmp_path: Path) -> Console:
    calyx.up["calyx.agent.v1.AgentService"] = Payloads(tmp_path / "svf")
    (tmp_path / "big.csv").write_bytes(CONTENT)
    return calyx


def test_a_file_goes_in_and_comes_out_the_same(console: Console, tmp_path: Path) -> None:
    out, noted = console.run("artifact", "put", str(tmp_path / "big.csv"))
    assert out.strip() == NAME and "--param" in noted, "the name alone on stdout, for scripts"
    assert console.json("artifact", "put", str(tmp_path / "big.csv"))["artifact"] == NAME
    console.run("artifact", "get", NAME, "-o", str(tmp_path / "again.csv"))
    assert (tmp_path / "again.csv").read_bytes() == CONTENT


def test_an_objective_takes_files_as_params(console: Console, tmp_path: Path) -> None:
    console.answers(SubmitObjective=cbo_pb2.SubmitObjectiveResponse())
    console.run("objective", "add", "look at it", "--param", "a=b", "--file", f"data={tmp_path / 'big.csv'}")
    assert dict(console.script.request("SubmitObjective").params) == {"a": "b", "data": NAME}
    assert "--file takes key=FILE" in console.run("objective", "add", "x", "--file", "data", status=2)[1]


@pytest.mark.parametrize(
    ("command", "said", "status"),
    [
        (("put", "nowhere.csv"), "there is no file nowhere.csv", 2),
        (("get", "what", "-o", "x"), "names no artifact", 2),
        (("get", f"sha256:{'0' * 64}:1", "-o", "x"), "is not here", 2),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], said: str, status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in console.run("artifact", *command, status=status)[1]
    assert not (tmp_path / "x").exists()
