"""A study: ask for weights, tell their score. Optuna keeps the trials; here is what a search of block weights adds.

Equal weights are tried once. A trial without a result is failed when the server that asked for it is gone.
"""

import datetime
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from .errors import SearchError
from .samplers import make_sampler, trial_seed
from .space import Space, parse_space
from .storage import optuna

DIRECTIONS = ("maximize", "minimize")
SPACE, OBJECTIVES, RUN, END, HOLDOUT, FORMAT = "space", "objectives", "run", "end", "holdout", "blockwork"
BY_EYE = "by eye"  # owner of a trial that waits for a person, not for a server
REDRAWS = 12  # equal weights drawn again before random ones are used
LEASE = datetime.timedelta(hours=12)  # of a trial that another computer runs


@dataclass(frozen=True)
class Row:
    """One trial: ``state`` is complete, failed, running or duplicate; ``scores`` are empty where there is none."""

    number: int
    state: str
    weights: str
    values: dict[str, Any]
    scores: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""
    holdout: tuple[float, ...] = ()
    generation: int = 0  # from 1, of a trial that is chosen by eye
    rejected: bool = False


def stored_space(storage: Any, name: str) -> tuple[Space, list[str]]:
    """The space and the directions of a study that exists; SearchError where there is none of that name."""
    try:
        study = optuna().load_study(study_name=name, storage=storage)
        text, layout, base = study.user_attrs[SPACE]
    except KeyError:
        raise SearchError(f"There is no study {name!r} yet. Run a search with this name first.") from None
    free = "; ".join(item for item in text.split(";") if "=" in item)
    space = replace(parse_space(free, layout), text=text, base=base)
    return space, [direction.name.lower() for direction in study.directions]


