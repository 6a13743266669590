"""What is printed: names come from folders, files and other people's runs, and a terminal obeys some of what they hold.

Nothing here imports torch, so that it is quick to load.
"""


def printable(text: str) -> str:
    r"""Return ``text`` with everything written out that is not to be seen, as in a literal of Python.

    That is control characters, such as those that begin an escape code; line breaks; marks that turn the direction of
    writing around; and the bytes of a file's name that are no text. ``"\x1b[2J"`` becomes ``r"\x1b[2J"``.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
