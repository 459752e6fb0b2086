"""ComfyUI's own executor in this process: prompts, cache and progress as on a server, without the web around it."""

import json
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import execution
import torch
from blockwork.nodes import NODES
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from comfy_extras.nodes_toolkit import CreateList
from refhost import layout

import nodes as core

GIVEN, KEEP = "GivenThings", "KeepThings"
THINGS: dict[str, tuple] = {}  # what GIVEN gives, by name: MODEL, CONDITIONING, LATENT, VAE
KEPT: dict[str, Any] = {}  # what KEEP was given, by node name


class GivenThings:
    """A loader of things that a test made."""

    RETURN_TYPES = ("MODEL", "CONDITIONING", "LATENT", "VAE")
    FUNCTION = "give"
    CATEGORY = ""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING", {})}}

    def give(self, name):
        return THINGS[name]


class KeepThings:
    """An output node for any one thing."""

    RETURN_TYPES = ()
    FUNCTION = "keep"
    OUTPUT_NODE = True
    CATEGORY = ""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"thing": ("*", {}), "name": ("STRING", {})}}

    def keep(self, thing, name):
        KEPT[name] = thing
        return {}


def register() -> None:
    """Make the nodes that sweeps expand into known to the executor, as ComfyUI does when it starts."""
    own = {node.GET_SCHEMA().node_id: node for node in NODES}
    core.NODE_CLASS_MAPPINGS.update(own, CreateList=CreateList, **{GIVEN: GivenThings, KEEP: KeepThings})


TINY_VAE = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    },
}  # fmt: skip


def tiny_vae(seed: int = 0) -> comfy.sd.VAE:
    """A VAE of core's class that doubles the latent's sides, with random weights."""
    weights, generator = AutoencoderKL(**TINY_VAE).state_dict(), torch.Generator().manual_seed(seed)
    for key, value in weights.items():
        noise = torch.randn(value.shape, generator=generator)
        weights[key] = (
            noise * value[0].numel() ** -0.5 if value.ndim > 1 else 0.1 * noise + key.endswith("weight")
        )
    return comfy.sd.VAE(sd=weights, config={"params": TINY_VAE})


def tame(model: Any, scale: float = 0.05) -> Any:
    """The same MODEL with its output head scaled down: a random U-Net throws latents out of the VAE's range."""
    with torch.no_grad():
        model.model.diffusion_model.out[2].weight *= scale
    return model


class Executor:
    """Runs prompts one after another with one cache, and listens as a front-end does."""

    def __init__(self, cache: execution.CacheType = execution.CacheType.RAM_PRESSURE, lru: int = 0):
        self.client_id: str | None = None
        self.last_node_id = self.last_prompt_id = None
        self.sockets_metadata: dict = {}
        self.messages: list[tuple[str, Any]] = []
        self.stop_after: int | None = None  # samplers that may start before the interrupt button is pressed
        arguments = {"lru": lru, "ram": 0, "ram_inactive": 1 << 20}  # as by default: what is not used goes
        self._executor = execution.PromptExecutor(self, cache, arguments)

    def send_sync(self, event, data, sid=None):
        if event == "progress_state":  # the states are updated in place
            data = json.loads(json.dumps(data))
        self.messages.append((event, data))
        if self.stop_after is not None and len(self.sampled()) > self.stop_after:
            comfy.model_management.interrupt_current_processing()

    def run(self, prompt: dict, stop_after: int | None = None, workflow: dict | None = None) -> bool:
        """Run a prompt; whether it came to its end. ``workflow`` is what the front-end sends for images."""
        self.messages.clear()
        self.stop_after = stop_after
        outputs = [key for key, node in prompt.items() if node["class_type"] == KEEP]
        comfy.utils.set_progress_bar_global_hook(_progress)
        try:
            extra = {"client_id": "a client", "extra_pnginfo": workflow}
            self._executor.execute(prompt, "a prompt", extra, outputs)
        finally:
            comfy.utils.set_progress_bar_global_hook(None)
            comfy.model_management.interrupt_current_processing(False)
        errors = [data for event, data in self.messages if event == "execution_error"]
        if errors:
            raise RuntimeError(errors[0]["exception_message"])
        return self._executor.success

    def executed(self) -> list[str]:
        """The ids of the nodes that ran, in order."""
        return [data["node"] for event, data in self.messages if event == "executing"]

    def sampled(self) -> list[str]:
        """The pictures that were sampled, as cell_seed, in order."""
        return [n.split(".", 3)[3].removesuffix("_sample") for n in self.executed() if n.endswith("_sample")]

    def progress(self) -> list[dict[str, dict]]:
        """The states of all nodes, message by message."""
        return [data["nodes"] for event, data in self.messages if event == "progress_state"]


def _progress(value, total, preview, prompt_id=None, node_id=None):
    """What main.py hooks into every ProgressBar."""
    context = get_executing_context()
    comfy.model_management.throw_exception_if_processing_interrupted()
    if context is not None:
        get_progress_state().update_progress(node_id or context.node_id, value, total, preview)


def example(name: str) -> dict:
    """An example workflow in API form."""
    path = layout.ROOT / "example_workflows" / "api" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))
