"""Text that came from outside, made safe to show: no character that a terminal obeys, no password."""

import re
import unicodedata

MASK = "***"
# A path made of a URL has lost one of its slashes.
_SCHEME = r"[A-Za-z][\w+.-]*:/{1,2}"
_SECRET = (
    r"[\w.-]*(?:sig|signature|token|secret|passw(?:or)?d|pwd|credential|accesskeyid|access_?key|api_?key|key)"
)
_MASKED = (
    # user:password@ of any URL, whatever characters should have been quoted. A number before a slash is a port.
    (re.compile(rf"({_SCHEME})[^\s/?#@:'\"]*:(?!:|\d+[/?#])\S*@"), rf"\g<1>{MASK}@"),
    # A token in the place of the user. In abfs://container@account it is no secret.
    (re.compile(r"(https?:/{1,2})[^\s/?#@'\"]+@"), rf"\g<1>{MASK}@"),
    (re.compile(rf"([?&;]{_SECRET}=)[^\s&;#'\"]*", re.IGNORECASE), rf"\g<1>{MASK}"),
)


def masked(text: str) -> str:
    """Return `text` without the passwords, tokens and signatures of the URLs in it.

    Example:
        >>> masked("ftp://me:pw@host/logs, https://host/logs?day=1&X-Amz-Signature=ab12")
        'ftp://***@host/logs, https://host/logs?day=1&X-Amz-Signature=***'
    """
    for pattern, instead in _MASKED:
        text = pattern.sub(instead, text)
    return text


def printable(text: str) -> str:
    """Return `text` as one line to print: `masked`, and what is no visible character written as Python escapes it.

    These are line ends, control characters, with them the escape sequences of terminals, and the invisible characters
    that reorder or hide text.

    Example:
        >>> print(printable("a\\x1b[2J" + "b\\nc"))
        a\\x1b[2Jb\\nc
    """
    text = masked(text)
    return text if text.isprintable() else "".join(map(_visible, text))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s unless there is one.

    Example:
        >>> counted(1, "day"), counted(1200, "version")
        ('1 day', '1,200 versions')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _visible(character: str) -> str:
    space = unicodedata.category(character) == "Zs"
    return character if character.isprintable() or space else repr(character)[1:-1]


def printable_lines(text: str) -> str:
    """Return `printable` of each line of `text`.

    Example:
        >>> printable_lines("one\\ntwo\\x07")
        'one\\ntwo\\\\x07'
    """
    return "\n".join(map(printable, text.split("\n")))
