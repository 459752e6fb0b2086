"""The one error of the merge room."""


class MergeError(ValueError):
    """A merge that cannot be done; the message names the file or key, what was expected and what to do."""
