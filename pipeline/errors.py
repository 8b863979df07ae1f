"""The one exception that stands for a mistake a user can mend."""


class UserError(Exception):
    """What was passed, what was expected and how to mend it, in one line.

    Commands print the text and exit with status 1; every other exception keeps its traceback.
    """
