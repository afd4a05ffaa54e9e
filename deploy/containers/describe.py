"""Write the distribution's metadata beside the code, so that `importlib.metadata` knows its version without a build."""

import sys
import tomllib
from pathlib import Path


def describe(pyproject: Path, folder: Path) -> Path:
    """Make `<folder>/<name>-<version>.dist-info` from `pyproject.toml`."""
    project = tomllib.loads(pyproject.read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    return info


if __name__ == "__main__":
    describe(Path(sys.argv[1]), Path(sys.argv[2]))
