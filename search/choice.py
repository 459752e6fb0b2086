"""A search by eye: generations of candidates, and the scores that a person's ranking gives them.

A generation is a few trials that are shown beside the present best. Its ranking is a text, ``generation 2: prefer 12, 10;
reject 11``: the preferred trials in order, first the one that is liked most, then those never to see again.

The scores are ranks that are comparable over generations, because the present best is in each of them and keeps its score:

- preferred above the present best: 1, 2, ... above its score, the first highest
- preferred below it: 1, 2, ... below its score
- not named: ``UNNAMED`` below the lowest of these, all the same. The present best is above these where it is not named.
- rejected: 1 below the lowest score of the whole study. A rejected trial is never the best again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import SearchError
from .study import Row, Study

LONGEST = 2000  # characters of a ranking
UNNAMED = 2.0
_FORM = re.compile(r"generation\s+(\d{1,9})\s*:(.*)", re.IGNORECASE | re.DOTALL)
_PART = re.compile(r"(prefer|reject)((?:\s*,?\s*\d{1,9})+)", re.IGNORECASE)
EXPECTED = (
    "Expected: generation 2: prefer 12, 10; reject 11, with the numbers that the node shows. "
    "Click the images to write it, or leave it empty."
)


@dataclass(frozen=True)
class Ranking:
    """What a person says of a generation: numbers of trials, ``preferred`` with the best first."""

    generation: int
    preferred: tuple[int, ...] = ()
    rejected: tuple[int, ...] = ()


@dataclass(frozen=True)
class Generation:
    """The candidates to choose from, and the present best beside them (None in the first generation)."""

    number: int
    candidates: tuple[Row, ...]
    best: Row | None

    @property
    def best_number(self) -> int | None:
        """The number of the present best."""
        return None if self.best is None else self.best.number


def parse_ranking(text: str) -> Ranking | None:
    """Read a ranking; None where the text is empty. SearchError quotes what is wrong."""
    if not text.strip():
        return None
    form = _FORM.fullmatch(text.strip()) if len(text) <= LONGEST else None
    named: dict[str, tuple[int, ...]] = {}
    for item in filter(None, (part.strip() for part in form[2].split(";"))) if form else ():
        part = _PART.fullmatch(item)
        if part is None or part[1].lower() in named:
            form = None
            break
        named[part[1].lower()] = tuple(int(number) for number in re.findall(r"\d+", part[2]))
    if form is None or not named:
        raise SearchError(f"Cannot read the ranking {text[:80]!r}. {EXPECTED}")
    preferred, rejected = named.get("prefer", ()), named.get("reject", ())
    if len({*preferred, *rejected}) < len(preferred) + len(rejected):
        raise SearchError(f"The ranking {text[:80]!r} names a trial twice. Name each once.")
    return Ranking(int(form[1]), preferred, rejected)


def present(study: Study) -> Generation:
    """The last generation of a study; without candidates where it is ranked, number 0 where there is none."""
    rows = study.rows()
    number = max((row.generation for row in rows), default=0)
    waiting = tuple(row for row in rows if row.generation == number and row.state == "running")
    best = next(iter(study.best(1)), None)
    return Generation(number, waiting, best)


def record(study: Study, ranking: Ranking | None) -> bool:
    """Record the ranking of the generation that waits for it; False where the ranking is of another one, or none is given.

    SearchError where it names a trial that the generation does not show, or rejects the present best.
    """
    shown = present(study)
    if ranking is None or ranking.generation != shown.number or not shown.candidates:
        return False
    scores = ranked(ranking, shown, [row.scores[0] for row in study.rows() if row.scores])
    for row in shown.candidates:
        study.judge(row.number, scores[row.number], row.number in ranking.rejected)
    return True


def ranked(ranking: Ranking, shown: Generation, known: Sequence[float] = ()) -> dict[int, float]:
    """The score of each candidate; ``known`` are all scores of the study so far."""
    numbers = [row.number for row in shown.candidates]
    best, level = shown.best_number, shown.best.scores[0] if shown.best else 0.0
    for number in (*ranking.preferred, *ranking.rejected):
        if number not in numbers and number != best:
            raise SearchError(
                f"The ranking names trial {number}, which generation {shown.number} does not show. "
                f"It shows {', '.join(map(str, numbers if best is None else [best, *numbers]))}."
            )
    if best in ranking.rejected:
        raise SearchError(
            f"The ranking rejects trial {best}, the present best. Prefer another trial: it takes its place."
        )
    order = list(ranking.preferred)
    place = order.index(best) if best in order else len(order)
    scores = {number: level + place - rank for rank, number in enumerate(order)}
    lowest = min([level, *scores.values()])
    scores |= {
        number: lowest - UNNAMED
        for number in numbers
        if number not in ranking.preferred and number not in ranking.rejected
    }
    bottom = min([*scores.values(), *known, level]) - 1
    return {number: scores.get(number, bottom) for number in numbers}


def describe(shown: Generation, ranking: Ranking | None) -> str:
    """What is shown and what to do, as the head of a report; ``ranking`` is that of the node."""
    best = "" if shown.best is None else f" beside trial {shown.best.number}, the best so far"
    numbers = ", ".join(str(row.number) for row in shown.candidates)
    lines = [f"Generation {shown.number}: trials {numbers}{best}."]
    if not shown.candidates:
        lines = [
            f"No new candidates{best}: the study has all its trials, or tried all weights. Raise trials of Search: Ask to go on."
        ]
    if ranking is not None and ranking.generation == shown.number - bool(shown.candidates):
        lines.append(f"The ranking of generation {ranking.generation} is recorded.")
    elif ranking is not None:
        lines.append(
            f"The ranking is of generation {ranking.generation}, which is not shown. It is not used."
        )
    if shown.candidates:
        lines.append("Click the images you like, the best first, reject others, and queue again.")
    return "\n".join(lines) + "\n\n"
