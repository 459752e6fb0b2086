"""Train XTI on ComfyUI's own classes: what it learns, what it leaves alone, what it refuses."""

import random
import re
from dataclasses import replace

import comfy.model_management
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import comfy.utils
import folder_paths
import pytest
import torch
from blockwork.demo_models import drawing, host, world
from blockwork.injection import host as injection
from blockwork.injection import host_loss, host_train, host_xti, xti
from blockwork.injection.concept import LAYERS, SDXL_LAYERS, XTI, mix
from blockwork.injection.host_denoiser import Denoiser, trained_layers
from blockwork.injection.host_density import density_report
from blockwork.injection.host_train import Options, task, train
from blockwork.injection.task import APART, KINDS
from blockwork.injection.train import Recipe, TrainingError
from blockwork.nodes.injection_train import TrainXTI
from blockwork.nodes.injection_xti import MixXTI
from blockwork.tests.support import transformer_kit
from blockwork.tests.support.injection_kit import SDXL, predictions, prompt, random_model, tiny_model, worst
from comfy import supported_models_base
from safetensors.torch import load_file

GEM = world.Thing("star", "green", "dotted")
FAST = Options("fp32", checkpointing=False, resumable=False)


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory):
    """ComfyUI's output and embedding folders, empty."""
    output, embeddings = (
        folder_paths.get_output_directory(),
        folder_paths.folder_names_and_paths[host_xti.FOLDER],
    )
    folder_paths.set_output_directory(str(tmp_path_factory.mktemp("output")))
    folder_paths.folder_names_and_paths[host_xti.FOLDER] = (
        [str(tmp_path_factory.mktemp("embeddings"))],
        embeddings[1],
    )
    yield
    folder_paths.set_output_directory(output)
    folder_paths.folder_names_and_paths[host_xti.FOLDER] = embeddings


@pytest.fixture(scope="module")
def demo():
    return host.load_model(), host.load_clip(), host.load_vae()


def drawings(thing, count=8, seed=1):
    """Images of a thing, ``n 128 128 3``, with captions."""
    chance = random.Random(seed)
    scenes = [world.draw_scene(chance, pairs=0.0, style="smooth") for _ in range(count)]
    scenes = [replace(one, things=(replace(thing, size="big"),)) for one in scenes]
    drawn = torch.stack([drawing.draw(one) for one in scenes]).movedim(1, -1)
    return drawn, [f"a {{}} on a {one.background} background" for one in scenes]


def demo_task(demo, name="gem", thing=GEM, kind=KINDS[0], vectors=1):
    model, clip, vae = demo
    images, captions = drawings(thing)
    return task(model, clip, f"{name}: circle", [images], vae, [], captions, "object", "", kind, vectors)


@pytest.fixture(scope="module")
def gem(demo):
    """A token after 20 steps, and the weights of model and CLIP before."""
    model, clip, _ = demo
    before = [
        {k: v.clone() for k, v in one.state_dict().items()} for one in (model.model, clip.cond_stage_model)
    ]
    what = demo_task(demo)
    with torch.inference_mode():  # as ComfyUI runs a node
        return train(model, clip, what, Recipe(20, 2, density=0.0), FAST), before


def test_loss_falls_and_nothing_else_changes(demo, gem):
    model, clip, _ = demo
    trained, before = gem
    assert len(trained.losses) == 20
    still = train(model, clip, demo_task(demo, "still"), Recipe(20, 2, density=0.0, learning_rate=1e-9), FAST)
    assert sum(trained.losses[-10:]) < 0.9 * sum(
        still.losses[-10:]
    )  # of the same images, timesteps and noise
    for one, weights in zip((model.model, clip.cond_stage_model), before, strict=True):
        assert all(torch.equal(value, weights[key]) for key, value in one.state_dict().items())
    assert model.model_options == {"transformer_options": {}} and not clip.patcher.patches
    assert not comfy.model_management.in_training


