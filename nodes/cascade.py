"""DeepFloyd IF: stages as native models, T5, thresholding for every model, and all stages in one node."""

from ..cascade.host_model import register
from .cascade_sampling import Guider, LowResolution, Sampler, Sigmas
from .cascade_stages import LoraLoader, StageLoader, T5Loader
from .cascade_text import StylePrompt, TextEncode
from .cascade_threshold import SaturationReport, ThresholdNode
from .cascade_whole import Cascade, CascadeStage, CascadeUpscaler

register()  # core's Load Diffusion Model recognises IF stages from here on

NODES = [
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
]
