"""From a Hugging Face directory to a Transformer, one piece of one tensor at a time."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from toy_models.config import DTYPES, TransformerConfig
from toy_models.errors import ModelError
from toy_models.hf import find
from toy_models.hf.family import Biases, Entry, Family, shape_of, sizes
from toy_models.hf.given import Given
from toy_models.hf.stored import FLOATS, Stored, unpickled
from toy_models.transformer import Transformer

CHUNK = 2**24  # bytes in a piece
NEEDED = ("*.json", "model*.safetensors", "tokenizer.model", "*.txt", "*.jinja")


def from_hf(
    directory_or_name: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device = "cpu",
    n_ctx: int | None = None,
    attention: str = "auto",
    weights: str | None = None,
) -> Transformer:
    """A checkpoint of Hugging Face as our Transformer: the weights are copied, no code of the checkpoint is run.

    Memory beyond the model is one tensor, or 16 MiB of it.  A tokenizer in the directory becomes `model.tokenizer`.

    Args:
        directory_or_name: a directory with config.json and weights, or a name on the Hugging Face hub.
        dtype: of the model; what config.json names (`dtype`, formerly `torch_dtype`), else float32, unless given.
        n_ctx: the longest text, `max_position_embeddings` unless given; a table of positions can only be cut.
        attention: the backend, see `TransformerConfig`.
        weights: the file, or index of shards, to read: `model.safetensors` unless given.  Pickled weights are read
            only when they are named here, and then nothing but tensors is taken from them.

    Raises:
        ModelError: one line. Nothing there; an architecture or an option that is not supported, by name and value; a
            file that is damaged; a tensor that is missing, too many, or of another shape than config.json says.
    """
    folder = _folder(directory_or_name, weights)
    options = _options(folder)
    family = find(_architecture(options, folder))
    stored = Stored(folder, weights)
    _check_layers(options, stored)
    chosen = {"dtype": _dtype(options) if dtype is None else dtype, "device": str(device), "attention": attention}
    try:
        config, table, biases = _config(family, options, n_ctx, chosen)
    except ModelError as error:
        raise ModelError(f"{folder / 'config.json'} ({family.architecture}): {error}") from None
    names = _checked(family, config, table, biases, stored)
    model = Transformer(config, seed=None)
    _fill(model, family, biases, stored, names)
    model.tokenizer = _tokenizer(folder)
    return model


def from_state_dict(path_or_dict: str | Path | dict[str, torch.Tensor], config: TransformerConfig) -> Transformer:
    """A Transformer of `config` with these weights, under our names or those of a classic TransformerLens state dict.

    A path is a file of safetensors, or of torch.save, from which nothing but tensors is taken.

    Raises:
        ModelError: a file that cannot be read; a weight that is missing, too many, or of another shape, by name.
    """
    state = path_or_dict
    if not isinstance(state, dict):
        path = Path(state).expanduser()
        if not path.is_file():
            raise ModelError(f"{path} is no file: give a file of safetensors or of torch.save, or a state dict")
        state = _safetensors(path) if path.suffix == ".safetensors" else unpickled(path)
    model = Transformer(config, seed=None)
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ModelError(f"the state dict does not fit: {' '.join(lines[1:2] or lines)}") from None
    return model


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    stored = Stored(path.parent, path.name)
    return {name: stored.rows(name, 0, max(place.shape[:1], default=1)) for name, place in stored.places.items()}


# config.json --------------------------------------------------------------------------------------


def _folder(directory_or_name: str | Path, weights: str | None) -> Path:
    path = Path(directory_or_name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or str(directory_or_name).startswith((".", "/", "~")):
        raise ModelError(f"{path} is no directory: a Hugging Face directory, or a name on its hub, is needed")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    patterns = [*NEEDED, *([f"{Path(weights).name.split('.')[0]}*"] if weights else [])]
    try:
        return Path(huggingface_hub.snapshot_download(str(directory_or_name), allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"{str(directory_or_name)!r} is no directory here, and the hub has not given it: {reason}"
        ) from None


def _options(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        options = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no config.json: a Hugging Face directory is needed") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from None
    if not isinstance(options, dict):
        raise ModelError(f"{path} is damaged: it holds a {type(options).__name__}, not options by name")
    return options


def _architecture(options: dict[str, Any], folder: Path) -> str:
    named = options.get("architectures")
    if not isinstance(named, list) or len(named) != 1:
        raise ModelError(f"{folder / 'config.json'}: architectures={named!r} must name one architecture")
    return str(named[0])


def _dtype(options: dict[str, Any]) -> torch.dtype:
    named = options.get("dtype") or options.get("torch_dtype") or "float32"
    if named not in DTYPES:
        raise ModelError(f"config.json names dtype={named!r}: give dtype=, one of {', '.join(DTYPES)}")
    return DTYPES[named]


def _config(family: Family, options: dict, n_ctx: int | None, chosen: dict) -> tuple[TransformerConfig, int, Biases]:
    """Our config, the length of the table of positions on disk, and the biases."""
    given = Given(options)
    given.only(model_type=family.model_type)
    found, biases = family.options(given)
    given.finish()
    table = found["n_ctx"]
    config = TransformerConfig(**found | chosen | ({} if n_ctx is None else {"n_ctx": n_ctx}))
    if config.position.where == "embed" and config.n_ctx > table:
        raise ModelError(f"n_ctx={n_ctx} goes beyond the table of {table} positions: choose at most {table}")
    return config, table, biases


# Weights ------------------------------------------------------------------------------------------


def _check_layers(options: dict[str, Any], stored: Stored) -> None:
    """Before that many layers are made."""
    for name in ("n_layer", "num_hidden_layers"):
        if type(n_layers := options.get(name)) is int and n_layers > len(stored.places):
            raise ModelError(
                f"{stored.folder} holds {len(stored.places)} tensors, and config.json says {name}={n_layers}"
            )


def _checked(family: Family, config: TransformerConfig, table: int, biases: Biases, stored: Stored) -> dict[str, str]:
    """Names on disk by the family's names, after every name and shape has been compared with what config.json says."""
    buffers = re.compile(family.buffers)
    names: dict[str, str] = {}
    for full in stored.places:
        bare = full.removeprefix(family.prefix)
        if bare in names:
            raise ModelError(f"{stored.places[full].path} holds both {names[bare]} and {full}")
        if not buffers.fullmatch(bare):
            names[bare] = full
    try:
        with torch.device("meta"):
            blueprint = Transformer(replace(config, device="meta", n_ctx=table), seed=None)
    except RuntimeError as error:
        raise ModelError(f"config.json asks for weights that cannot be: {str(error).splitlines()[0]}") from None
    shapes = dict(blueprint.named_parameters())
    expected = {}
    for theirs, entries in _grouped(family.every_entry(config, biases)):
        if theirs not in names:
            raise ModelError(f"{stored.folder} holds no tensor {theirs}, which config.json calls for")
        expected[theirs] = shape = shape_of(entries, shapes)
        path, found, kind = stored.places[names[theirs]]
        if found != shape:
            raise ModelError(f"{names[theirs]} in {stored.folder} has shape {found}: config.json makes it {shape}")
        if kind not in FLOATS:
            raise ModelError(f"{names[theirs]} in {path} is {kind}: only {', '.join(FLOATS)} are read")
    if config.tie_word_embeddings and family.head in names:
        _check_tied(stored, names[family.head], names[family.embedding(config, biases)])
        expected[family.head] = None
    if surplus := sorted(set(names) - set(expected)):
        raise ModelError(f"{stored.folder} holds {names[surplus[0]]}, which config.json has no place for")
    return names


