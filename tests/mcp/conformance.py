"""Runs the MCP conformance suite against our server and fails when an applicable scenario fails.

    python tests/mcp/conformance.py

Two pinned versions of the suite: the published one, and the coming one, which knows the protocol of 2026-07-28 too.
Every server scenario of each is either run or named below with the reason why it does not apply; a scenario that is
neither fails the run, so that an update leaves nothing out. Needs npm, and the registry once (kept in the cache
folder after that). Where that is missing it says so and ends with 0, with CALYX_CONFORMANCE_REQUIRED=1 with 1.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

# On `calyx mcp --http` itself.
STATION = (
    "server-initialize", "server-session-lifecycle", "ping", "tools-list", "resources-list", "prompts-list",
    "server-sse-multiple-streams", "sep-2164-resource-not-found", "dns-rebinding-protection", "caching",
    "http-header-validation",
)  # fmt: skip

# They call tools and resources of fixed names: on a server that has those, of our class and behind our transport.
FIXTURES = (
    "server-stateless", "tools-call-simple-text", "tools-call-image", "tools-call-audio",
    "tools-call-embedded-resource", "tools-call-mixed-content", "tools-call-error", "tools-call-with-progress",
    "json-schema-2020-12", "resources-read-text", "resources-read-binary", "resources-templates-read",
)  # fmt: skip

# By the beginning of the scenario's name. None of these is in our server's declared capabilities.
NOT_OURS = {
    "logging-set-level": "no logging capability: it is deprecated, and our log goes to stderr",
    "tools-call-with-logging": "no logging capability",
    "completion-complete": "no completions capability",
    "tools-call-sampling": "our server asks nothing of the client's model",
    "tools-call-elicitation": "our server never asks the client's user: a person answers at the station, not in a chat",
    "elicitation-": "as tools-call-elicitation",
    "input-required-result-": "as tools-call-elicitation, in the protocol of 2026-07-28",
    "server-sse-polling": "no event store: a lost stream is called again, which every tool here allows",
    "resources-subscribe": "no resource subscriptions: await_approval and heartbeat are the ways to wait",
    "resources-unsubscribe": "as resources-subscribe",
    "prompts-get-": "no prompts: prompts-list is run and finds none",
    "http-custom-header-server-validation": "no tool argument is mirrored in a header (x-mcp-header)",
    "tasks-": "the tasks extension is not offered: a task of the station is durable by itself",
    "sep-2640-skills-": "the skills extension is not offered",
}

AWAY = ("ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT", "ECONNREFUSED", "ENETUNREACH")
SUITES = {"conformance": (None,), "conformance-next": ("2025-11-25", "2026-07-28")}


class Skip(Exception):
    """It can't run here."""


def installed() -> Path:
    """The folder with the packages of the lockfile, in the user's cache."""
    npm = shutil.which("npm")
    if npm is None:
        raise Skip("npm is not installed (Debian: apt-get install npm)")
    lock = (HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "calyx-conformance" / hashlib.sha256(lock).hexdigest()[:16]
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        if done.returncode != 0:
            if any(
                word in done.stderr for word in ("ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT", "ECONNREFUSED", "ENETUNREACH")
            ):
                raise Skip("the npm registry can't be reached")
            raise SystemExit(f"conformance: npm ci failed:\n{done.stderr[-2000:]}")
        (folder / "complete").touch()
    return folder


def node(folder: Path) -> str:
    kind = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    found = folder / f"node_modules/node-linux-{kind}/bin/node"
    if not found.exists():
        raise Skip(f"there is no pinned Node.js for {platform.system()} on {platform.machine()}")
    return str(found)


class Suite:
    """One version of the suite."""

    def __init__(self, folder: Path, package: str) -> None:
        self._command = [node(folder), str(folder / "node_modules" / package / "dist/index.js")]
        self.version = json.loads((folder / "node_modules" / package / "package.json").read_text())["version"]

    def scenarios(self) -> dict[str, str]:
        """The server scenarios with the protocol versions that they apply to."""
        said = subprocess.run([*self._command, "list"], capture_output=True, text=True, check=True, timeout=60).stdout
        server = said.split("Client scenarios")[0]
        lines = [line.strip()[2:].split(" [") for line in server.splitlines() if line.strip().startswith("- ")]
        return {name: versions.rstrip("]") for name, versions in lines}

    def run(self, url: str, scenario: str, protocol: str | None) -> tuple[int, list[str]]:
        """How many checks succeeded, and what failed in words."""
        with tempfile.TemporaryDirectory() as out:
            version = ["--spec-version", protocol] if protocol else []
            done = subprocess.run(
                [*self._command, "server", "--url", url, "--scenario", scenario, "-o", out, *version],
                capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
            checks = [each for found in Path(out).glob("*/checks.json") for each in json.loads(found.read_text())]
        good = sum(each["status"] == "SUCCESS" for each in checks)
        bad = [
            f"{each['id']}: {each.get('errorMessage') or each['status']}"
            for each in checks
            if each["status"] not in ("SUCCESS", "INFO", "SKIPPED", "WARNING")
        ]
        if done.returncode != 0 and not bad:
            bad.append(f"exit status {done.returncode}: {done.stderr[-300:]}")
        if not good and not bad:
            bad.append("no check succeeded")
        return good, bad


class Server:
    """One of our servers, as a process."""

    def __init__(self, which: str) -> None:
        path = os.pathsep.join(str(each) for each in (ROOT, ROOT / "protos/gen", HERE))
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "mcp_conformance_server.py"), which],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise SystemExit(f"conformance: the server {which!r} did not start; run mcp_conformance_server.py by hand")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def unclassified(scenarios: dict[str, str]) -> list[str]:
    return [
        name
        for name in scenarios
        if name not in STATION and name not in FIXTURES and not name.startswith(tuple(NOT_OURS))
    ]


def main() -> int:
    try:
        folder = installed()
        suites = {package: Suite(folder, package) for package in SUITES}
    except Skip as why:
        required = os.environ.get("CALYX_CONFORMANCE_REQUIRED") == "1"
        print(f"conformance: {'FAILED' if required else 'skipped'}: {why}")
        return 1 if required else 0
    failed, ran = 0, 0
    servers = {"station": Server("station"), "everything": Server("everything")}
    try:
        for package, suite in suites.items():
            scenarios = suite.scenarios()
            for name in unclassified(scenarios):
                failed += 1
                print(f"FAIL  {suite.version}  {name}: neither run nor said not to apply; sort it into conformance.py")
            for protocol in SUITES[package]:
                for name, versions in scenarios.items():
                    if name not in (*STATION, *FIXTURES) or (protocol and protocol not in versions):
                        continue
                    server = servers["station" if name in STATION else "everything"]
                    good, bad = suite.run(server.url, name, protocol)
                    ran, failed = ran + 1, failed + bool(bad)
                    print(
                        f"{'FAIL' if bad else 'ok  '}  {suite.version}  {protocol or 'latest'}  {name}  {good} checks"
                    )
                    for each in bad:
                        print(f"        {each}")
    finally:
        for server in servers.values():
            server.stop()
    print("\ndoes not apply:", *(f"  {name}: {why}" for name, why in NOT_OURS.items()), sep="\n")
    print(f"\nconformance: {ran} scenario runs, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
