"""The prompts and seeds of a search: those that score a trial, and those kept back for the best ones."""

from dataclasses import dataclass

from ..blocks.numbers import whole
from .errors import SearchError

MOST = 200  # images per trial
MAX_SEED = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Cases:
    """Every prompt with every seed."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def pairs(self) -> tuple[list[str], list[int]]:
        """Prompts and seeds as two lists of one length."""
        return (
            [prompt for prompt in self.prompts for _ in self.seeds],
            [seed for _ in self.prompts for seed in self.seeds],
        )


def parse_cases(prompts: str, seeds: str) -> Cases:
    """Prompts, one per line, and seeds, ``1, 2, 5-8``; SearchError quotes what is wrong."""
    lines = tuple(line.strip() for line in prompts.splitlines() if line.strip())
    numbers: list[int] = []
    for item in filter(str.strip, seeds.split(",")):
        first, dash, last = item.partition("-")
        try:
            low, high = whole(first), whole(last) if dash else whole(first)
        except ValueError:
            raise SearchError(
                f"{item.strip()[:60]!r} is not a seed. Write the seeds as 1, 2, 3 or 1-4."
            ) from None
        if not low <= high <= MAX_SEED or high - low >= MOST:
            raise SearchError(
                f"{item.strip()[:60]!r} is not a valid range of seeds. Use low to high, at most {MOST}."
            )
        numbers += range(low, high + 1)
    if not lines or not numbers:
        raise SearchError("A search needs at least one prompt and one seed. Write prompts one per line.")
    if len(lines) * len(numbers) > MOST:
        raise SearchError(
            f"{len(lines)} prompts with {len(numbers)} seeds are more than {MOST} images. Use fewer."
        )
    return Cases(lines, tuple(numbers))


def check_apart(search: Cases, holdout: Cases) -> None:
    """SearchError where a pair of prompt and seed is in both."""
    both = set(zip(*search.pairs(), strict=True)) & set(zip(*holdout.pairs(), strict=True))
    if both:
        prompt, seed = sorted(both)[0]
        raise SearchError(
            f"The prompt {prompt[:60]!r} with seed {seed} is in the search and in the hold-out set. Use other seeds or prompts."
        )
