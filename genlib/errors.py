"""The one exception that a person is meant to read."""


class GenlibError(Exception):
    """Something a person can mend. The message is one line: what is wrong (key or file, and value), then the remedy."""
