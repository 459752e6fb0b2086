"""The one error of this package."""


class DeprojectorError(ValueError):
    """A file, configuration or input that cannot be used: what was given, what is expected, what to do."""
