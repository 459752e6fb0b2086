"""The one error of the package."""


class SearchError(ValueError):
    """What was given, what is expected, what to do."""


class SetupError(SearchError):
    """An error that every trial would meet, because the weights have no part in it."""
