"""The two ways in which a call goes wrong."""


class Failure(Exception):
    """A call returns this code; the text is what acl.get_recent_err_msg then says."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Violation(AssertionError):
    """A call that would crash a board, or corrupt its memory: no code would come back."""
