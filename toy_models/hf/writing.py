"""From a Transformer to a Hugging Face directory."""

import json
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from toy_models.errors import ModelError
from toy_models.hf import NAMES, find
from toy_models.hf.family import Biases, Family, theirs_of
from toy_models.transformer import Transformer


def to_hf(model: Transformer, directory: str | Path) -> Path:
    """Write config.json and model.safetensors, and the tokenizer if there is one, as the architecture that fits.

    The directory appears whole or not at all.  `from_hf` reads the same bits back.

    Raises:
        ModelError: no architecture can hold the model (each with its reason), or the directory is there already.
    """
    directory = Path(directory).expanduser()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ModelError(f"{directory} exists already: choose another directory, or remove it")
    family, biases = _fitting(model)
    part = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        part.chmod(0o755)
        (part / "config.json").write_text(json.dumps(_options(model, family, biases), indent=2) + "\n")
        _write(model, family, biases, part / "model.safetensors")
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(part)
        part.rename(directory)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot write {directory}: {str(error).splitlines()[0]}") from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return directory


def _fitting(model: Transformer) -> tuple[Family, Biases]:
    """The first family that can hold the model, and the biases that it writes."""
    reasons = []
    for architecture in NAMES:
        family = find(architecture)
        reason = _misfit(model, family)
        if reason is None:
            return family, family.holds(_biases(model))
        reasons.append(f"{architecture}: {reason}")
    raise ModelError(f"no architecture fits this model ({'; '.join(reasons)})")


def _misfit(model: Transformer, family: Family) -> str | None:
    """Why an architecture cannot hold a model, or None."""
    config = model.cfg
    for name, values in {**family.able, "normaliser": ("Softmax",), "gated_attention": (False,)}.items():
        value = getattr(config, name)
        value = type(value).__name__ if name in ("position", "normaliser") else value
        if value not in values:
            return f"{name}={value!r} must be {' or '.join(map(repr, values))}"
    if config.attn_only:
        return "d_mlp=0 leaves no MLP"
    if config.d_vocab_out != config.d_vocab:
        return f"d_vocab_out={config.d_vocab_out} must equal d_vocab={config.d_vocab}"
    if reason := family.refuses(config):
        return reason
    held = family.holds(_biases(model))
    if held is None:
        return "it has other biases"
    placed = {entry.ours for entry in family.every_entry(config, held)}
    for name, weight in model.named_parameters():
        if name not in placed and (largest := weight.abs().max().item()) > 0:
            return f"{name} reaches {largest:.3g}, and has no place"
    return None


def _biases(model: Transformer) -> Biases:
    attention = [block.attn for block in model.blocks]
    return Biases(
        qkv=any(bool(b.any()) for attn in attention for b in (attn.b_Q, attn.b_K, attn.b_V)),
        output=any(bool(attn.b_O.any()) for attn in attention),
    )


def _options(model: Transformer, family: Family, biases: Biases) -> dict:
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.written(model.cfg, biases),
        "tie_word_embeddings": model.cfg.tie_word_embeddings,
        **{"bos_token_id": model.cfg.bos_id, "eos_token_id": None, "pad_token_id": None},
        "torch_dtype": str(model.cfg.dtype).removeprefix("torch."),
    }


def _write(model: Transformer, family: Family, biases: Biases, path: Path) -> None:
    parameters = {name: weight.detach().cpu() for name, weight in model.named_parameters()}
    groups = defaultdict(list)
    for entry in family.every_entry(model.cfg, biases):
        groups[entry.theirs].append(entry)
    tensors = {}
    for theirs, entries in groups.items():
        name = theirs if theirs == family.head else family.prefix + theirs
        tensors[name] = theirs_of(entries, parameters).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
