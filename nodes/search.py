"""A search of block weights: its space, Ask and Tell with the loop between them, prompts and seeds, its result."""

from typing import Any

from comfy_api.latest import io

from ..blocks.names import LAYOUTS
from ..search import host, host_loop
from ..search.cases import check_apart, parse_cases
from ..search.errors import SearchError
from ..search.names import checked_name
from ..search.report import report
from ..search.samplers import SAMPLERS
from ..search.study import DIRECTIONS
from .checks import first_problem, listed
from .show import shown

CATEGORY = "blockwork/search"
Space = io.Custom("BLOCKWORK_SEARCH_SPACE")
Trial = io.Custom("BLOCKWORK_SEARCH_TRIAL")
ALL, ONE = "all trials", "one per run"
SKIP, STOP = "skip the trial", "stop"
LAZY = ("score", "images", "score_2", "score_3")


class SearchSpace(io.ComfyNode):
    """Which weights are free, in which ranges."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSearchSpace",
            display_name="Search Space",
            category=CATEGORY,
            description="Says which block weights a search may change and in which ranges: per block, one number for a group, choices, or a curve of five numbers. All other blocks keep their weight.",
            search_aliases=["auto MBW", "bayesian merger", "optimise block weights", "search range", "optuna"],
            inputs=[
                io.Combo.Input("layout", options=list(LAYOUTS), default="sd1", tooltip="The blocks of your model: sd1 (SD1 and SD2), sdxl, flux and others. Not used when model is connected."),
                io.String.Input("space", default="IN = one 0..1; M00 = 0..1; OUT = 0..1", multiline=True, tooltip="Items separated by ; or lines. IN00-IN05 = 0..1 is a number per block, OUT = one 0.2..0.8 one number for the group, 0..1 by 0.1 has steps, BASE = 0, 0.5, 1 are choices, M00 = 0.5 is frozen, ALL = curve 0..1 is a curve. A preset or a number without = is below all other items."),
                io.Model.Input("model", optional=True, tooltip="Optional. Reads the blocks of this model instead of the layout."),
            ],
            outputs=[Space.Output("search_space", display_name="space", tooltip="The space, for Search: Ask.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, layout=None, space=None, model="not connected"):
        if model is None:  # its blocks are known when it runs
            return first_problem(listed(cls, layout=layout))
        return first_problem(listed(cls, layout=layout), (host.space_of, space, layout))

    @classmethod
    def execute(cls, layout, space, model=None) -> io.NodeOutput:
        return io.NodeOutput(host.space_of(space, layout, model))


class SearchAsk(io.ComfyNode):
    """The weights of the next trial."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSearchAsk",
            display_name="Search: Ask",
            category=CATEGORY,
            description="Gives the weights of the next trial of a search. Connect them to merges, samplers and a score, and the score to Search: Tell. One run makes all trials; a stopped search resumes. Needs the Python package optuna.",
            search_aliases=["auto MBW", "bayesian merger", "optimise block weights", "hyperparameter search", "optuna", "TPE", "CMA-ES"],
            hidden=[io.Hidden.dynprompt],
            inputs=[
                io.String.Input("study", default="my search", tooltip="Name of the study. Its trials are kept in ComfyUI's user folder under this name; the same name resumes."),
                Space.Input("space", tooltip="What may change, from Search Space."),
                io.Combo.Input("sampler", options=list(SAMPLERS), default="TPE", tooltip="How weights are chosen: TPE (the default, also for choices and several scores), CMA-ES (many free numbers, needs the package cmaes), GP (few, slow trials), QMC (an even spread), random."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Random seed of the sampler. Seeds of the images are set in your sampler nodes."),
                io.Int.Input("trials", default=60, min=1, max=100000, tooltip="How many trials the study should have. A run ends when it has as many."),
                io.Combo.Input("run", options=[ALL, ONE], default=ALL, optional=True, tooltip="all trials: one run repeats the nodes between Ask and Tell. one per run: queue the workflow once for each trial, from one or several clients."),
                io.Combo.Input("on_error", options=[SKIP, STOP], default=SKIP, optional=True, tooltip="What to do when a node between Ask and Tell raises an error or the score is not a number. Five failed trials in a row always stop the run."),
                io.Int.Input("at_once", default=1, min=1, max=64, optional=True, advanced=True, tooltip="With one per run: how many trials to give at once, as a list of weights. With Search: Choose by Eye: how many new candidates to show in each run."),
            ],
            outputs=[
                io.String.Output("weights", display_name="weights", is_output_list=True, tooltip="Block weights of the trial, for every Blockwork node that takes weights."),
                Trial.Output("trial", display_name="trial", is_output_list=True, tooltip="The trial, for Search: Tell or Search: Choose by Eye."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_):
        return float("NaN")  # every run gives another trial

    @classmethod
    def validate_inputs(cls, study=None):
        return first_problem((checked_name, study))

    @classmethod
    def execute(cls, study, space, sampler, seed, trials, run=ALL, on_error=SKIP, at_once=1) -> io.NodeOutput:
        prompt = cls.hidden.dynprompt
        end, inputs = host.end_of(prompt)
        by_eye = end == host.CHOOSE
        opened = host.open_study(study, space, host.directions(inputs), prompt)
        host.check_kind(opened, by_eye)
        settings = host.Settings(sampler, seed, trials, run == ALL and not by_eye, on_error == SKIP)
        if by_eye:
            handles = host.ask_generation(opened, settings, at_once, inputs.get("ranking", ""))
        else:
            handles = [] if settings.loop else host.ask_several(opened, settings, at_once)
        if handles:
            return io.NodeOutput([handle.weights for handle in handles], handles)
        return io.NodeOutput([host.BLOCKED], [host.Handle(opened, settings)])


class SearchTell(io.ComfyNode):
    """Records the score of a trial, and runs the loop."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSearchTell",
            display_name="Search: Tell",
            category=CATEGORY,
            description="Records the score of a trial and repeats the nodes between Search: Ask and this node until the study has all its trials. Shows the best image so far. Interrupt stops at any time; finished trials are kept.",
            search_aliases=["auto MBW", "bayesian merger", "record score", "loop", "optuna", "objective"],
            enable_expand=True,
            is_input_list=True,
            is_output_node=True,
            hidden=[io.Hidden.dynprompt],
            inputs=[
                Trial.Input("trial", tooltip="The trial, directly from Search: Ask."),
                io.Float.Input("score", lazy=True, force_input=True, tooltip="The score of the trial. A list or several images count with their mean."),
                io.Combo.Input("direction", options=list(DIRECTIONS), default=DIRECTIONS[0], tooltip="Whether a high or a low score is better."),
                io.Image.Input("images", lazy=True, optional=True, tooltip="Optional. The images of the trial, for the preview of the best one."),
                io.Float.Input("score_2", lazy=True, force_input=True, optional=True, tooltip="Optional second score. The search then looks for trials that no other beats in all scores."),
                io.Combo.Input("direction_2", options=list(DIRECTIONS), default=DIRECTIONS[0], optional=True, advanced=True, tooltip="Whether a high or a low second score is better."),
                io.Float.Input("score_3", lazy=True, force_input=True, optional=True, tooltip="Optional third score."),
                io.Combo.Input("direction_3", options=list(DIRECTIONS), default=DIRECTIONS[0], optional=True, advanced=True, tooltip="Whether a high or a low third score is better."),
                io.Int.Input("holdout", default=0, min=0, max=50, optional=True, tooltip="How many of the best trials are scored once more at the end, with the hold-out prompts and seeds of Search: Prompts and Seeds."),
            ],
            outputs=told_outputs(),
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, trial, **inputs):
        if trial[0].number is None:  # the loop runs the nodes, or there is nothing to run
            return []
        return [name for name in LAZY if name in inputs and inputs[name][0] is None]

    @classmethod
    def execute(cls, trial, score=(None,), direction=(None,), holdout=(0,), **inputs) -> io.NodeOutput:
        study = trial[0].study
        if host.unfinished(trial[0], holdout[0]):
            graph, outputs = host_loop.expand(cls.hidden.dynprompt, holdout[0], list(study.directions))
            return io.NodeOutput(*outputs, expand=graph)
        host.tell(trial, [score, *(inputs[name] for name in ("score_2", "score_3") if name in inputs)])
        return told(study)


class SearchLoop(io.ComfyNode):
    """What Search: Tell expands into."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSearchLoop",
            display_name="Search: Loop",
            category=CATEGORY,
            description="Runs the trials of a search. Search: Tell makes this node by itself; you do not need it.",
            search_aliases=["search loop"],
            is_input_list=True,
            is_dev_only=True,
            accept_all_inputs=True,
            hidden=[io.Hidden.dynprompt, io.Hidden.extra_pnginfo],
            inputs=[
                Trial.Input("trial", tooltip="The study and its settings."),
                io.String.Input("plan", default="", tooltip="The nodes to repeat."),
            ],
            outputs=told_outputs(),
        )

    @classmethod
    async def execute(cls, trial, plan, **values) -> io.NodeOutput:
        given = [values[f"value_{number}"] for number in range(len(values))]
        hidden = cls.hidden
        await host_loop.run_loop(hidden.dynprompt, trial[0], plan[0], given, hidden.extra_pnginfo)
        return told(trial[0].study)


class SearchCases(io.ComfyNode):
    """Prompts and seeds of a search, and others that it does not see."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkSearchCases",
            display_name="Search: Prompts and Seeds",
            category=CATEGORY,
            description="Gives every prompt with every seed, as two lists, so that a score is a mean over images. The hold-out prompts and seeds are used at the end only, for the best trials: a search fits its own seeds, and they show how much of a gain is real.",
            search_aliases=["seeds", "prompt list", "hold-out", "validation", "overfitting"],
            inputs=[
                Trial.Input("trial", tooltip="The trial, from Search: Ask."),
                io.String.Input("prompts", default="", multiline=True, tooltip="Prompts, one per line."),
                io.String.Input("seeds", default="1, 2", tooltip="Seeds of the images: 1, 2, 3 or 1-4."),
                io.String.Input("holdout_prompts", default="", multiline=True, optional=True, tooltip="Prompts for the end, one per line. Empty: the same prompts."),
                io.String.Input("holdout_seeds", default="101-104", optional=True, tooltip="Seeds for the end. They must differ from seeds where the prompts are the same."),
            ],
            outputs=[
                io.String.Output("prompt", display_name="prompt", is_output_list=True, tooltip="The prompts, one per image, for CLIP Text Encode."),
                io.Int.Output("seed", display_name="seed", is_output_list=True, tooltip="The seeds, one per image, for a sampler."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, prompts=None, seeds=None, holdout_prompts="", holdout_seeds="101-104"):
        kept_back = None if holdout_prompts is None else holdout_prompts.strip() or prompts
        return first_problem((parse_cases, prompts, seeds), (parse_cases, kept_back, holdout_seeds))

    @classmethod
    def execute(cls, trial, prompts, seeds, holdout_prompts="", holdout_seeds="101-104") -> io.NodeOutput:
        if trial.shown is not None:
            raise SearchError(
                "Search: Prompts and Seeds cannot be used with Search: Choose by Eye, which shows several candidates "
                "in one run. Use a batch of latents for several images of each."
            )
        search = parse_cases(prompts, seeds)
        kept_back = parse_cases(holdout_prompts.strip() or prompts, holdout_seeds)
        check_apart(search, kept_back)
        return io.NodeOutput(*(kept_back if trial.holdout else search).pairs())


def told_outputs() -> list[Any]:
    return [
        io.String.Output("study", display_name="study", tooltip="The name of the study, for Search: Result."),
        io.String.Output("weights", display_name="weights", tooltip="The best weights so far."),
        io.String.Output("report", display_name="report", tooltip="Number of trials, the best ones, importance of each weight."),
    ]  # fmt: skip


def told(study: Any, before: str = "", more: dict[str, Any] | None = None) -> io.NodeOutput:
    """The outputs of a node that records trials; ``before`` stands above the report, ``more`` is further ``ui``."""
    best, text = host.best_row(study), before + report(study)
    return io.NodeOutput(study.name, best.weights if best else "", text, ui={**shown(text), **(more or {})})
