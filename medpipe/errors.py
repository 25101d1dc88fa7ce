"""The one exception type a user is meant to read: `got X, expected Y, in Z: do W`.

Library code raises it and assets do not catch it. The command line prints its text without a traceback and exits 1.
"""


class MedpipeError(Exception):
    """A failure that the user can mend. The message says what was got, what was expected, where, and what to do."""

    def __init__(self, *, got: str, expected: str, where: str, do: str) -> None:
        super().__init__(f"got {got}, expected {expected}, in {where}: {do}")


class SourceUnreachable(MedpipeError):
    """A source or benchmark that could not be had in this run. It is reported and the run goes on without it."""
