"""Real text, byte by byte: windows of a file, of a folder's files, or of Python's own standard library.

    256  100 101 102 32 109 ...        (BOS, then "def m")

A byte is its own token id, 0 to 255, so that `bytes(tokens)` is the text again; BOS is 256, an id that no byte
can have.  Files are ordered by the SHA-256 of their content, each content once, and the first of them are held
out: no file, nor a copy of it, serves both training and test.  A window may run from one file into the next.

A model that reads bytes also has to spell, so its loss is in nats per byte.
"""

import hashlib
import math
import sysconfig
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from toy_models.errors import ConfigError
from toy_models.tasks import Batch

BOS = 256
TRAINING, HELD_OUT = "training", "held out"
# Of the standard library: what is not it, its tests, tables of codes, and what differs between two machines.
NOT_LIBRARY = ("site-packages", "dist-packages", "test", "tests", "idlelib", "encodings", "config-", "_sysconfigdata")


@dataclass(frozen=True)
class Text:
    """Args: n_ctx: BOS included;  path: a file, or a folder whose files that match `files` are read, at any depth;
    None is the standard library of the Python that runs;  held_out_share: of the bytes, in whole files (of one
    file alone: its end);  part: "training" or "held out", see `held_out()`;  digest: None, or the
    `text_digest` that the text must have, see `pinned()`."""

    d_vocab: ClassVar[int] = 257

    n_ctx: int = 128
    path: str | None = None
    files: str = "*.py"
    held_out_share: float = 0.1
    part: str = TRAINING
    digest: str | None = None

    def __post_init__(self):
        if isinstance(self.n_ctx, bool) or not isinstance(self.n_ctx, int) or self.n_ctx < 2:
            raise ConfigError(f"n_ctx={self.n_ctx!r} must be a whole number of at least 2: BOS and a byte")
        if not 0 < self.held_out_share < 1:
            raise ConfigError(
                f"held_out_share={self.held_out_share} must lie between 0 and 1, so that both parts have text"
            )
        if self.part not in (TRAINING, HELD_OUT):
            raise ConfigError(f"part={self.part!r} must be {TRAINING!r} or {HELD_OUT!r}")

    def __getstate__(self) -> dict:
        """The options alone: another process reads the text itself."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def held_out(self) -> "Text":
        """The same task on the files that training never reads."""
        return replace(self, part=HELD_OUT)

    def pinned(self) -> "Text":
        """The same task, which refuses any other text: its hash then stands for the very bytes."""
        return replace(self, digest=self.text_digest)

    @property
    def text(self) -> UInt8[torch.Tensor, " byte"]:
        """The bytes of this part, read when first asked for."""
        return self._read[0]

    @property
    def text_digest(self) -> str:
        """12 hex digits of the SHA-256 of both parts: the same for the same contents, wherever they lie."""
        return self._read[1]

    def common(self, share: float = 1e-3) -> Int64[torch.Tensor, " byte"]:
        """The bytes that each make up at least `share` of this part, in order: a model hardly knows the others."""
        counts = self.text.int().bincount(minlength=256)
        return (counts >= share * counts.sum()).nonzero()[:, 0]

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """n windows, each start equally likely.  Every position is scored, the first after BOS alone."""
        starts = torch.randint(len(self.text) - self.n_ctx + 1, (n, 1), generator=generator)
        window = self.text[starts + torch.arange(self.n_ctx)].long()
        tokens = torch.cat([torch.full((n, 1), BOS), window[:, :-1]], dim=1)
        return Batch(tokens, window, torch.ones_like(window, dtype=torch.bool))

    @cached_property
    def _read(self) -> tuple[torch.Tensor, str]:
        training, held_out = _split(_contents(self.path, self.files), self.held_out_share)
        digest = hashlib.sha256(held_out + training).hexdigest()[:12]
        if self.digest not in (None, digest):
            raise ConfigError(
                f"the text of {self._place} has digest {digest}, not {self.digest}: it has changed, or this is another "
                f"Python; set digest to null to take what is there"
            )
        chosen = training if self.part == TRAINING else held_out
        if len(chosen) < self.n_ctx:
            raise ConfigError(
                f"the {self.part} text of {self._place} has {len(chosen)} bytes, fewer than n_ctx={self.n_ctx}: "
                f"name a longer text, or change held_out_share={self.held_out_share} or n_ctx"
            )
        return torch.from_numpy(np.frombuffer(bytearray(chosen), dtype=np.uint8)), digest

    @property
    def _place(self) -> str:
        return self.path or "the standard library"


def _contents(path: str | None, pattern: str) -> list[bytes]:
    """What is in the files, each content once, in the order of their hashes; the empty ones left out."""
    root = Path(path if path is not None else sysconfig.get_paths()["stdlib"])
    try:
        found = [root] if root.is_file() else [one for one in root.rglob(pattern) if one.is_file()]
        if path is None:
            found = [one for one in found if not _left_out(one.relative_to(root))]
        texts = {hashlib.sha256(text).digest(): text for text in map(Path.read_bytes, found) if text}
    except (OSError, ValueError, NotImplementedError) as error:  # the last two: a pattern that is none
        raise ConfigError(f"cannot read the text of {root}: {getattr(error, 'strerror', None) or error}") from None
    if not texts:
        reason = "there is no such file or folder" if not root.exists() else f"no file {pattern!r} in it has any text"
        raise ConfigError(f"no text at {root}: {reason}; set path, or files to another pattern such as '*.txt'")
    return [text for _, text in sorted(texts.items())]


def _left_out(path: Path) -> bool:
    return any(
        part == name or (part.startswith(name) and name in ("config-", "_sysconfigdata"))
        for part in path.parts
        for name in NOT_LIBRARY
    )


def _split(texts: list[bytes], share: float) -> tuple[bytes, bytes]:
    """(training, held out): the first texts that make up `share` of all bytes are held out, though never all."""
    total = sum(map(len, texts))
    if len(texts) == 1:
        cut = total - math.ceil(share * total)
        return texts[0][:cut], texts[0][cut:]
    ends = np.cumsum([len(text) for text in texts])
    n_held_out = min(int(np.searchsorted(ends, share * total)) + 1, len(texts) - 1)
    return b"".join(texts[n_held_out:]), b"".join(texts[:n_held_out])