def _check_tied(stored: Stored, head: str, embedding: str) -> None:
    """A file may hold the unembedding although config.json ties it to the embedding; then the two must agree."""
    if stored.places[head].shape == stored.places[embedding].shape:
        pairs = zip(_pieces(stored, head), _pieces(stored, embedding), strict=True)
        if all(torch.equal(one, other) for (_, one), (_, other) in pairs):
            return
    raise ModelError(f"{head} in {stored.folder} differs from {embedding}, and config.json ties them")


def _grouped(entries: Iterable[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """Entries by the tensor that they share."""
    found = defaultdict(list)
    for entry in entries:
        found[entry.theirs].append(entry)
    yield from found.items()


def _pieces(
    stored: Stored, name: str, limit: int | None = None, whole: bool = False
) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, rows) of a tensor, CHUNK bytes at a time, up to row `limit`."""
    shape = stored.places[name].shape
    n = shape[0] if limit is None else limit
    width = 8 * torch.Size(shape[1:]).numel()  # bytes in a row at most
    step = n if whole else max(1, CHUNK // max(width, 1))
    for start in range(0, n, max(step, 1)):
        yield start, stored.rows(name, start, min(start + step, n))


@torch.no_grad()
def _fill(model: Transformer, family: Family, biases: Biases, stored: Stored, names: dict[str, str]) -> None:
    parameters, axes = dict(model.named_parameters()), sizes(model.cfg)
    without = set(parameters)
    for theirs, entries in _grouped(family.every_entry(model.cfg, biases)):
        without -= {entry.ours for entry in entries}
        rows = entries[0].rows
        limit = model.cfg.n_ctx if entries[0].longer else None
        for start, piece in _pieces(stored, names[theirs], limit, whole=rows is None):
            for entry in entries:
                value = entry.ours_of(piece, axes)
                target = parameters[entry.ours]
                if rows is not None:
                    target = target.narrow(rows, start, value.shape[rows])
                target.copy_(value)
    for name in without:  # biases that the family does not have
        parameters[name].zero_()


def _tokenizer(folder: Path):
    """The tokenizer of the directory, or None where there is none."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its readers raise what they like
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{folder} holds a tokenizer that cannot be read: {reason}") from None
