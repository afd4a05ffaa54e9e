"""The model with its constants folded, kept on disk: mapped instead of copied, it costs about 70 MiB less memory.

Derived from the model file, which stays the truth: made anew when model, onnxruntime or a byte of it changes.
The vectors are the same, byte for byte.
"""

import hashlib
import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import structlog

from chassis.atomic import fsync_dir, write_json

log = structlog.get_logger(__name__)

MAKING_SECONDS = 120.0
_FILES = ("model.onnx", "weights.bin")


def options() -> Any:
    """One thread, no arena: an idle service gives memory back."""
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = 1
    made.inter_op_num_threads = 1
    made.enable_cpu_mem_arena = False
    made.enable_mem_pattern = False
    made.log_severity_level = 3
    return made


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_session(model: Path, digest: str, folder: Path | None) -> Any:
    """A session on the folded model in `folder`, made there first if need be; on `model` itself without a folder.

    `digest` is the model's sha256.

    Where it can't be made (full disk, read-only folder) the model itself serves, at the cost of memory.
    """
    if folder is not None:
        try:
            folded = _folded(model, digest, folder)
            as_it_is = options()
            as_it_is.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            return onnxruntime.InferenceSession(str(folded), as_it_is, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises bare Exceptions of its own; the model itself still works
            log.warning("no folded model; using the model itself, which needs more memory", why=str(error)[:500])
    return onnxruntime.InferenceSession(str(model), options(), providers=["CPUExecutionProvider"])


def _folded(model: Path, digest: str, folder: Path) -> Path:
    source = {"source_sha256": digest, "onnxruntime": onnxruntime.__version__}
    current = folder / f"{source['source_sha256'][:16]}-{source['onnxruntime']}"
    if _whole(current, source):
        return current / _FILES[0]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():  # other generations, and what a crash left
        shutil.rmtree(old)
    making = folder / f".{current.name}.{secrets.token_hex(6)}.tmp"
    making.mkdir()
    # In a process of its own, since folding takes 300 MiB that this one would not get back.
    subprocess.run(
        [sys.executable, "-m", "services.memory.prepared", str(model), str(making)],
        check=True,
        capture_output=True,
        timeout=MAKING_SECONDS,
    )
    files = {name: sha256_of(making / name) for name in _FILES}
    write_json(making / "made.json", {**source, "files": files})
    making.rename(current)
    fsync_dir(folder)
    return current / _FILES[0]


def _whole(current: Path, source: dict[str, str]) -> bool:
    try:
        made = json.loads((current / "made.json").read_bytes())
        files = {name: sha256_of(current / name) for name in _FILES}
    except (OSError, ValueError):
        return False
    return bool(made == {**source, "files": files})


def fold(model: Path, into: Path) -> None:
    """Write the folded graph and, beside it, its weights in a file that can be mapped."""
    folding = options()
    folding.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    folding.optimized_model_filepath = str(into / _FILES[0])
    folding.add_session_config_entry("session.optimized_model_external_initializers_file_name", _FILES[1])
    folding.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    onnxruntime.InferenceSession(str(model), folding, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    fold(Path(sys.argv[1]), Path(sys.argv[2]))
