"""Small text encoders of SD1's classes, small deprojectors, and short ways to call nodes."""

import comfy.sd
import torch
from blockwork.deprojector import files
from blockwork.deprojector.host import models
from blockwork.deprojector.host.encoder import Sd1Target


def sd1_clip(**sizes):
    """SD1's CLIP with random weights and a text_projection of NaN, as core leaves it when a file has none.

    Two layers; CLIP-L's widths unless ``sizes`` (fields of its config) say otherwise.
    """
    torch.manual_seed(0)
    config = {"num_hidden_layers": 2, **sizes}
    with torch.inference_mode():
        clip = comfy.sd.CLIP(Sd1Target, model_options={"clip_l_model_config": config})
        for name, parameter in clip.cond_stage_model.named_parameters():
            if name.endswith("text_projection.weight"):
                parameter.fill_(float("nan"))
            elif parameter.dim() > 1:
                parameter.normal_(std=0.02 if "embedding" in name else parameter.shape[1] ** -0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.fill_(1)
            else:
                parameter.normal_(std=0.02)
    return clip


def deprojector(config, name="small", seed=0):
    """A managed deprojector with random weights and rows, and an orthogonal inverse projection."""
    torch.manual_seed(seed)
    module = files.build(config, "cpu").eval()
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key.endswith("_embed"):
                tensor.normal_()
            elif key in ("deprojection", "projection.weight"):
                tensor.copy_(torch.linalg.qr(torch.randn(tensor.shape))[0])
    return models.managed(module, name)


def encoded(clip, text):
    """The CONDITIONING of a text, as CLIP Text Encode makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def node(kind, *args, **kwargs):
    """What a node's outputs hold."""
    return kind.execute(*args, **kwargs).args
