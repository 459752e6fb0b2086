"""Trains the demo models' CLIP: a text encoder and an image tower, each shaped as Stable Diffusion's and core's.

The modules here are plain twins of ``comfy.clip_model``'s (which adds in place and so cannot be trained):
same keys, same numbers.
"""

import random

import blockwork.demo_models.shape as shape
import torch
from blockwork.demo_models import captions
from torch import Tensor, nn
from torch.nn import functional

from .training import HERE, autocast, batches, images, publish, published, scenes, train

WIDTH, INNER = shape.TEXT["hidden_size"], shape.TEXT["intermediate_size"]
LAYERS, HEADS = shape.TEXT["num_hidden_layers"], shape.TEXT["num_attention_heads"]
ROWS, START, END = 77, 49406, 49407
PATCH, SIDE = shape.VISION["patch_size"], shape.VISION["image_size"]
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LONGEST = 36  # tokens of the longest caption, start and end included; rows behind the end teach nothing
UNKNOWN = 0.12  # of the captions have unknown words


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        split = lambda y: y.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out_proj(y.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.self_attn, self.mlp = Attention(), Mlp()

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), causal)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        for layer in self.layers:
            x = layer(x, causal)
        return x


class TextEmbeddings(nn.Module):
    def __init__(self, words: int):
        super().__init__()
        self.token_embedding, self.position_embedding = nn.Embedding(words, WIDTH), nn.Embedding(ROWS, WIDTH)
        for embedding in (self.token_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)


class TextModel(nn.Module):
    """Compact token numbers ``b tokens`` -> hidden states ``b tokens 128``."""

    def __init__(self, words: int):
        super().__init__()
        self.embeddings = TextEmbeddings(words)
        self.encoder = Encoder()
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.states(self.embeddings.token_embedding(tokens))

    def states(self, embedded: Tensor) -> Tensor:
        """Hidden states of token embeddings ``b tokens 128``."""
        positions = self.embeddings.position_embedding.weight[: embedded.shape[1]]
        return self.final_layer_norm(self.encoder(embedded + positions, causal=True))


class Text(nn.Module):
    def __init__(self, words: int):
        super().__init__()
        self.text_model = TextModel(words)
        self.text_projection = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, tokens: Tensor, ends: Tensor) -> Tensor:
        states = self.text_model(tokens)
        return self.text_projection(states[torch.arange(len(tokens)), ends])


class VisionEmbeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(0.02 * torch.randn(WIDTH))
        self.patch_embedding = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH, bias=False)
        self.position_embedding = nn.Embedding((SIDE // PATCH) ** 2 + 1, WIDTH)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embedding(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        return torch.cat((first, patches), 1) + self.position_embedding.weight


class VisionModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = VisionEmbeddings()
        self.pre_layrnorm, self.post_layernorm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.encoder = Encoder()

    def forward(self, x: Tensor) -> Tensor:
        return self.post_layernorm(self.encoder(self.pre_layrnorm(self.embeddings(x)), causal=False)[:, 0])


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.vision_model = VisionModel()
        self.visual_projection = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.visual_projection(self.vision_model(x))


class Clip(nn.Module):
    """Both towers and the temperature."""

    def __init__(self, words: int):
        super().__init__()
        self.text, self.vision = Text(words), Vision()
        self.logit_scale = nn.Parameter(torch.tensor(2.66))


class Vocabulary:
    """CLIP's tokenizer, and the few of its tokens that the demo models' captions use, numbered densely.

    The number behind the last stands for every other token, so that a strange word has one meaning and not
    49,000 untrained ones.
    """

    def __init__(self, captions: list[str]):
        from comfy.sd1_clip import SDTokenizer

        self.tokenizer = SDTokenizer().tokenizer
        self._seen: dict[str, list[int]] = {}
        found = {token for text in set(captions) for token in self.tokens(text)} | {START, END}
        self.ids = sorted(found)
        self._place = {token: index for index, token in enumerate(self.ids)}
        self.strange = len(self.ids)

    def tokens(self, text: str) -> list[int]:
        """The text's own tokens, between start and end, which are left out."""
        if text not in self._seen:
            self._seen[text] = self.tokenizer(text)["input_ids"][1:-1]
        return self._seen[text]

    def rows(self, texts: list[str], length: int = ROWS) -> tuple[Tensor, Tensor]:
        """Compact numbers ``b length`` as SD1 lays them out (start, words, end, end ...), and where each ends."""
        out = torch.full((len(texts), length), self._place[END])
        ends = torch.empty(len(texts), dtype=torch.long)
        for index, text in enumerate(texts):
            words = [self._place.get(token, self.strange) for token in self.tokens(text)]
            out[index, 0] = self._place[START]
            out[index, 1 : 1 + len(words)] = torch.tensor(words, dtype=torch.long)
            ends[index] = 1 + len(words)
        return out, ends


def all_words() -> list[str]:
    """Captions that together hold every word the world has."""
    chance = random.Random(0)
    return [captions.caption(scene, chance) for scene in scenes(4000, 1)]


def load_text() -> tuple[Text, Vocabulary]:
    """The published text encoder for training others with, frozen, and its vocabulary."""
    vocabulary = Vocabulary(all_words())
    text = Text(len(vocabulary.ids) + 1)
    state = published("clip")
    table = "text_model.embeddings.token_embedding.weight"
    text.load_state_dict({key.removeprefix("clip_l.transformer."): value for key, value in state.items()
                          if key.startswith("clip_l.transformer.")}, strict=True)  # fmt: skip
    assert text.get_parameter(table).shape[0] == len(state["token_ids"]) + 1
    return text.eval().requires_grad_(False), vocabulary


def run(minutes: float, seed: int = 21) -> None:
    """Train and publish both towers, by contrast with the other images of a batch and with captions wrong in one word."""
    torch.manual_seed(seed)
    count, size = 24000, HERE.batch(192)
    drawn_scenes = scenes(count, seed)
    drawn = images(drawn_scenes, SIDE)
    vocabulary = Vocabulary(all_words())
    model = Clip(len(vocabulary.ids) + 1)
    order, chance = batches(count, size, seed), random.Random(seed + 7919 * HERE.rank)
    mean, deviation = (torch.tensor(values, device=HERE.device).view(3, 1, 1) for values in (MEAN, DEVIATION))

    def said(texts: list[str]) -> Tensor:
        tokens, ends = vocabulary.rows(texts, LONGEST)
        with autocast():
            text = model.text(tokens.to(HERE.device), ends.to(HERE.device))
        return functional.normalize(text.float(), dim=-1)

    def seen(pixels: Tensor) -> Tensor:
        with autocast():
            image = model.vision((pixels.to(HERE.device).float() / 255 - mean) / deviation)
        return functional.normalize(image.float(), dim=-1)

    def loss_of(_: float) -> Tensor:
        indices = next(order).tolist()
        pairs = [captions.wrong(drawn_scenes[i], chance.getrandbits(31)) for i in indices]
        true = [captions.with_unknown(one, chance) if chance.random() < UNKNOWN else one for one, _ in pairs]
        text, image = said(true + [false for _, false in pairs]), seen(drawn[indices])
        scale, right = model.logit_scale.clamp(max=4.6).exp(), text[: len(indices)]
        logits, aim = scale * right @ image.T, torch.arange(len(indices), device=HERE.device)
        against = scale * image @ text.T
        pair = functional.softplus(
            scale * ((text[len(indices) :] - right) * image).sum(1)
        )  # a wrong word against the right
        both = (functional.cross_entropy(logits, aim) + functional.cross_entropy(against, aim)) / 2
        return both + 0.5 * pair.mean()

    model = train("clip", model, loss_of, minutes, 1e-3)
    unseen = scenes(512, 998, held_out=True)
    pairs = [captions.wrong(scene, index) for index, scene in enumerate(unseen)]
    with torch.no_grad():
        image = seen(images(unseen, SIDE))
        true, false = said([one for one, _ in pairs]), said([one for _, one in pairs])
    top = (true @ image.T).topk(5, 1).indices.cpu()
    found: dict[object, float] = {
        k: float((top[:, :k] == torch.arange(512)[:, None]).any(1).float().mean()) for k in (1, 5)
    }
    found["right_against_wrong_word"] = float(((true * image).sum(1) > (false * image).sum(1)).float().mean())
    tensors = {f"clip_l.transformer.{key}": value for key, value in model.text.state_dict().items()}
    tensors |= {"clip_l.logit_scale": model.logit_scale.detach(), "token_ids": torch.tensor(vocabulary.ids)}
    card = {"seed": str(seed), "retrieval_of_512": found}
    publish("clip", tensors, card | {"config": shape.TEXT})
    publish("clip_vision", model.vision.state_dict(), card | {"config": shape.VISION})
    print(f"of 512 held-out scenes: {found}")