class Study:
    """One study in an open storage; ``owner`` says which server asks, and ``alive`` whether another one still runs."""

    def __init__(self, storage: Any, name: str, space: Space, directions: Sequence[str], owner: str = ""):
        module = optuna()
        self.name, self.space, self.owner = name, space, owner
        self._storage = storage
        try:
            self._study = module.create_study(
                storage=storage, study_name=name, directions=list(directions), load_if_exists=True
            )
        except SearchError:
            raise
        except Exception as error:
            raise SearchError(f"The study {name!r} cannot be opened ({type(error).__name__}).") from error
        self._asked: dict[int, Any] = {}
        known = self._study.user_attrs
        if FORMAT not in known:
            self._study.set_user_attr(SPACE, [space.text, space.layout.name, space.base])
            self._study.set_user_attr(FORMAT, 1)
        elif known.get(SPACE) != [space.text, space.layout.name, space.base]:
            raise SearchError(
                f"The study {name!r} has another search space: {known.get(SPACE, ['?'])[0][:200]!r} for "
                f"{known.get(SPACE, ['?', '?'])[1]}. Use that space, or another name for a new study."
            )
        if self.directions != tuple(directions):
            raise SearchError(
                f"The study {name!r} was made to {' and '.join(self.directions)}, not to {' and '.join(directions)}. "
                "Set the directions as they were, or use another name."
            )

    @property
    def directions(self) -> tuple[str, ...]:
        """``maximize`` or ``minimize`` per score."""
        return tuple(direction.name.lower() for direction in self._study.directions)

    def ask(self, sampler: str = "TPE", seed: int = 0, generation: int = 0) -> tuple[int, str] | None:
        """The number and the weights of a new trial; None where every combination of a finite space was tried.

        A trial of a ``generation`` from 1 is chosen by eye: it stays open until ``judge``, also over a restart.
        """
        run = {"owner": BY_EYE, "generation": generation} if generation else {"owner": self.owner}
        self._study.sampler = make_sampler(sampler, seed, len(self.directions))
        distributions = {name: _distribution(p) for name, p in self.space.parameters.items()}
        for attempt in range(20 * REDRAWS):
            if len(set(self._taken().values())) >= self.space.size:
                return None
            if attempt >= REDRAWS:
                self._study.sampler = make_sampler("random", trial_seed(seed, attempt), len(self.directions))
            trial = self._study.ask(distributions)
            text = self.space.weights(trial.params).text()
            trial.set_user_attr(RUN, {"weights": text, **run})
            if not self._others(text, trial.number):
                self._asked[trial.number] = trial
                return trial.number, text
            trial.set_user_attr(END, {"error": "", "duplicate": True})
            self._tell(trial.number, None)
        return None

    def tell(self, number: int, scores: Sequence[float], seconds: float = 0.0) -> None:
        """Record the scores of a trial. SearchError, and the trial failed, where one is not a finite number."""
        if len(scores) != len(self.directions):
            message = f"{len(scores)} scores are given for {len(self.directions)} directions."
            self.fail(number, message)
            raise SearchError(f"Trial {number} failed: {message} Connect one score per direction.")
        bad = [score for score in scores if not math.isfinite(score)]
        if bad:
            message = f"The score is {bad[0]}, not a finite number."
            self.fail(number, message, seconds)
            raise SearchError(f"Trial {number} failed: {message} Check the nodes that compute the score.")
        self._end(number, {"error": "", "seconds": round(seconds, 3)})
        self._tell(number, [float(score) for score in scores])

    def judge(self, number: int, score: float, rejected: bool) -> None:
        """Record the score of a trial that is chosen by eye, whichever run asked for it; one that has a score keeps it."""
        trial = next((trial for trial in self._trials("RUNNING") if trial.number == number), None)
        if trial is not None:
            self._storage.set_trial_user_attr(trial._trial_id, END, {"error": "", "rejected": rejected})
            self._study.tell(number, score, skip_if_finished=True)

    def fail(self, number: int, error: str, seconds: float = 0.0) -> None:
        """Mark a trial as failed, with a sentence; an empty one for a trial that was stopped, which is not ``done``."""
        self._end(number, {"error": error[:500], "seconds": round(seconds, 3)})
        self._tell(number, None)

    def release(self, alive: Callable[[str], bool | None], running: Sequence[int] = ()) -> list[int]:
        """Fail the trials that nobody runs any more; ``alive`` says so of an owner, None where it cannot know.

        ``running`` are trials of this server that still run.
        """
        now, freed = datetime.datetime.now(), []
        for trial in self._trials("RUNNING"):
            owner = trial.user_attrs.get(RUN, {}).get("owner")
            if owner == BY_EYE:
                continue
            mine = owner == self.owner
            lives = trial.number in running if mine else (alive(owner) if owner is not None else None)
            if lives is None:
                lives = now - (trial.datetime_start or now) < LEASE
            if not lives:
                freed.append(trial.number)
                self._tell(trial.number, None)
        return freed

    def open_numbers(self) -> list[int]:
        """Trials that were asked for here and have neither score nor error."""
        return list(self._asked)

    def done(self) -> int:
        """Trials that have a score, or failed with an error of their own."""
        return sum(
            row.state == "complete" or (row.state == "failed" and bool(row.error)) for row in self.rows()
        )

    def rows(self) -> list[Row]:
        """All trials but the repeated ones, by number."""
        holdout = self._study.user_attrs
        found = []
        for trial in self._study.get_trials(deepcopy=False):
            run, end = trial.user_attrs.get(RUN), trial.user_attrs.get(END, {})
            if run is None or end.get("duplicate"):
                continue
            state = {"COMPLETE": "complete", "RUNNING": "running"}.get(trial.state.name, "failed")
            scores = tuple(trial.values) if state == "complete" else ()
            found.append(
                Row(
                    trial.number, state, run["weights"], dict(trial.params), scores, end.get("seconds", 0.0),
                    end.get("error", ""), tuple(holdout.get(f"{HOLDOUT} {trial.number}", ())),
                    run.get("generation", 0), end.get("rejected", False),
                )
            )  # fmt: skip
        return found

    def best(self, count: int = 1) -> list[Row]:
        """The best trials that are not rejected, best first; with several scores those that no other beats in all, by the first."""
        complete = [row for row in self.rows() if row.state == "complete" and not row.rejected]
        signs = [1 if direction == "maximize" else -1 for direction in self.directions]

        def key(row: Row) -> tuple[float, ...]:
            return tuple(sign * score for sign, score in zip(signs, row.scores, strict=True))

        def beaten(row: Row) -> bool:
            mine = key(row)
            return any(
                all(a >= b for a, b in zip(key(other), mine, strict=True)) and key(other) != mine
                for other in complete
            )

        front = complete if len(signs) == 1 else [row for row in complete if not beaten(row)]
        return sorted(front, key=lambda row: (tuple(-value for value in key(row)), row.number))[:count]

    def set_holdout(self, number: int, scores: Sequence[float]) -> None:
        """Record the scores of a finished trial on seeds and prompts that the search did not use; SearchError for NaN."""
        bad = [score for score in scores if not math.isfinite(score)]
        if bad:
            raise SearchError(
                f"The hold-out score of trial {number} is {bad[0]}, not a finite number. "
                "Check the nodes that compute the score."
            )
        self._study.set_user_attr(f"{HOLDOUT} {number}", [float(score) for score in scores])

    def importance(self) -> dict[str, float]:
        """The share of each parameter in what decides between trials of a good first score and others (PED-ANOVA).

        Empty below 10 trials.
        """
        complete = [row for row in self.rows() if row.state == "complete"]
        names = list(self.space.parameters)
        if len(complete) < 10 or len({row.scores[0] for row in complete}) < 2:
            return {}
        if len(names) == 1:
            return {names[0]: 1.0}
        module = optuna()
        target = None if len(self.directions) == 1 else lambda trial: trial.values[0]
        module.logging.set_verbosity(module.logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = module.importance.get_param_importances(
                    self._study,
                    evaluator=module.importance.PedAnovaImportanceEvaluator(),
                    params=names,
                    target=target,
                )
        except (ValueError, RuntimeError):
            return {}
        return {name: float(share) for name, share in found.items()}

    def _trials(self, *states: str) -> list[Any]:
        wanted = tuple(optuna().trial.TrialState[state] for state in states)
        return self._study.get_trials(deepcopy=False, states=wanted)

    def _taken(self) -> dict[int, str]:
        """The weights of the finished and the running trials, by number."""
        trials = self._trials("COMPLETE", "RUNNING")
        return {trial.number: trial.user_attrs[RUN]["weights"] for trial in trials if RUN in trial.user_attrs}

    def _others(self, text: str, number: int) -> bool:
        """Whether another trial has these weights, also one of a higher number: another server may be the faster one."""
        return any(other != number and taken == text for other, taken in self._taken().items())

    def _end(self, number: int, end: dict[str, Any]) -> None:
        trial = self._asked.get(number)
        if trial is None:
            raise SearchError(
                f"Trial {number} of the study {self.name!r} is not open in this run. Queue the workflow again."
            )
        trial.set_user_attr(END, end)

    def _tell(self, number: int, scores: list[float] | None) -> None:
        module = optuna()
        self._asked.pop(number, None)
        if scores is None:
            self._study.tell(number, state=module.trial.TrialState.FAIL, skip_if_finished=True)
        else:
            self._study.tell(number, scores)


def _distribution(parameter: Any) -> Any:
    distributions = optuna().distributions
    if parameter.choices:
        return distributions.CategoricalDistribution(parameter.choices)
    high = parameter.high
    if parameter.step is not None:  # in decimals, as Optuna counts the steps: 3 x 0.3 is below 0.9 in binary
        low, step = (Decimal(str(value)) for value in (parameter.low, parameter.step))
        high = float(low + (parameter.count - 1) * step)
    return distributions.FloatDistribution(parameter.low, high, step=parameter.step)
