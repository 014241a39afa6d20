"""Weights on disk: names and shapes first, values later, a piece at a time, so that no second copy is held.

A file is opened anew for every piece: pages of a mapped file that have been read count as memory until it is closed.
"""

import json
import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch

from toy_models.errors import ModelError

SAFETENSORS = "model.safetensors"
FLOATS = ("F64", "F32", "BF16", "F16")  # the types that weights may have, as safetensors calls them
_OF_TORCH = dict(zip((torch.float64, torch.float32, torch.bfloat16, torch.float16), FLOATS, strict=True))


class Place(NamedTuple):
    """Where a tensor lies, its shape, and its type as safetensors calls it."""

    path: Path
    shape: tuple[int, ...]
    kind: str


class Stored:
    """The tensors of a checkpoint: `shapes` by name, and `rows` of one of them."""

    def __init__(self, folder: Path, weights: str | None):
        self.folder = folder
        self._pickles: dict[Path, dict[str, torch.Tensor]] = {}
        name = self._default() if weights is None else self._inside(weights, "weights")
        whole = self._listed(name) if name.endswith(".index.json") else None
        self.places: dict[str, Place] = {}
        for file in [name] if whole is None else sorted(set(whole.values())):
            self._open(folder / self._inside(file, f"{name} names"))
        for tensor, file in (whole or {}).items():
            if tensor not in self.places or self.places[tensor].path.name != file:
                raise ModelError(f"{folder / name} says that {tensor} is in {file}, which does not hold it")

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor, or all of one without axes."""
        path, shape, _ = self.places[name]
        if path.suffix != ".safetensors":
            tensor = self._pickles[path][name]
            return tensor[start:stop] if shape else tensor
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                return file.get_slice(name)[start:stop] if shape else file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _damaged(path, error) from None

    # Opening ------------------------------------------------------------------------------------

    def _default(self) -> str:
        for name in (SAFETENSORS, f"{SAFETENSORS}.index.json"):
            if (self.folder / name).is_file():
                return name
        pickles = sorted(p.name for p in self.folder.glob("*.bin*"))
        if pickles:
            name = next((p for p in pickles if p.endswith(".index.json")), pickles[0])
            raise ModelError(
                f"{self.folder} holds no {SAFETENSORS}, only pickled weights, read when named: weights={name!r}"
            )
        raise ModelError(f"{self.folder} holds no {SAFETENSORS} and no {SAFETENSORS}.index.json")

    def _inside(self, name: str, who: str) -> str:
        if Path(name).name != name:
            raise ModelError(f"{who} {name!r}: it must be a file of {self.folder}, without a path")
        if not (self.folder / name).is_file():
            raise ModelError(f"{self.folder} holds no {name}")
        return name

    def _listed(self, index: str) -> dict[str, str]:
        try:
            listed = json.loads((self.folder / index).read_text())["weight_map"]
            if isinstance(listed, dict) and all(isinstance(file, str) for file in listed.values()):
                return listed
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise ModelError(f"{self.folder / index} is damaged: it has no weight_map from tensors to files")

    def _open(self, path: Path) -> None:
        found = self._open_safetensors(path) if path.suffix == ".safetensors" else self._open_pickle(path)
        for name, place in found.items():
            if name in self.places:
                raise ModelError(f"{path} holds {name}, and so does {self.places[name].path.name}")
            self.places[name] = place

    def _open_safetensors(self, path: Path) -> dict[str, Place]:
        from safetensors import SafetensorError, safe_open

        found = {}
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  (the file is no mapping)
                    tensor = file.get_slice(name)
                    found[name] = Place(path, tuple(tensor.get_shape()), tensor.get_dtype())
        except (OSError, SafetensorError) as error:
            raise _damaged(path, error) from None
        return found

    def _open_pickle(self, path: Path) -> dict[str, Place]:
        state = self._pickles[path] = unpickled(path)
        for name, tensor in state.items():
            if not isinstance(tensor, torch.Tensor):
                raise ModelError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor")
        return {
            name: Place(path, tuple(tensor.shape), _OF_TORCH.get(tensor.dtype, str(tensor.dtype)))
            for name, tensor in state.items()
        }


def unpickled(path: Path) -> dict:
    """The state dict in a file of torch.save, mapped where its format allows; nothing in it is executed.

    Raises:
        ModelError: the file is damaged, or holds something else than tensors.
    """
    mapped = zipfile.is_zipfile(path)  # the format before it cannot be mapped
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        raise ModelError(f"{path} holds something else than tensors, or is damaged: nothing in it was run") from None
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise _damaged(path, error) from None
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds a {type(state).__name__}: a state dict, tensors by name, is needed")
    return state


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ModelError(f"{path} is damaged or cut short: {reason}")
