"""Text of unknown origin, made safe to show: in a terminal, a log or a page it can only be read."""

from __future__ import annotations

import unicodedata

__all__ = ['plain']

_INVISIBLE = ('Cc', 'Cf', 'Cs', 'Co', 'Zl', 'Zp')
"""Categories of characters that do something instead of being seen: controls, directions of writing, line ends."""


def plain(text: object, most: int = 2000) -> str:
    """Return a text in which every control character is spelt out, and that is not too long.

    Arguments:
        text: what to show; line breaks and tabs stay.
        most: characters that are kept.

    Example:
        >>> print(plain('Pong\\x1b]52;c;cm0gLXJmIH4K\\x07 \\u202egnop\\x9b31m'))
        Pong\\x1b]52;c;cm0gLXJmIH4K\\x07 \\u202egnop\\x9b31m
    """
    shown = str(text)
    if len(shown) > most:
        shown = shown[:most] + '…'
    if shown.isascii() and shown.isprintable():
        return shown
    return ''.join(_spelt(character) for character in shown)


def _spelt(character: str) -> str:
    if character in '\n\t' or unicodedata.category(character) not in _INVISIBLE:
        return character
    return character.encode('unicode_escape').decode('ascii')
