"""Optuna's samplers by name, seeded per trial: a resumed study goes on as one that never stopped."""

import hashlib
import importlib.util
import warnings
from typing import Any

import torch

from .errors import SearchError
from .storage import optuna

SAMPLERS = ("TPE", "CMA-ES", "GP", "QMC", "random")


def make_sampler(name: str, seed: int, objectives: int = 1) -> Any:
    """A sampler whose random numbers depend on ``seed`` and the number of the trial alone.

    SearchError for CMA-ES without the package cmaes, or with several objectives.
    """
    module = optuna()
    if name not in SAMPLERS:
        raise SearchError(f"Unknown sampler {name[:40]!r}. Available: {', '.join(SAMPLERS)}.")
    if name == "CMA-ES" and objectives > 1:
        raise SearchError("CMA-ES optimises one score. Use TPE for several, or one weighted sum.")
    if name == "CMA-ES" and importlib.util.find_spec("cmaes") is None:
        raise SearchError(
            "CMA-ES needs the Python package cmaes, which is not installed. Install it with: pip install cmaes"
        )

    class PerTrial(module.samplers.BaseSampler):
        """A fresh sampler for each trial; what samplers have to remember they keep in the study."""

        def __init__(self) -> None:
            self._number, self._sampler = -1, None

        def _of(self, number: int) -> Any:
            if number != self._number:
                self._number, self._sampler = number, _sampler(module, name, seed, number)
            return self._sampler

        def infer_relative_search_space(self, study, trial):
            return self._of(trial.number).infer_relative_search_space(study, trial)

        def sample_relative(self, study, trial, search_space):
            with (
                warnings.catch_warnings(),
                torch.inference_mode(False),
                torch.enable_grad(),
            ):  # GP fits by gradients
                warnings.simplefilter("ignore")
                return self._of(trial.number).sample_relative(study, trial, search_space)

        def sample_independent(self, study, trial, param_name, param_distribution):
            return self._of(trial.number).sample_independent(study, trial, param_name, param_distribution)

        def before_trial(self, study, trial):
            self._of(trial.number).before_trial(study, trial)

        def after_trial(self, study, trial, state, values):
            self._of(trial.number).after_trial(study, trial, state, values)

    return PerTrial()


def trial_seed(seed: int, number: int) -> int:
    """The random seed of one trial, 31 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big") >> 1


def _sampler(module: Any, name: str, seed: int, number: int) -> Any:
    samplers, own = module.samplers, trial_seed(seed, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls some of these experimental
        if name == "TPE":
            return samplers.TPESampler(seed=own, multivariate=True, constant_liar=True)
        if name == "CMA-ES":
            return samplers.CmaEsSampler(
                seed=own,
                warn_independent_sampling=False,
                independent_sampler=samplers.RandomSampler(seed=own),
            )
        if name == "GP":
            return samplers.GPSampler(seed=own, deterministic_objective=True)
        if name == "QMC":
            return samplers.QMCSampler(
                seed=trial_seed(seed, 0), scramble=True, warn_independent_sampling=False,
                independent_sampler=samplers.RandomSampler(seed=own),
            )  # fmt: skip
        return samplers.RandomSampler(seed=own)
