"""Block prompts on Anima and Wan through /prompt, with tiny models that a node pack for tests makes."""

import pytest


def graph(kind, blocks=None, prompt=3, **options):
    """KSampler on a tiny model: with the prompt ``prompt``, or with it injected into ``blocks`` of the prompt 1."""
    nodes = {
        "model": ("TestTinyModel", {"kind": kind}),
        "own": ("TestTinyPrompt", {"kind": kind, "seed": 1 if blocks else prompt}),
        "negative": ("TestTinyPrompt", {"kind": kind, "seed": 2}),
        "latent": ("TestTinyLatent", {"kind": kind, "batch": 2}),
        "sample": (
            "KSampler",
            {
                "model": ["inject", 0] if blocks else ["model", 0],
                "positive": ["inject", 1] if blocks else ["own", 0],
                **{
                    "negative": ["negative", 0],
                    "latent_image": ["latent", 0],
                    "seed": 5,
                    "steps": 2,
                    "cfg": 3.0,
                },
                **{"sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
            },
        ),
        "digest": ("TestLatentDigest", {"latent": ["sample", 0]}),
    }
    if blocks:
        nodes["x"] = ("TestTinyPrompt", {"kind": kind, "seed": prompt})
        inject = {"model": ["model", 0], "conditioning": ["own", 0], "prompt": ["x", 0], "blocks": blocks}
        nodes["inject"] = ("BlockworkInjectIntoBlocks", {**inject, **options})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


@pytest.mark.parametrize("kind", ["anima", "wan"])
def test_x_in_all_blocks_is_x_and_weight_zero_is_nothing(client, kind):
    def digest(**options):
        return client.texts(client.run(graph(kind, **options)))["digest"][0]

    x, own = digest(), digest(prompt=1)
    assert digest(blocks="all") == x != own
    assert digest(blocks="all", weight=0.0) == own
    assert digest(blocks="B00-B01") not in (x, own)
