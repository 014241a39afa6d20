"""Errors that are meant for the person at the keyboard."""


class WorkbenchError(Exception):
    """Something the person can put right: one line with the offending value and the remedy.

    The command line prints the message alone and exits with `exit_code`. It does the same for any exception that
    carries an integer `exit_code`, so that floors which may not import this one can speak to the person too.
    """

    exit_code = 2
