"""Learns words the atelier's CLIP has not: XTI tokens (P+, arXiv 2303.09522), one vector per cross-attention layer."""

import random
from dataclasses import replace

import torch
from blockwork.atelier.world import BACKGROUNDS, Thing
from blockwork.injection.concept import LAYERS, XTI
from blockwork.injection.xti import save
from refhost.pack import use_comfyui
from torch import Tensor, nn

from .clip import load_text
from .studio import WEIGHTS, batches, pictures, scenes, train
from .unet import alphas_cumprod, frozen_unet, latents_of

CONCEPTS = {
    "atelier_gem": Thing("star", "green", "dotted"),
    "atelier_tile": Thing("square", "purple", "checkered"),
}
BATCH = 8
WORD = "circle"  # where the token stands in the sentence, and what it starts from
PLACE = 2  # its row: start, a, circle


class Tokens(nn.Module):
    """The vectors to learn, ``16 128``, started from the word they are nearest to."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.vectors = nn.Parameter(
            start.repeat(len(LAYERS), 1) + 0.01 * torch.randn(len(LAYERS), len(start))
        )


def run(steps: int = 400, minutes: float | None = None, seed: int = 61) -> None:
    """Learn and publish every concept as ``embeddings/<name>.safetensors``."""
    use_comfyui()
    for number, (name, thing) in enumerate(CONCEPTS.items()):
        tokens = learnt(name, thing, steps, minutes, seed + number)
        path = WEIGHTS / "embeddings" / f"{name}.safetensors"
        path.unlink(missing_ok=True)
        save(XTI(name, tuple(tokens.vectors.detach()[:, None].unbind(0))), path)
        print(f"learnt {name}", flush=True)


def learnt(name: str, thing: Thing, steps: int, minutes: float | None, seed: int) -> Tokens:
    """The vectors with which the frozen U-Net draws ``thing`` where the sentence has the token."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    seen = [
        replace(scene, things=(_elsewhere(thing, scene.things[0], chance),))
        for scene in scenes(64, seed, pairs=0.0)
    ]
    text, vocabulary = load_text()
    unet, signal = frozen_unet(), alphas_cumprod()
    table = text.text_model.embeddings.token_embedding.weight
    sentences = {
        ground: vocabulary.rows([f"a {WORD} on a {ground} background"])[0][0] for ground in BACKGROUNDS
    }
    tokens = Tokens(table[sentences["grey"][PLACE]].detach().clone())
    latents, order = latents_of(pictures(seen)), batches(len(seen), BATCH, seed)

    def loss_of(step: int) -> Tensor:
        indices = next(order)
        rows = torch.stack([sentences[seen[i].background] for i in indices.tolist()])
        embedded = table[rows][:, None].repeat(1, len(LAYERS), 1, 1)
        embedded[:, :, PLACE] = tokens.vectors
        x0, noise, t = latents[indices], torch.randn(BATCH, 4, 16, 16), torch.randint(1000, (BATCH,))
        a = signal[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            states = text.text_model.states(embedded.flatten(0, 1)).float().unflatten(0, (BATCH, -1))
            contexts = iter(states.unbind(1))

            def own_context(n: Tensor, k: Tensor, v: Tensor, extra: dict) -> tuple[Tensor, Tensor, Tensor]:
                context = next(contexts)
                return n, context, context

            predicted = unet(
                a.sqrt() * x0 + (1 - a).sqrt() * noise,
                t.float(),
                context=states[:, 0],
                transformer_options={"patches": {"attn2_patch": [own_context]}},
            )
        return (predicted.float() - (a.sqrt() * noise - (1 - a).sqrt() * x0)).square().mean()

    return train(name, tokens, loss_of, steps, 5e-3, warmup=20, decay=0.99, minutes=minutes)


def _elsewhere(thing: Thing, like: Thing, chance: random.Random) -> Thing:
    return replace(thing, size=like.size, turn=like.turn, x=chance.uniform(-3, 3), y=chance.uniform(-3, 3))
