"""The exceptions that mean "the input is at fault, not the program".

Library callers catch them as the ValueError, or TypeError, that they are; the command line prints the message
in one line and exits with code 2. Anything else that escapes is a programming error and stays loud.
"""


class UserError(ValueError):
    """Bad input from the user: one line that names the thing, what was expected and what came."""


class TrainingStopped(UserError):
    """A run that cannot go on: its loss or weights are no longer finite, or the model refused them."""


class UserTypeError(UserError, TypeError):
    """A UserError about the type of what came, for callers who catch TypeError."""