def test_the_file_is_kohyas_and_style_mixing_works(demo, gem, tmp_path):
    """Saved, loaded, mixed with a second token and sampled: each mix paints another image."""
    model, clip, _ = demo
    trained, _ = gem
    path = xti.save(trained.concepts[0], tmp_path / "gem.safetensors")
    assert {key: value.shape for key, value in load_file(path).items()} == {key: (1, 128) for key in LAYERS}
    first = xti.load(path)
    assert first.name == "gem" and all(
        torch.equal(a, b) for a, b in zip(first.layers, trained.concepts[0].layers, strict=True)
    )
    second = train(
        model, clip, demo_task(demo, "gem", world.Thing("ring", "red")), Recipe(3, 2), FAST
    ).concepts[0]
    sampled = []
    for one in (first, second, mix(first, second, host_xti.mixed_layers("IN08, M00", first))):
        change, base = host_xti.encode(model, clip, "a <gem> on a grey background", [one])
        ready = injection.prepare(model)
        sampled.append(predictions(ready, change.on(base), prompt(2, width=128)).predictions[0][0])
    assert min(worst(a, b) for n, a in enumerate(sampled) for b in sampled[:n]) > 1e-3


def test_training_sees_what_sampling_sees(demo, gem):
    """The contexts of a training step are XTI Encode's, layer by layer, and the loss is the output's own error."""
    model, clip, _ = demo
    concept = gem[0].concepts[0]
    what = demo_task(demo)
    denoiser = Denoiser(model, clip, "fp32", checkpointing=False)
    said = host_loss.caption_tokens(clip, what)
    vectors = {"0/clip_l": torch.stack(concept.layers)}
    text = "a <gem> on a grey background"
    contexts, _ = host_loss._contexts(denoiser, [said(text), said("a <gem>")], vectors)
    tokens = [host_xti.layer_tokens(clip, text, [concept], layer) for layer in range(16)]
    for (keys, values), conditioning in zip(contexts, host_xti.encode_layers(clip, tokens), strict=True):
        assert keys is values and keys.shape == (2, 77, 128)
        assert worst(keys[:1], conditioning[0][0]) < 1e-4  # other kernels for another number of rows
    denoiser.close()


def sampling_of(model_type):
    config = comfy.supported_models.SD15({})
    return comfy.model_base.model_sampling(config, model_type)


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION", "EDM"])
def test_the_loss_is_of_the_models_own_output(kind):
    """``error`` times what core multiplies the output with is the error of the denoised latent, for eps, v and EDM."""
    sampling = sampling_of(comfy.model_base.ModelType[kind])
    generator = torch.Generator().manual_seed(0)
    clean, noise, out = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(3))
    sigma = torch.tensor([sampling.percent_to_sigma(share) for share in (0.1, 0.5, 0.9)])
    wide = sigma.view(-1, 1, 1, 1)
    if kind == "EPS":
        target = noise
    else:  # v of Salimans and Ho: alpha noise - sigma x, with alpha and sigma scaled to a sum of squares of 1
        target = (noise - wide * clean) / (wide**2 + 1).sqrt()
        target = -target if kind == "EDM" else target

    class Base:
        model_sampling = sampling
        extra_conds = staticmethod(lambda **_: {})
        process_latent_in = staticmethod(lambda latents: latents)
        get_dtype_inference = staticmethod(lambda: torch.float32)
        apply_model = staticmethod(lambda x, s, **_: sampling.calculate_denoised(s, out, x))

    denoiser = Denoiser.__new__(Denoiser)
    denoiser.base, denoiser.device, denoiser.blocks = Base(), torch.device("cpu"), [("input", 1)]
    denoiser.model = tiny_model("sd1")
    denoiser.autocast = torch.autocast("cpu", enabled=False)
    context = torch.zeros(3, 77, 8)
    error = denoiser.error(clean, (0.1, 0.5, 0.9), noise, [(context, context)], None)
    assert worst(error, out - target) < 1e-4  # sigma up to 8 in fp32: some 100 times 6e-8


