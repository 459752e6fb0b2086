"""The one error of this room: what was given, what was expected, what to do."""


class DeprojectorError(ValueError):
    """A deprojector file, configuration or input that cannot be used as it is; the message says why."""
