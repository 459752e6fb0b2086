"""Example workflows with the demo models in place of the released ones, for their thumbnails."""

import copy
import shutil
from typing import Any

from refhost import templates
from refhost.client import Client
from refhost.server import Server

Prompt = dict[str, Any]
MODELS = {
    "v1-5-pruned-emaonly-fp16.safetensors": "base",
    "sd_xl_base_1.0.safetensors": "base",
    "DreamShaper_8_pruned.safetensors": "ink",
    "sd15_c.safetensors": "night",
}
LORA = "sd15_style.safetensors"  # the difference of ink and base
MERGED = "merges/example_merge.safetensors"
FILES = {
    "lstm3_1_layer.safetensors": "atelier_lstm_1.safetensors",
    "lstm3_1_layer_b.safetensors": "atelier_lstm_1.safetensors",
    "lstm3_2_layers.safetensors": "atelier_lstm_2.safetensors",
    "lstm3_3_layers.safetensors": "atelier_lstm_3.safetensors",
    "xti_a.safetensors": "atelier_gem.safetensors",
    "xti_b.safetensors": "atelier_tile.safetensors",
    "style, SDXL (OUT01)": "style, SD1",
}
WHITE = "on a white background"
TEXTS = {  # the demo models know few words
    "a lighthouse on a cliff, morning light": f"a green star {WHITE}",
    "a lighthouse on a cliff at dusk, photograph": f"a green star {WHITE}",
    "a red cube, photo": f"a red circle {WHITE}",
    "a green lizard, photo": f"a blue striped star {WHITE}",
    "a (~: coarse: green lizard; _: red cube :~) on a table, (photo:1.2)": f"a (~: coarse: blue star; _: red circle :~) {WHITE}",
    "blurry (~: fine@0.0-0.6: , oversaturated colours :~)": "",
    "a portrait of an old sailor": f"an orange ring {WHITE}",
    "smooth, plastic": f"a purple dotted ring {WHITE}",
    "a castle on a hill": f"a red square {WHITE}",
    "a harbour with boats": f"a blue star {WHITE}",
    "in deep snow": f"a striped square {WHITE}",
    "at night, lanterns": "a red circle on a black background",
    "a fox in a forest": f"an orange circle {WHITE}",
    "watercolour painting, soft washes": "a purple checkered circle on a grey background",
    "a photo of (<thing>:1.1) on a beach": f"a <thing> {WHITE}",
    "cat:1.2, maid:-0.3": "a yellow cross:1.2, a red circle:-0.3",
    "dog": f"a blue star {WHITE}",
    "a cat maid with blue eyes": f"an orange ring {WHITE}",
    "cat ears, maid, blue eyes": "a yellow cross, a black background",
    "watercolour": "blue",
    "a photo of a corgi wearing a red beret, sitting in a sunlit kitchen": f"a big orange ring {WHITE}",
    "a photo of a corgi wearing a red beret, sitting in a sunlit kitchen, highly detailed": f"a big orange ring {WHITE}",
    "a tiger cub wearing a red beret, oil painting": f"a big orange striped ring {WHITE}",
    "an impressionist oil painting, thick brush strokes": f"a big blue checkered ring {WHITE}",
    "a bowl of cherries": f"a big red circle {WHITE}",
    "blurry": "",
    "blurry, text": "",
    "blurry, lowres": "",
}
SMALLER = {
    "EmptyChromaRadianceLatentImage": 4,
    "SolidMask": 4,
    "MaskComposite": 4,
    "EmptyLatentImage": 4,
    "ImageScale": 4,
}


def prompt_of(name: str) -> Prompt:
    """An example workflow that runs on the demo models: other loaders, words and sizes, the same nodes between."""
    prompt = copy.deepcopy(templates.prompt(name))
    slots: dict[str, int] = {}  # where the output of an exchanged loader is
    for key, node in prompt.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "CheckpointLoaderSimple":
            node |= {"class_type": "BlockworkAtelierLoader", "inputs": {"model": MODELS[inputs["ckpt_name"]]}}
        elif kind in ("CLIPVisionLoader", "BlockworkCascadeT5Loader", "BlockworkCascadeStageLoader"):
            loader = "BlockworkAtelierLoader" if kind == "CLIPVisionLoader" else "BlockworkAtelierStages"
            second = inputs.get("stage_file") == "if_stage2.safetensors"
            slots[key] = {"CLIPVisionLoader": 3, "BlockworkCascadeT5Loader": 2}.get(kind, int(second))
            node |= {"class_type": loader, "inputs": {"model": "base"} if kind == "CLIPVisionLoader" else {}}
        elif kind == "BlockworkCascadeTextEncode":
            node |= {"class_type": "CLIPTextEncode", "inputs": {k: inputs[k] for k in ("clip", "text")}}
        elif kind in SMALLER:
            sizes = ("width", "height", "x", "y")
            node["inputs"] = {k: v // SMALLER[kind] if k in sizes else v for k, v in inputs.items()}
        elif kind in ("KSampler", "BlockworkBlockSweep", "BlockworkBlockGrowth"):
            inputs |= {"steps": 14, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
            inputs["cfg"] = 4.0 if inputs["cfg"] < 15 else inputs["cfg"]
            inputs |= {"cell_size": 64, "seeds": "1", "steps": 8} if "cell_size" in inputs else {}
    for node in prompt.values():
        for name_, value in node["inputs"].items():
            if isinstance(value, str):
                node["inputs"][name_] = FILES.get(value, TEXTS.get(value, value))
            elif isinstance(value, list) and value[0] in slots:
                node["inputs"][name_] = [value[0], slots[value[0]]]
    return prompt


def make_files(server: Server) -> None:
    """Files of the demo models under the released names: two checkpoints, a LoRA, an image; and a merge of both checkpoints."""
    client, models = Client(server.url), server.base / "models"
    shutil.rmtree(server.base / "output", ignore_errors=True)
    for file in ("v1-5-pruned-emaonly-fp16.safetensors", "DreamShaper_8_pruned.safetensors"):
        loader = {"class_type": "BlockworkAtelierLoader", "inputs": {"model": MODELS[file]}}
        links = {name: ["1", slot] for slot, name in enumerate(("model", "clip", "vae"))}
        save = {"class_type": "CheckpointSave", "inputs": {**links, "filename_prefix": "stand_ins/model"}}
        client.run({"1": loader, "2": save})
        _keep(server, "stand_ins", models / "checkpoints" / file)
    client.run(prompt_of("lora_extract"))
    _keep(server, "loras", models / "loras" / LORA)
    sample = templates.prompt("demo_merge")
    _, data, *_ = client.images(client.run(sample))
    (server.base / "input").mkdir(exist_ok=True)
    (server.base / "input" / "example.png").write_bytes(data)
    client.run(templates.prompt("merge_file"))


def _keep(server: Server, folder: str, target: Any) -> None:
    """Move the newest file of an output folder to where models are."""
    newest = max(
        (server.base / "output" / folder).glob("*.safetensors"), key=lambda path: path.stat().st_mtime
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(newest, target)
