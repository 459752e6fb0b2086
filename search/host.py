"""Studies in ComfyUI: their folder, the server that runs a trial, Ask and Tell in the graph."""

import os
import platform
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import folder_paths
import psutil
from comfy_execution.graph_utils import ExecutionBlocker, is_link
from comfy_execution.utils import get_executing_context

from ..blocks.host import own_presets
from ..blocks.names import Layout, layout_of
from .choice import Generation, parse_ranking, present, record
from .errors import SearchError
from .space import Space, parse_space
from .storage import open_storage, optuna, read_settings
from .study import DIRECTIONS, Row, Study, stored_space

TELL, CHOOSE = "BlockworkSearchTell", "BlockworkSearchChoose"
WEIGHTS_OUTPUT, TRIAL_OUTPUT = 0, 1  # of Ask
SCORES = ("score", "score_2", "score_3")
MOST_STUDIES = 500  # files in the folder
BLOCKED = ExecutionBlocker(None)  # in the place of weights: what hangs on them does not run outside the loop


@dataclass(frozen=True)
class Settings:
    """How a search samples: the inputs of Ask."""

    sampler: str
    seed: int
    trials: int
    loop: bool
    skip_failed: bool


@dataclass(frozen=True)
class Handle:
    """What Ask gives to Tell: a trial, or the study alone (``number`` None) where there is nothing to run or a loop does."""

    study: Study
    settings: Settings
    number: int | None = None
    weights: str = ""
    started: float = 0.0
    holdout: bool = False
    shown: Generation | None = None  # what a person chooses from

    def seconds(self) -> float:
        """Since the trial was asked for."""
        return time.monotonic() - self.started


def studies_folder() -> Path:
    """``user/blockwork/studies``; it need not exist."""
    return Path(folder_paths.get_user_directory()) / "blockwork" / "studies"


def settings_file() -> Path:
    """``user/blockwork/search.json``, which an administrator may write; no node and no route does."""
    return Path(folder_paths.get_user_directory()) / "blockwork" / "search.json"


def space_of(text: str, layout: str, model: Any = None) -> Space:
    """The space of a text for a MODEL, or for a layout by name."""
    shape: str | Layout = layout if model is None else layout_of(model.model_state_dict("diffusion_model."))
    return parse_space(text, shape, own_presets())


def owner() -> str:
    """This server process, as it is known to others."""
    process = psutil.Process()
    return f"{platform.node()} {process.pid} {process.create_time():.2f}"


def alive(other: str) -> bool | None:
    """Whether the server process ``other`` still runs; None on another computer."""
    node, _, process = other.partition(" ")
    if node != platform.node():
        return None
    try:
        pid, started = process.split()
        found = psutil.Process(int(pid))
        ended = found.status() == psutil.STATUS_ZOMBIE  # its parent has not looked yet
        return not ended and abs(found.create_time() - float(started)) < 1
    except (psutil.Error, ValueError):
        return False


# Per study a weak reference to the prompt that runs trials here, and the numbers of these trials.
_running: dict[str, tuple[Any, list[int]]] = {}


def open_study(name: str, space: Space, directions: Sequence[str], prompt: Any) -> Study:
    """The study of that name, made where there is none; trials that nobody runs any more are failed.

    ``prompt`` is core's DynamicPrompt: what another prompt of this server left open is failed too.
    """
    address = read_settings(settings_file())
    folder = studies_folder()
    optuna()
    if (
        not address
        and not (folder / f"{name}.log").exists()
        and len(list(folder.glob("*.log"))) >= MOST_STUDIES
    ):
        raise SearchError(
            f"There are {MOST_STUDIES} studies in {folder.name}. Remove some, or use an existing one."
        )
    study = Study(open_storage(folder, name, address), name, space, directions, owner())
    if name not in _running or _running[name][0]() is not prompt:
        _running[name] = (weakref.ref(prompt), [])
    study.release(alive, _running[name][1])
    return study


def read_study(name: str) -> Study:
    """A study that exists; SearchError where there is none of that name."""
    storage = open_storage(studies_folder(), name, read_settings(settings_file()), must_exist=True)
    space, directions = stored_space(storage, name)
    return Study(storage, name, space, directions, owner())


def ask(study: Study, settings: Settings) -> Handle | None:
    """The next trial of the study; None where it has as many as are set, or every combination was tried."""
    if study.done() >= settings.trials:
        return None
    asked = study.ask(settings.sampler, settings.seed)
    if asked is None:
        return None
    _running[study.name][1].append(asked[0])
    return Handle(study, settings, *asked, started=time.monotonic())


def ask_several(study: Study, settings: Settings, count: int) -> list[Handle]:
    """Up to ``count`` trials at once, fewer where the study ends."""
    found: list[Handle] = []
    while len(found) < min(count, settings.trials - study.done()):
        handle = ask(study, settings)
        if handle is None:
            break
        found.append(handle)
    return found


