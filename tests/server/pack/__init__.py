"""Nodes for tests only: tiny models that ComfyUI's loaders would not take, their prompts, and what comes out."""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

KIT = Path(__file__).resolve().parents[2] / "support" / "transformer_kit.py"


@cache
def kit() -> Any:
    """The module of the tiny models, which needs ComfyUI alone."""
    spec = importlib.util.spec_from_file_location("tiny_transformers", KIT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TinyModel:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "make", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": ("STRING", {})}}

    def make(self, kind):
        return (kit().MODELS[kind](),)


class TinyPrompt:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "make", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": ("STRING", {}), "seed": ("INT", {})}}

    def make(self, kind, seed):
        return (kit().prompt(kind, seed),)


class TinyLatent:
    RETURN_TYPES, FUNCTION, CATEGORY = ("LATENT",), "make", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kind": ("STRING", {}), "batch": ("INT", {})}}

    def make(self, kind, batch):
        return ({"samples": kit().noise(kind, batch) * 0},)


class LatentDigest:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "show", "tests", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",)}}

    def show(self, latent):
        samples = latent["samples"]
        assert samples.isfinite().all()
        return {"ui": {"text": [hashlib.sha256(samples.contiguous().numpy().tobytes()).hexdigest()]}}


NODE_CLASS_MAPPINGS = {
    "TestTinyModel": TinyModel,
    "TestTinyPrompt": TinyPrompt,
    "TestTinyLatent": TinyLatent,
    "TestLatentDigest": LatentDigest,
}
