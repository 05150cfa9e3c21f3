"""What the program prints, by structure: sentences without their numbers, tables by title, header and kinds of cells.

Two processors round differently. Then numbers differ, and so do the words that numbers choose: what an error comes
from, which side of the edge of stability a product lies on, which layer is the largest. `CHOICES` lists these words.
"""

import difflib
import re
from dataclasses import dataclass

NUMBER = re.compile(r"(?<![A-Za-z0-9_])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![A-Za-z\d])")
BARS = re.compile(r"[▏▎▍▌▋▊▉█]+")
RULE = re.compile(r"^\s*─{10,}\s*$")

KIND = r"(?:rounding noise|the residual norm|residual\^#/gap \(at least a quarter of the residual\))"
SHARE = r"# % \(# % to # %(?:, s\.e\. # %)?\)|# %"
CHOICES = [
    ("ESTIMATED", rf"error: from {KIND}(?:, {KIND})*"),
    (
        "STABILITY",
        "at the edge of stability, to within the error|"
        "near the edge of stability: # % (?:above|below) #, the limit for gradient descent on the quadratic model|"
        "sharp: above #, where gradient descent on the quadratic model diverges|"
        "below #: gradient descent on the quadratic model is stable",
    ),
    (
        "BELOW ZERO",
        r"between # % and # % below # by more than rounding \(more --steps would tell\)|"
        r"# % below # by more than rounding(?: \(# % to # %\))?",
    ),
    ("STABILITY", "STABILITY; the smallest eigenvalue was not looked for: along negative ones it diverges"),
    ("SHARE", SHARE),
    ("SHARE", "SHARE to SHARE"),
    ("METHOD", r"method [\w+]+: [^.]*"),
    ("#", r"#(?:, #)+"),  # a list, as long as it is
]


@dataclass
class Table:
    """A table's header, and its rows' cells; a bar is no cell."""

    header: list[str]
    rows: list[list[str]]

    def shape(self):
        """Header, number of rows, and for every row which cells hold words."""
        return self.header, [["#" if is_number(cell) else cell for cell in row] for row in self.rows]


def is_number(cell):
    """A number, a percentage, an interval of numbers, or the dash for none."""
    return re.fullmatch(r"[-#%\s]*(?:to [-#%\s]*)?", NUMBER.sub("#", cell)) is not None


def parts(text):
    """The prose, as one string, and the tables."""
    lines = [line.rstrip() for line in text.splitlines()]
    taken, tables = set(), []
    for place, line in enumerate(lines):
        if not RULE.match(line):
            continue
        first = last = place
        while first and lines[first - 1]:
            first -= 1
        while last + 1 < len(lines) and lines[last + 1]:
            last += 1
        taken |= set(range(first, last + 1))
        rows = [_cells(BARS.sub("", row)) for row in lines[place + 1 : last + 1]]
        tables.append(Table([name for above in lines[first:place] for name in _cells(above)], rows))
    prose = ["COST." if " peak " in line else line for place, line in enumerate(lines) if place not in taken]
    return " ".join(" ".join(prose).split()), tables


def skeleton(prose):
    """Without numbers, and one word for all that rounding may choose among."""
    found = NUMBER.sub("#", prose)
    for name, words in CHOICES:
        found = re.sub(words, name, found)
    return found


def assert_alike(printed, expected, told="", either=()):
    """The same sentences and the same tables, whatever their numbers.

    Args:
        told: said where they differ.
        either: words of a table's cells any of which may stand for another.
    """
    (ours, our_tables), (theirs, their_tables) = parts(printed), parts(expected)
    assert _sentences(ours) == _sentences(theirs), "\n".join([told, *_changes(_sentences(ours), _sentences(theirs))])
    assert len(our_tables) == len(their_tables), told
    for one, other in zip(our_tables, their_tables, strict=True):
        shapes = [(table.header, [[either[0] if c in either else c for c in row] for row in table.shape()[1]])
                  for table in (one, other)]  # fmt: skip
        assert shapes[0] == shapes[1], f"{told}: {shapes[0]} instead of {shapes[1]}"


def column(table, name):
    """The numbers below a header, of a percentage the share; none where the table has no such column."""
    if name not in table.header:
        return []
    cells = [row[table.header.index(name)] for row in table.rows]
    numbers = [(NUMBER.search(cell), cell) for cell in cells]
    return [float(found[0].replace(",", "")) / (100 if "%" in cell else 1) for found, cell in numbers if found]


def _sentences(prose):
    return re.split(r"(?<=[.:;]) ", skeleton(prose))


def _changes(ours, theirs):
    return [line for line in difflib.ndiff(theirs, ours) if line[0] in "+-"]


def _cells(line):
    return re.split(r"\s{2,}", line.strip())