def ask_generation(study: Study, settings: Settings, count: int, ranking: Any) -> list[Handle]:
    """The present best, where there is one, and up to ``count`` candidates to choose from.

    ``ranking`` is recorded where it ranks the generation that waits. That one is given again while it is not ranked.
    """
    if not isinstance(ranking, str):
        raise SearchError("The ranking of Search: Choose by Eye is connected. Write it in the node instead.")
    record(study, parse_ranking(ranking))
    last = present(study)
    if not last.candidates:
        while len(present(study).candidates) < min(count, settings.trials - study.done()):
            if study.ask(settings.sampler, settings.seed, last.number + 1) is None:
                break
        last = present(study)
    rows = ([last.best] if last.best else []) + list(last.candidates)
    if not rows:
        raise SearchError(
            f"The study {study.name!r} has its {settings.trials} trials and all are rejected. "
            "Raise trials of Search: Ask, or use another name for a new study."
        )
    return [Handle(study, settings, row.number, row.weights, shown=last) for row in rows]


def check_kind(study: Study, by_eye: bool) -> None:
    """SearchError where a study has trials of the other kind: ranks and scores cannot be compared."""
    kinds = {row.generation > 0 for row in study.rows() if row.state != "failed"}
    if kinds - {by_eye}:
        made, other = ("with scores", "by eye") if by_eye else ("by eye", "with scores")
        raise SearchError(f"The study {study.name!r} was made {made}. Use another name for a search {other}.")


def unfinished(handle: Handle, holdout: int) -> bool:
    """Whether a loop has something to run: trials, or hold-out scores of the best ones."""
    if not handle.settings.loop:
        return False
    study = handle.study
    return study.done() < handle.settings.trials or any(not row.holdout for row in study.best(holdout))


def tell(handles: Sequence[Handle], scores: Sequence[Sequence[Any]]) -> None:
    """Record the scores of trials: of one trial the mean of each list, of several one number or an equal part each."""
    problems = []
    for place, handle in enumerate(handles):
        if handle.number is None:
            continue
        try:
            means = [_mean(part(values, place, len(handles))) for values in scores]
            handle.study.tell(handle.number, means, handle.seconds())
        except SearchError as error:
            if handle.number in handle.study.open_numbers():
                handle.study.fail(handle.number, str(error), handle.seconds())
            problems.append(error)
    if problems and not handles[0].settings.skip_failed:
        raise problems[0]


def mean_scores(scores: Sequence[Sequence[Any]]) -> list[float]:
    """The mean of each list of scores; SearchError where one holds something else than numbers."""
    return [_mean(values) for values in scores]


def part(values: Sequence[Any], place: int, count: int, what: str = "scores") -> Sequence[Any]:
    """The values of one of ``count`` trials, which all have equally many; SearchError where they have not."""
    each, left = divmod(len(values), count)
    if left or not each:
        raise SearchError(
            f"{len(values)} {what} are given for {count} trials. Give one per trial, or the same number for each."
        )
    return values[place * each : (place + 1) * each]


def _mean(values: Sequence[Any]) -> float:
    if any(isinstance(value, ExecutionBlocker) for value in values):
        raise SearchError("The score is blocked: a node between Ask and Tell gave nothing. Check its inputs.")
    odd = [value for value in values if isinstance(value, bool) or not isinstance(value, int | float)]
    if odd or not values:
        found = type(odd[0]).__name__ if odd else "nothing"
        raise SearchError(f"The score is {found}, not a number. Connect a FLOAT.")
    try:
        return sum(map(float, values)) / len(values)
    except OverflowError:
        raise SearchError(
            "The score is beyond the range of numbers. Check the nodes that compute it."
        ) from None


def current_prompt() -> str:
    """The id of the prompt that runs."""
    context = get_executing_context()
    return context.prompt_id if context else ""


def end_of(prompt: Any) -> tuple[str, dict[str, Any]]:
    """The class and the inputs of the Tell or Choose node of the running Ask node; SearchError where there is not exactly one."""
    context = get_executing_context()
    if context is None or prompt is None:
        raise RuntimeError("A search only runs as nodes of a ComfyUI prompt.")
    nodes = [prompt.get_node(node_id) for node_id in prompt.all_node_ids()]
    mine = [
        (node["class_type"], node["inputs"])
        for node in nodes
        if node["class_type"] in (TELL, CHOOSE)
        and node["inputs"].get("trial") == [context.node_id, TRIAL_OUTPUT]
    ]
    if len(mine) != 1:
        raise SearchError(
            f"The trial of Search: Ask is connected to {len(mine)} nodes that record it. "
            "Connect it to exactly one Search: Tell or Search: Choose by Eye."
        )
    return mine[0]


def directions(inputs: Mapping[str, Any]) -> list[str]:
    """The directions of the connected scores of a Tell node."""
    found = []
    for name in SCORES:
        if name == SCORES[0] or is_link(inputs.get(name)):
            choice = inputs.get(name.replace("score", "direction"), DIRECTIONS[0])
            if choice not in DIRECTIONS:
                raise SearchError("The direction of a score must be chosen on Search: Tell, not connected.")
            found.append(choice)
    return found


def best_row(study: Study) -> Row | None:
    """The best trial so far."""
    return next(iter(study.best(1)), None)


def with_weights(handle: Handle, number: int, weights: str) -> Handle:
    """The handle of a finished trial for its hold-out scores."""
    return replace(handle, number=number, weights=weights, holdout=True, started=time.monotonic())


def export_csv(name: str, text: str) -> str:
    """Save a CSV text as ``output/blockwork_search/<name>.csv``; its path below the output folder."""
    folder = Path(folder_paths.get_output_directory()) / "blockwork_search"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    half = path.with_suffix(f".{os.getpid()}")
    half.write_text(text, encoding="utf-8", newline="")
    half.replace(path)
    return f"{folder.name}/{path.name}"
