"""Errors of the probes."""


class ProbeInputError(ValueError):
    """The probe was given something that its formula does not cover: what was found, what is needed.

    `exit_code` marks an error meant for a person: the command line prints it as one line.
    """

    exit_code = 2
