"""Loads the demo models' latent family into ComfyUI's own classes: MODEL, CLIP, VAE, CLIP_VISION."""

import json
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from safetensors import safe_open

from . import shape
from .autoencoder import DOWNSCALE, LATENT_CHANNELS, Autoencoder
from .files import weights_file, weights_folder
from .judge import Judge, Verdict, judged

MODELS = {"base": "unet", "ink": "unet_ink", "night": "unet_night"}


class DemoLatent(comfy.latent_formats.LatentFormat):
    """Four channels of unit variance at a quarter of the picture's size."""

    latent_channels = LATENT_CHANNELS
    spacial_downscale_ratio = DOWNSCALE


class DemoText(comfy.sd1_clip.SD1CheckpointClipModel):
    """SD1's text encoder at the demo models' size."""

    def __init__(self, device="cpu", dtype=None, model_options: dict | None = None):
        comfy.sd1_clip.SDClipModel.__init__(  # its own class would read the size from core's file
            self,
            device=device,
            dtype=dtype,
            textmodel_json_config=dict(shape.TEXT),
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class DemoClip(comfy.sd1_clip.SD1ClipModel):
    """What core's CLIP object holds: the text encoder under SD1's name ``clip_l``."""

    def __init__(self, device="cpu", dtype=None, model_options: dict | None = None):
        super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=DemoText)


class _Words(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data: dict | None = None):
        super().__init__(
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data or {},
            embedding_size=shape.TEXT["hidden_size"],
        )


class DemoTokens(comfy.sd1_clip.SD1Tokenizer):
    """SD1's tokenizer, for textual inversions of the demo models' width."""

    def __init__(self, embedding_directory=None, tokenizer_data: dict | None = None):
        super().__init__(
            embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {}, tokenizer=_Words
        )


class DemoModel(comfy.supported_models.SD15):
    """SD1's model class at the demo models' size, told from its relatives by the width of the text."""

    unet_config = {
        name: shape.UNET[name]
        for name in (
            "context_dim",
            "model_channels",
            "use_linear_in_transformer",
            "adm_in_channels",
            "use_temporal_attention",
        )
    }
    unet_extra_config = {name: shape.UNET[name] for name in ("num_heads", "num_head_channels")}
    latent_format = DemoLatent
    memory_usage_factor = 1.0

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(DemoTokens, DemoClip)


class DemoVae(comfy.sd.VAE):
    """Core's VAE around the demo models' autoencoder."""

    def __init__(self, state_dict: dict[str, torch.Tensor]):
        super().__init__(sd={"pixel_space_vae": torch.ones(())})  # core's plainest kind; what differs follows
        management = comfy.model_management
        self.first_stage_model = Autoencoder(operations=comfy.ops.disable_weight_init).eval()
        self.first_stage_model.load_state_dict(state_dict)
        self.first_stage_model.to(self.vae_dtype)
        management.archive_model_dtypes(self.first_stage_model)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=management.vae_offload_device()
        )
        self.downscale_ratio = self.upscale_ratio = DOWNSCALE
        self.latent_channels = LATENT_CHANNELS
        values = 64  # per picture pixel: the 16 channels of the finest layer, a few of them at a time
        self.memory_used_encode = lambda shape, dtype: (
            values * shape[2] * shape[3] * management.dtype_size(dtype)
        )
        self.memory_used_decode = lambda shape, dtype: DOWNSCALE**2 * self.memory_used_encode(shape, dtype)
        self.size = None
        self.model_size()


def register() -> None:
    """Make core's loaders recognise the demo models' U-Nets, merged ones too, and list its deprojectors and tokens.

    Harmless when done before. The folders come behind the user's own, which stay the ones that are saved to.
    """
    if DemoModel not in comfy.supported_models.models:
        comfy.supported_models.models.append(DemoModel)
    for folder in ("deprojector", "embeddings"):
        folder_paths.add_model_folder_path(folder, str(weights_folder() / folder))


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the card of ``weights/<name>.safetensors``. FileNotFoundError says what is missing."""
    with safe_open(weights_file(name), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def load_model(name: str = "base", disable_dynamic: bool = False) -> Any:
    """One of the demo U-Nets as core's loader makes it: ``base``, ``ink`` or ``night``.

    A fine-tune's file holds how far it moved what it changed, in eight bits; the rest is the base's.
    """
    register()
    weights = read(MODELS["base"])[0]
    if name != "base":
        for key, moved in read(MODELS[name])[0].items():
            weights[key] = (weights[key].float() + moved.float()).to(weights[key].dtype)
    model: Any = comfy.sd.load_diffusion_model_state_dict(weights, disable_dynamic=disable_dynamic)
    model.cached_patcher_init = (load_model, (name,))  # core loads a model again for hooks and for compiling
    return model


def load_clip(disable_dynamic: bool = False) -> Any:
    """The demo models' text encoder as a CLIP; words it never met share one meaning."""
    state_dict, _ = read("clip")
    table = "clip_l.transformer.text_model.embeddings.token_embedding.weight"
    known, rows = state_dict.pop("token_ids"), state_dict[table]
    state_dict[table] = rows[-1:].repeat(shape.TEXT["vocab_size"], 1)
    state_dict[table][known] = rows[:-1]
    target = comfy.supported_models_base.ClipTarget(DemoTokens, DemoClip)
    clip: Any = comfy.sd.CLIP(
        target,
        parameters=comfy.utils.calculate_parameters(state_dict),
        state_dict=state_dict,  # type: ignore[arg-type]  # core takes a list or one dict
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.cached_patcher_init = (_clip_patcher, ())
    return clip


def _clip_patcher(disable_dynamic: bool = False) -> Any:
    return load_clip(disable_dynamic).patcher


def load_vae() -> DemoVae:
    """The demo models' autoencoder as a VAE: images of 128 pixels, latents of 32."""
    return DemoVae(read("vae")[0])


def load_clip_vision() -> Any:
    """The image tower the text encoder was trained against, as a CLIP_VISION."""
    state_dict, card = read("clip_vision")
    tower = comfy.clip_vision.ClipVisionModel(json.loads(card["config"]))
    tower.load_sd(state_dict)
    return tower


def judge(image: torch.Tensor) -> Verdict:
    """The judge's verdict on an IMAGE ``b h w 3``."""
    classifier = Judge()
    classifier.load_state_dict({key: value.float() for key, value in read("judge")[0].items()})
    return judged(classifier.eval(), image[..., :3].movedim(-1, 1).float().cpu())


def reading(image: torch.Tensor) -> str:
    """The verdict in words, a line per picture: ``colour red 0.99, shape circle 0.97, ...``."""
    verdict = judge(image)
    lines = []
    for index in range(len(image)):
        said = {name: answers[index] for name, answers in verdict.answers.items()}
        sure = {name: float(verdict.chance_of(name, said[name])[index]) for name in said}
        order = ("colour", "shape", "texture", "background", "style")
        lines.append(", ".join(f"{name} {said[name]} {sure[name]:.2f}" for name in order))
    return "\n".join(lines)
