"""The error of the merge package."""


class MergeError(ValueError):
    """A merge that cannot be done; the message names the file or key, what was expected and what to do."""
