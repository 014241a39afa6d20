"""Models from elsewhere, with TransformerLens hooks."""

from pathlib import Path

from toy_models.errors import ModelError


def load(name_or_directory: str | Path, *, device: str = "cpu"):
    """A `TransformerBridge` on a Hugging Face model: a local directory, or a name where there is a network.

    A directory must hold config.json, the weights and the tokenizer files; without the latter the loader
    would reach for the network.

    Raises:
        ModelError: nothing to load there, in one line.
    """
    path = Path(name_or_directory)
    looks_local = path.exists() or str(name_or_directory).startswith((".", "/", "~"))
    if looks_local:
        path = path.expanduser()
        for needed, what in (("config.json", "configuration"), ("tokenizer_config.json", "tokenizer")):
            if not (path / needed).is_file():
                raise ModelError(f"{path} holds no {needed}: a Hugging Face directory with its {what} is needed")
    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge

    try:
        return TransformerBridge.boot_transformers(str(path if looks_local else name_or_directory), device=device)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # files that cannot be read, or do not fit
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"cannot load {str(name_or_directory)!r}: {reason}") from error
