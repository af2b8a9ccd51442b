"""Whether a mirrored image is still of its class, as far as the names of classes and data sets tell."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIDES = (
    ("left", "right"), ("links", "rechts"), ("linke", "rechte"), ("linker", "rechter"), ("linkes", "rechtes"),
    ("gauche", "droite"), ("gauche", "droit"), ("izquierda", "derecha"), ("izquierdo", "derecho"),
    ("sinistra", "destra"), ("sinistro", "destro"), ("esquerda", "direita"), ("esquerdo", "direito"),
    ("venstre", "hojre"), ("vasen", "oikea"), ("lewo", "prawo"), ("lewy", "prawy"), ("l", "r"), ("lh", "rh"),
    ("east", "west"), ("ost", "west"), ("clockwise", "counterclockwise"), ("clockwise", "anticlockwise"),
    ("cw", "ccw"), ("port", "starboard"), ("leftward", "rightward"), ("leftwards", "rightwards"),
    ("sinister", "dexter"), ("backslash", "slash"), ("lefthanded", "righthanded"),
)  # fmt: skip
"""Words that a mirror exchanges."""
_OTHER_SIDE = {word: {b if word == a else a for a, b in _SIDES if word in (a, b)} for pair in _SIDES for word in pair}
_AMBIGUOUS = frozenset({"l", "r", "lh", "rh", "cw", "ccw", "port", "slash", "west", "ost", "east", "links", "droit"})
"""Words that say something only beside their counterpart."""
FEWEST_CHARACTERS = 10
"""Classes `0` and `1`, or `a` and `b`, may be called so for want of names."""
_CHARACTERS = frozenset(
    "zero one two three four five six seven eight nine alpha beta gamma delta epsilon theta lambda sigma omega".split()
)
_DATA_SETS = re.compile(
    r"(?<!fashion)(?<!fashion[_-])mnist|svhn|house.?numbers|usps|omniglot|semeion|gtsrb|traffic.?signs?|digits?|letters"
    r"|chars?74k|kuzushiji|alphabet|sign.?language|handwrit",
    re.IGNORECASE,
)
"""Names of data sets of digits, letters and signs."""


def mirrored_names(class_names: Sequence[str]) -> tuple[str, str] | None:
    """Two classes whose names differ in left and right alone; None where there are none."""
    known = {tuple(_words(name)): name for name in class_names}
    for words, name in known.items():
        for position, word in enumerate(words):
            for other in _OTHER_SIDE.get(word, ()):
                found = known.get((*words[:position], other, *words[position + 1 :]))
                if found is not None:
                    first, second = sorted((name, found))
                    return first, second
    return None


def one_sided_name(class_names: Sequence[str]) -> str | None:
    """A class whose name holds a word such as left; None where there is none."""
    for name in class_names:
        if any(word in _OTHER_SIDE and word not in _AMBIGUOUS for word in _words(name)):
            return name
    return None


def are_characters(class_names: Sequence[str]) -> bool:
    """Whether classes are digits, letters or other single characters, by their names."""
    if len(class_names) < FEWEST_CHARACTERS:
        return False
    last = [words[-1] if (words := _words(name)) else name.strip() for name in class_names]
    prefixes = {tuple(_words(name)[:-1]) for name in class_names}
    return len(prefixes) == 1 and all(len(word) == 1 or word in _CHARACTERS for word in last)


def is_of_characters(data_set: str) -> bool:
    """Whether a data set holds digits, letters or signs, by its name."""
    return _DATA_SETS.search(data_set) is not None


def mirroring_of(source: str, class_names: Sequence[str]) -> tuple[bool, str]:
    """Whether training images may be mirrored unless told otherwise, and what to say of it; nothing where they may.

    Args:
        source: The name of the data set, or of its folder.
        class_names: Names of the classes.
    """
    pair, name = mirrored_names(class_names), one_sided_name(class_names)
    if pair is not None:
        why = f"classes `{pair[0]}` and `{pair[1]}` are each other's mirror image by their names"
    elif is_of_characters(source) or are_characters(class_names):
        why = "the classes are characters or signs by their names"
    elif name is not None:
        return True, (
            f"class `{name}` mirrored may be of another class, and training images are mirrored; `--set hflip=0` leaves"
            " them as they are"
        )
    else:
        return True, ""
    return False, f"{why}, so training images are not mirrored; `--set hflip=0.5` mirrors half of them all the same"


def _words(name: str) -> list[str]:
    """The words of a name, in small letters: `TurnLeft_2` is turn, left, 2."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.findall(r"[^\W\d_]+|\d", spaced)]
