"""The table of contents: every node of the pack, in the order of the node library."""

from comfy_api.latest import ComfyExtension, io

from ..cascade import host_model as pixel_models
from ..demo_models import host as demo_models
from . import routes
from .blocks import BlockWeightsNode
from .cascade_sampling import Guider, LowResolution, Sampler, Sigmas
from .cascade_stages import LoraLoader, StageLoader, T5Loader
from .cascade_text import StylePrompt, TextEncode
from .cascade_threshold import SaturationReport, ThresholdNode
from .cascade_whole import Cascade, CascadeStage, CascadeUpscaler
from .demo import Judge, Loader
from .demo_stages import Stages
from .deprojector import (
    DeprojectConditioning,
    DeprojectEmbedding,
    EncodeAndMerge,
    ImageToEmbedding,
    MixEmbeddings,
    TextToEmbedding,
)
from .deprojector_models import (
    DeprojectorReport,
    JoinDeprojectors,
    LoadDeprojector,
    SaveDeprojector,
    TrainDeprojector,
)
from .find_recipe import FindRecipe
from .injection import (
    BlockPresetNode,
    BlockPromptEncode,
    InjectIntoBlocks,
    InjectIntoModel,
    InjectionPlan,
)
from .injection_split import InjectBlockPrompts, SplitBlockPrompt
from .injection_sweep import BlockGrowth, GrowthGrid
from .injection_train import TrainXTI
from .injection_xti import EncodeXTI, LoadXTI, MixXTI, SaveXTI, XTIDensity
from .lora import ExtractLoRA, HookLoRA, LoadLoRA, LoRAReport, MergeLoRA, SaveLoRA
from .merge import AddDifference, MergeCLIP, MergeModels, MergeTwoRatios, MergeVAE, ScaleBlocks
from .merge_files import CompareFiles, CompareModels, MergeToFile
from .recipes import ReadRecipe, RecipeLive, RecipeToFile, ReplayRecipe
from .search import SearchAsk, SearchCases, SearchLoop, SearchSpace, SearchTell
from .search_choice import SearchChoose
from .search_result import SearchResult
from .search_scores import ScoreDemo, ScoreImage, ScoreSum, ScoreText
from .sheet import ImageSheet, RatingSheet
from .sweep import BlockSweep, SweepGrid

NODES: list[type[io.ComfyNode]] = [
    # Block weights
    BlockWeightsNode,
    # Merging, live
    MergeModels,
    MergeTwoRatios,
    AddDifference,
    ScaleBlocks,
    MergeCLIP,
    MergeVAE,
    # Merging, files and recipes
    MergeToFile,
    CompareModels,
    CompareFiles,
    RecipeLive,
    RecipeToFile,
    ReadRecipe,
    ReplayRecipe,
    FindRecipe,
    # LoRA by block
    LoadLoRA,
    HookLoRA,
    LoRAReport,
    SaveLoRA,
    ExtractLoRA,
    MergeLoRA,
    # Studies of blocks
    BlockSweep,
    SweepGrid,
    ImageSheet,
    RatingSheet,
    # Search of block weights
    SearchSpace,
    SearchAsk,
    SearchTell,
    SearchChoose,
    SearchCases,
    SearchResult,
    ScoreText,
    ScoreImage,
    ScoreDemo,
    ScoreSum,
    SearchLoop,
    # Injection: a different prompt per block
    InjectIntoBlocks,
    InjectIntoModel,
    BlockPromptEncode,
    SplitBlockPrompt,
    InjectBlockPrompts,
    BlockPresetNode,
    InjectionPlan,
    BlockGrowth,
    GrowthGrid,
    LoadXTI,
    EncodeXTI,
    MixXTI,
    SaveXTI,
    XTIDensity,
    TrainXTI,
    # Deprojector: embeddings back to hidden states
    LoadDeprojector,
    JoinDeprojectors,
    DeprojectorReport,
    SaveDeprojector,
    TrainDeprojector,
    DeprojectConditioning,
    EncodeAndMerge,
    TextToEmbedding,
    ImageToEmbedding,
    MixEmbeddings,
    DeprojectEmbedding,
    # IF: the pixel cascade, and thresholding for every model
    Cascade,
    CascadeStage,
    CascadeUpscaler,
    StageLoader,
    T5Loader,
    LoraLoader,
    TextEncode,
    StylePrompt,
    LowResolution,
    Sigmas,
    Sampler,
    Guider,
    ThresholdNode,
    SaturationReport,
    # Demo models
    Loader,
    Judge,
    Stages,
]


class BlockworkExtension(ComfyExtension):
    """Registers what core has to know, and lists the nodes."""

    async def on_load(self) -> None:
        """From here on core's Load Diffusion Model recognises IF stages and the demo models, and the deck has its routes."""
        pixel_models.register()
        demo_models.register()
        routes.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