def test_checkpointing_and_sizes_change_no_gradient(demo):
    """Gradients with and without checkpointing agree, for images of two sizes in one batch and long captions."""
    model, clip, _ = demo
    generator = torch.Generator().manual_seed(3)
    latents = [{"samples": torch.randn(1, 4, side, 16, generator=generator)} for side in (16, 8, 16)]
    long = " ".join(["{} star"] * 45)
    what = task(
        model, clip, "gem: star\ntile: red", [], None, [one["samples"] for one in latents],
        ["<gem>", "a <tile>", long.replace("{}", "<gem>")], "object", "the {}", KINDS[0], 2,
    )  # fmt: skip
    found = []
    for checkpointing in (False, True):
        denoiser = Denoiser(model, clip, "fp32", checkpointing=checkpointing)
        with torch.enable_grad():
            vectors = {k: v.requires_grad_(True) for k, v in host_train._started(clip, what, 16).items()}
            loss = host_loss.batch_loss(
                denoiser, what, host_loss.caption_tokens(clip, what), torch.nn.MSELoss(), vectors, [0, 1, 2],
                torch.Generator().manual_seed(1),
            )  # fmt: skip
            found.append((loss, torch.autograd.grad(loss, list(vectors.values()))))
        denoiser.close()
    (loss, gradients), (other, others) = found
    assert torch.equal(loss, other)
    assert all(g.shape == (16, 2, 128) and (g.abs().amax((1, 2)) > 0).all() for g in gradients)
    assert all(worst(a, b) < 1e-4 for a, b in zip(gradients, others, strict=True))


def test_an_interrupted_run_resumes(demo, monkeypatch):
    """Stopped by ComfyUI's button in the middle, resumed: bit for bit the run that was never stopped."""
    model, clip, _ = demo
    what = demo_task(demo, kind=KINDS[1])
    recipe, how = Recipe(4, 2, seed=7), replace(FAST, save_every=2)
    whole = train(model, clip, what, recipe, how)
    update = comfy.utils.ProgressBar.update_absolute

    def pressed(bar, value, *rest):
        update(bar, value, *rest)
        if value == 2:
            comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", pressed)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(model, clip, what, recipe, replace(how, resumable=True))
    monkeypatch.undo()
    resumed = train(model, clip, what, recipe, replace(how, resumable=True))
    assert re.search("resumed at step [23]", resumed.text) and resumed.losses == whole.losses
    assert torch.equal(resumed.concepts[0].layers[0], whole.concepts[0].layers[0])
    assert all(one is resumed.concepts[0].layers[0] or torch.equal(one, resumed.concepts[0].layers[0]) for one in resumed.concepts[0].layers)  # fmt: skip
    folder = host_xti.save_path("gem/x").parent
    assert sorted(one.name for one in folder.iterdir()) == [
        "gem_000002.safetensors",
        "gem_000004.safetensors",
    ]
    assert xti.load(folder / "gem_000004.safetensors").name == "gem"


def test_keys_and_values_apart(demo):
    model, clip, _ = demo
    trained = train(model, clip, demo_task(demo, kind=APART), Recipe(2, 2), FAST)
    keys, values = trained.concepts[0], trained.values[0]
    assert len(keys.layers) == len(values.layers) == 16
    assert not any(torch.equal(a, b) for a, b in zip(keys.layers, values.layers, strict=True))


@pytest.fixture(scope="module")
def sdxl_clip():
    """SDXL's two text encoders, narrow, with three layers each and random weights."""
    torch.manual_seed(0)
    target = supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    narrow = {"num_hidden_layers": 3, "intermediate_size": 64, "num_attention_heads": 2}
    options = {
        f"clip_{one}_model_config": {**narrow, "hidden_size": width} for one, width in (("l", 32), ("g", 64))
    }
    made = comfy.sd.CLIP(target, model_options=options)
    with torch.no_grad():
        for name, weight in made.cond_stage_model.named_parameters():
            weight.normal_(std=0.02 if weight.ndim > 1 else 0.1)
            if name.endswith("weight") and weight.ndim == 1:
                weight.add_(1.0)
    return made


