"""A simulated person who chooses by eye: likes what is near a hidden optimum."""

import random

import optuna
from blockwork.search.choice import Ranking, present, record
from blockwork.search.space import parse_space
from blockwork.search.study import Row, Study


def choose(
    sampler: str, seed: int, free: int = 5, generations: int = 8, count: int = 6, liked: int = 3
) -> tuple[Study, list[float]]:
    """A study of ``free`` numbers after some generations, and the distance of its best and of each trial from the optimum.

    In each generation the ``liked`` nearest are preferred and the two farthest of the others are rejected.
    """
    space = parse_space(f"IN00-IN{free - 1:02} = 0..1", "sd1")
    study = Study(optuna.storages.InMemoryStorage(), "a", space, ["maximize"])
    dice = random.Random(seed)
    goal = {name: dice.random() for name in space.parameters}

    def far(row: Row) -> float:
        return sum((row.values[name] - goal[name]) ** 2 for name in goal) ** 0.5

    for number in range(1, generations + 1):
        for _ in range(count):
            study.ask(sampler, seed, number)
        shown = present(study)
        near = sorted([*shown.candidates, *([shown.best] if shown.best else [])], key=far)
        worst = [row.number for row in near[liked:] if row.number != shown.best_number][-2:]
        record(study, Ranking(number, tuple(row.number for row in near[:liked]), tuple(worst)))
    return study, [far(study.best()[0]), *(far(row) for row in study.rows())]
