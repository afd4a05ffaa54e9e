"""Make the basis of the vector space, `services/memory/basis.npy`: `python -m bench.basis`.

An uncentred principal component analysis of the packaged model's own vectors for every 8th word of its vocabulary
and the first lines of the docstrings in Python's standard library. None of it is a labelled set, so nothing is
fitted to what relevance is measured on. The standard library differs between Python versions, so the file does too:
a new file is a new vector space, and every row is embedded anew.
"""

import ast
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np

from services.memory.minilm import MiniLM

DIMENSION = 144
"""The smallest multiple of 16 at which neither shared set loses precision at 0.80 against 384 (bench.recall)."""

BASIS = Path(__file__).resolve().parents[1] / "services" / "memory" / "basis.npy"


def lines() -> list[str]:
    """First lines of docstrings: plain sentences of 4 to 20 words."""
    library = Path(sysconfig.get_path("stdlib"))
    found = set()
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library).as_posix()
        if "site-packages" in inside or inside.startswith("test/") or "/test" in inside:
            continue
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, UnicodeDecodeError):  # templates and files for other Python versions
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                line = (ast.get_docstring(node) or "").strip().split("\n")[0].strip()
                if 4 <= len(line.split()) <= 20 and line[0].isupper():
                    found.add(line)
    return sorted(found)


def words(model: MiniLM) -> list[str]:
    vocabulary: dict[str, int] = model.vocabulary()
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    return [word for word in ordered if word.isascii() and word.isalpha() and len(word) > 2][::8]


def main() -> int:
    model = MiniLM.packaged()
    texts = words(model) + lines()
    pooled = np.array([model.pooled(text) for text in texts], dtype=np.float64)
    vectors: Any = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    _, sizes, directions = np.linalg.svd(vectors, full_matrices=False)
    np.save(BASIS, directions[:DIMENSION].T.astype(np.float16))
    kept = float((sizes[:DIMENSION] ** 2).sum() / (sizes**2).sum())
    print(f"{len(texts)} texts, {DIMENSION} directions keep {kept:.3f} of the squared length: {BASIS.name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