def test_sdxl_trains_both_text_encoders(sdxl_clip, tmp_path):
    """One vector per block and text encoder, each moved by the loss; saved, loaded and encoded block by block."""
    unet = {
        **SDXL, "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 2, "context_dim": 96,
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2], "adm_in_channels": 64 + 6 * 256,
    }  # fmt: skip
    model = random_model(comfy.supported_models.SDXL, unet)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    what = task(model, sdxl_clip, "cat: animal", [], None, [latents], (), "style", "", KINDS[0], 1)
    trained = train(model, sdxl_clip, what, Recipe(1, density=0.0, optimizer="SGD", learning_rate=1.0), FAST)
    start = host_train.start_vectors(sdxl_clip, "animal", 1)
    concept = xti.load(xti.save(trained.concepts[0], tmp_path / "cat.safetensors"))
    assert concept.keys == SDXL_LAYERS and concept.widths == (32, 64)
    for encoder in (0, 1):
        assert all(not torch.equal(concept.tokens(n, encoder), start[encoder]) for n in range(11))
    change, base = host_xti.encode(model, sdxl_clip, "a <cat>", [concept])
    assert len(change.injections) == 10 and base[0][0].shape == (1, 77, 96)
    assert sum(len(one.layers) for one in change.injections) + 1 == 17
    mixed = mix(concept, replace(concept, layers=start[:1] * 11, large=start[1:] * 11), host_xti.mixed_layers("M00", concept))  # fmt: skip
    assert torch.equal(mixed.tokens(4, 1), start[1]) and torch.equal(mixed.tokens(5, 1), concept.tokens(5, 1))
    with pytest.raises(ValueError, match="names a part of OUT01"):
        host_xti.mixed_layers("OUT01.3", concept)
    plot, text = density_report(sdxl_clip, concept, 0.02)
    assert "in clip_l" in text and "in clip_g" in text and text.count("OUT05:") == 2 and plot.shape[1] == 840


def test_other_models_are_refused_by_name(demo):
    with pytest.raises(TrainingError, match="Anima reads a prompt twice"):
        trained_layers(transformer_kit.anima())
    with pytest.raises(TrainingError, match=r"this model \(WAN21\) has 3 blocks"):
        trained_layers(transformer_kit.wan())
    model, clip, vae = demo
    image, latent = torch.zeros(1, 64, 64, 3), torch.zeros(1, 4, 16, 16)

    def refused(message, **changes):
        given = {"concepts": "gem: star", "images": [], "vae": vae, "latents": [latent], "captions": (), "template": "object", "custom": "", "kind": KINDS[0], "vectors": 1}  # fmt: skip
        with pytest.raises(ValueError, match=message):
            task(model, clip, **{**given, **changes})

    refused("Both images and latents", images=[image])
    refused("Neither images nor latents", latents=[])
    refused("need a VAE", images=[image], latents=[], vae=None)
    refused("takes .images, 4, height, width", latents=[torch.zeros(1, 16, 8, 8)])
    refused("no token to start from", concepts="gem: <|endoftext|>")
    refused("not a valid file name", concepts="..: star")


def test_the_node_takes_lists(demo):
    """Core's data-set loaders give lists; every output is there."""
    model, clip, vae = demo
    images, captions = drawings(world.Thing("star", "green"), 2)
    options = {
        "template": "object", "kind": "XTI", "vectors": 1, "steps": 1, "batch_size": 1, "grad_accumulation_steps": 1,
        "learning_rate": 0.005, "optimizer": "Adam", "loss_function": "Huber", "density": 0.01, "seed": 3,
        "training_dtype": "bf16", "gradient_checkpointing": True, "offloading": False,
    }  # fmt: skip
    given = {name: [value] for name, value in options.items()}
    out = TrainXTI.execute(
        [model], [clip], ["gem: star"], images=list(images[:, None]), vae=[vae], captions=captions, **given
    )
    concepts, losses, plot, text = out.result
    assert [one.name for one in concepts] == ["gem"] and isinstance(concepts[0], XTI)
    assert len(losses["loss"]) == 1 and plot.shape == (1, 420, 900, 3) and "density" in text


def test_texts_are_checked_before_a_prompt_is_queued():
    assert TrainXTI.validate_inputs(concepts=["gem: star"], custom_templates=["a {}"]) is True
    assert TrainXTI.validate_inputs(custom_templates="") is True  # concepts come over a link
    assert "is not a valid concept" in TrainXTI.validate_inputs(concepts="gem")
    assert "where the token belongs" in TrainXTI.validate_inputs(
        concepts="gem: star", custom_templates="a photo"
    )
    assert MixXTI.validate_inputs(blocks="OUT00, IN08") is True  # of SDXL
    assert "IN03" in MixXTI.validate_inputs(blocks="IN03")
