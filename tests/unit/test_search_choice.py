"""Choosing by eye: a ranking as text, the scores it gives, and a simulated person who finds a known optimum."""

from statistics import mean

import pytest
from blockwork.search import choice
from blockwork.search.choice import Ranking, parse_ranking, present, record
from blockwork.search.errors import SearchError
from blockwork.search.report import report
from blockwork.search.space import parse_space
from blockwork.search.storage import open_storage
from blockwork.search.study import Study

optuna = pytest.importorskip("optuna")
from blockwork.tests.support.chooser import choose  # noqa: E402  (needs optuna)


def study_of(space="IN00-IN04 = 0..1", storage=None):
    storage = storage or optuna.storages.InMemoryStorage()
    return Study(storage, "a", parse_space(space, "sd1"), ["maximize"], "me")


def ask(study, count, sampler="random", seed=0):
    number = present(study).number + 1
    return [study.ask(sampler, seed, number) for _ in range(count)]


def scores(study):
    return {row.number: row.scores[0] for row in study.rows() if row.scores}


@pytest.mark.parametrize(
    "text, found",
    [
        ("", None),
        (" \n", None),
        ("generation 2: prefer 12, 10; reject 11", Ranking(2, (12, 10), (11,))),
        ("Generation 1 : reject 3", Ranking(1, (), (3,))),
        ("generation 10: reject 4 5; prefer 1,2,3;", Ranking(10, (1, 2, 3), (4, 5))),
    ],
)
def test_rankings_are_read(text, found):
    assert parse_ranking(text) == found


@pytest.mark.parametrize(
    "text, said",
    [
        ("12, 10", "Expected: generation 2: prefer"),
        ("generation 2", "Cannot read"),
        ("generation 2:", "Cannot read"),
        ("generation 2: like 3", "Cannot read"),
        ("generation 2: prefer", "Cannot read"),
        ("generation 2: prefer -1", "Cannot read"),
        ("generation 2: prefer 1; prefer 2", "Cannot read"),
        ("generation 2: prefer 1; reject 1", "twice"),
        ("generation 1: prefer " + "1, " * 1000, "Cannot read"),
    ],
)
def test_a_bad_ranking_says_what_is_expected(text, said):
    with pytest.raises(SearchError, match=said) as error:
        parse_ranking(text)
    assert str(error.value).endswith(".") and len(str(error.value)) < 400


def test_ranks_become_scores_that_can_be_compared_over_generations():
    study = study_of()
    ask(study, 4)
    assert record(study, Ranking(1, (2, 0), (3,)))
    assert scores(study) == {2: 2.0, 0: 1.0, 1: -2.0, 3: -3.0}
    ask(study, 4)
    shown = present(study)
    assert (shown.number, shown.best_number) == (2, 2) and [row.number for row in shown.candidates] == [
        4,
        5,
        6,
        7,
    ]
    assert record(study, Ranking(2, (6, 2, 4), (7,)))
    assert {number: scores(study)[number] for number in range(4, 8)} == {6: 3.0, 4: 1.0, 5: -1.0, 7: -4.0}
    ask(study, 3)
    assert record(study, Ranking(3, (), (9,))), "nothing is better: the best stays"
    assert study.best()[0].number == 6 and scores(study)[8] == scores(study)[10] == 1.0
    assert scores(study)[9] == min(scores(study).values()) == -5.0
    assert [row.number for row in study.rows() if row.rejected] == [3, 7, 9]
    assert not {3, 7, 9} & {row.number for row in study.best(99)} and "trial 6: 3" in report(study)


def test_a_ranking_of_another_generation_is_not_used_and_a_wrong_one_is_refused():
    study = study_of()
    ask(study, 3)
    assert not record(study, None) and not record(study, Ranking(2, (0,)))
    with pytest.raises(SearchError, match=r"names trial 7, .* shows 0, 1, 2\."):
        record(study, Ranking(1, (7,)))
    assert len(present(study).candidates) == 3, "nothing is recorded"
    assert record(study, Ranking(1, (1,)))
    assert not record(study, Ranking(1, (0,))) and study.best()[0].number == 1, "a ranking counts once"
    ask(study, 2)
    with pytest.raises(SearchError, match="rejects trial 1, the present best"):
        record(study, Ranking(2, (), (1,)))
    assert "not used" in choice.describe(present(study), Ranking(7, (1,)))
    assert "generation 1 is recorded" in choice.describe(present(study), Ranking(1, (1,)))


def test_all_rejected_leaves_no_best_and_the_next_generation_stands_alone():
    study = study_of()
    ask(study, 2)
    assert record(study, Ranking(1, (), (0, 1))) and study.best() == []
    ask(study, 2)
    assert present(study).best is None and record(study, Ranking(2, (3,)))
    assert study.best()[0].number == 3


def test_a_generation_waits_over_a_restart(tmp_path):
    first = study_of(storage=open_storage(tmp_path, "a"))
    asked = ask(first, 3)
    again = study_of(storage=open_storage(tmp_path, "a"))
    assert again.release(lambda owner: False) == [], "nobody runs them, a person looks at them"
    assert [(row.number, row.weights) for row in present(again).candidates] == asked
    assert record(again, Ranking(1, (2,), (0,)))
    third = study_of(storage=open_storage(tmp_path, "a"))
    assert third.best()[0].number == 2 and third.rows()[0].rejected


def test_a_person_who_ranks_by_distance_approaches_a_known_optimum():
    found: dict[str, list[float]] = {"TPE": [], "random": []}
    for sampler, far in found.items():
        for seed in range(4):
            study, (best, *others) = choose(sampler, seed)
            assert best == min(others), "the nearest of all is the best"
            texts = [row.weights for row in study.rows()]
            assert len(set(texts)) == len(texts) == 48, "no weights come twice, rejected ones neither"
            far.append(best)
    assert mean(found["TPE"]) < 0.6 * mean(found["random"])


def test_rejected_weights_never_come_back_in_a_finite_space():
    study = study_of("IN00 = 0, 0.5, 1; IN01 = 0, 0.5, 1")
    seen = []
    while asked := [one for one in ask(study, 2) if one is not None]:
        seen += [text for _, text in asked]
        record(study, Ranking(present(study).number, (), tuple(number for number, _ in asked)))
    assert len(seen) == len(set(seen)) == 9
