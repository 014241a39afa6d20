"""Errors of the ground floor, each with the offending value and the remedy in one line."""


class ModelError(ValueError):
    """Something that a person asked of a model cannot be done.

    `exit_code` marks an error meant for a person: the command line prints it as one line.
    """

    exit_code = 2


class ConfigError(ModelError):
    """Options that do not fit together, refused at construction."""


class InputError(ModelError):
    """Tokens, masks or residuals that the model cannot take."""


class CheckpointError(ModelError):
    """A checkpoint that is missing, damaged, or belongs to another configuration."""


class TrainingError(ModelError):
    """A training run that cannot go on."""
