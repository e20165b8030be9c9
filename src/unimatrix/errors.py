"""The one exception that means "the input is at fault, not the program".

Library callers catch it as the ValueError that it is; the command line prints its message in one line
and exits with code 2. Anything else that escapes is a programming error and stays loud.
"""


class UserError(ValueError):
    """Bad input from the user: one line that names the thing, what was expected and what came."""
