"""The one exception that a person is meant to read."""


class GenlibError(Exception):
    """Something a person can mend. The message is one line: what is wrong (key or file, and value), then the remedy.

    Line breaks in what is quoted (a key, a value, another library's message) become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))
