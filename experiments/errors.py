"""The one error that means: the request cannot be carried out as written."""


class UsageError(ValueError):
    """Bad input, found before training starts.

    The message says the invariant, what was received, and the remedy; the command line prints it without a
    traceback and exits with status 2.
    """
