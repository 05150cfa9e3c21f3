"""The pages on codes and concepts, by their sections."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from curvtool.errors import UsageError, suggest

_FOLDER = Path(__file__).parent.parent / "docs"
_CODE = re.compile(r"CT\d{3}")
_OTHER_WORDS = {
    "batchnorm": "batch-normalization", "batch-norm": "batch-normalization", "bn": "batch-normalization",
    "adamw": "adam", "rmsprop": "adam", "nesterov": "momentum", "sgd": "momentum", "heavy-ball": "momentum",
    "bits": "quantization", "hawq": "quantization", "conditioning": "condition-number", "ggn": "gauss-newton",
    "eos": "edge-of-stability", "learning-rate": "edge-of-stability", "ci": "confidence-interval",
}  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """Attributes:
    name: the code, or the concept's word.
    title: in a few words.
    text: Markdown.
    """

    name: str
    title: str
    text: str


def explanations() -> dict[str, Explanation]:
    """All of them by name: concepts first, then codes in order."""
    found = {}
    for page in ("concepts.md", "codes.md"):
        sections = re.split(r"^## ", (_FOLDER / page).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        for section in sections:
            heading, _, text = section.partition("\n")
            name, _, title = heading.partition(" ")
            found[name] = Explanation(name, title, text.strip())
    return found


def explained(word: str) -> Explanation:
    """What a code or a concept means.

    Raises:
        UsageError: CT001, no such word.
    """
    known = explanations()
    sought = word.upper() if _CODE.fullmatch(word.upper()) else word.lower().replace(" ", "-").replace("_", "-")
    spelt = {_american(name): name for name in known}
    sought = spelt.get(_american(_OTHER_WORDS.get(sought, sought)), sought)
    if sought not in known:
        within = [name for name in known if sought in name or sought in known[name].title.lower()]
        remedy = "curvtool explain, which lists them"
        if within:
            remedy = f"curvtool explain {within[0]}"
        elif not _CODE.fullmatch(sought):
            remedy = suggest(sought, list(known))
        raise UsageError(
            "CT001",
            f"nothing is written about {word!r}",
            expected="a code such as CT026, or a concept such as sharpness",
            received=word,
            remedy=remedy,
        )
    return known[sought]


def _american(word: str) -> str:
    """The same for `quantisation` and `quantization`, `parameterisation` and `parametrization`."""
    return word.replace("parametri", "parameteri").replace("isation", "ization").replace("our", "or")
