"""A config whose `model` may be a directory of Hugging Face: its `files` says which weights were there."""

from toy_models.errors import ConfigError
from toy_models.hf.sums import directory_sum


def checked_files(model: object, files: str | None) -> str | None:
    """The sum over a directory's files, which names its content in a config; None for a model that is no directory.

    Args:
        model: a directory as text; anything else is a model of our own.
        files: what the config holds so far: None, or the sum filled in before.

    Raises:
        ConfigError: a sum that is not that of the directory.
    """
    there = directory_sum(model) if isinstance(model, str) else None
    if files not in (None, there):
        raise ConfigError(f"files={files} is not the sum of {model}, {there}: leave it to be filled in")
    return there
