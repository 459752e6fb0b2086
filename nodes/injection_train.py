"""Trains XTI concepts from images."""

from comfy_api.latest import io

from ..injection import host_train
from ..injection.captions import TEMPLATES, read_concepts, templates
from ..injection.host_denoiser import DTYPES
from ..injection.task import KINDS
from ..injection.train import LOSSES, OPTIMIZERS, Recipe
from .checks import first_problem
from .injection_xti import CATEGORY, Concept
from .show import shown


class TrainXTI(io.ComfyNode):
    """Concepts with a token per cross-attention layer, from images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkTrainXTI",
            display_name="Train XTI",
            category=CATEGORY,
            description="Trains an extended textual inversion: one token embedding per cross-attention layer (P+), from a few images. For SD1, SD2 and SDXL. The model stays as it is. An interrupted run resumes when it is queued again. Meant for a GPU.",
            search_aliases=["train textual inversion", "extended textual inversion training", "P+ training", "train embedding", "learn concept"],
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model to train for: SD1, SD2 or SDXL. It is not changed."),
                io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint. It is not changed."),
                io.String.Input("concepts", multiline=True, default="gem: star", tooltip="One concept per line: its name, a colon, and the word to start from. The name is written <name> in prompts."),
                io.Image.Input("images", optional=True, tooltip="The images of the concepts: a batch, or a list from a data set loader. They need vae. Connect these or latents."),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the images. Not needed for latents."),
                io.Latent.Input("latents", optional=True, tooltip="Encoded images in place of images, also from a data set or a resolution bucket."),
                io.String.Input("captions", optional=True, force_input=True, tooltip="One caption per image, from a data set loader. {} marks the token, or <name> where there are several concepts. A caption that is empty or only a mark uses the templates. Captions are read literally: brackets are text."),
                io.Combo.Input("template", options=list(TEMPLATES), default="object", tooltip="Captions for images without one: of an object, or of a style."),
                io.String.Input("custom_templates", multiline=True, default="", optional=True, tooltip="Your own templates, one per line with {} for the token. They replace the chosen kind."),
                io.Combo.Input("kind", options=list(KINDS), default=KINDS[0], tooltip="XTI: vectors for each layer. Textual inversion: the same vectors in all layers, for comparison."),
                io.Int.Input("vectors", default=1, min=1, max=64, tooltip="Vectors (tokens) per concept, in each layer."),
                io.Int.Input("steps", default=500, min=1, max=100000, tooltip="Training steps in total. More steps than a run has done extend it."),
                io.Int.Input("batch_size", default=1, min=1, max=10000, tooltip="Images per step."),
                io.Int.Input("grad_accumulation_steps", default=1, min=1, max=1024, tooltip="Batches whose gradients are added before each change of the vectors."),
                io.Float.Input("learning_rate", default=0.005, min=0.0000001, max=1.0, step=0.0000001, tooltip="Learning rate. P+ uses 0.005."),
                io.Combo.Input("optimizer", options=list(OPTIMIZERS), default="AdamW", tooltip="The optimizer."),
                io.Combo.Input("loss_function", options=list(LOSSES), default="MSE", tooltip="Measures the difference of the model's output (noise or v) from the right one."),
                io.Float.Input("density", default=0.01, min=0.0, max=100.0, step=0.001, tooltip="Weight of P+'s density term, which keeps the vectors near words, so that prompts can change them. 0: off. The value is ours."),
                io.Float.Input("bandwidth", default=0.0, min=0.0, max=10.0, step=0.001, optional=True, advanced=True, tooltip="Width of the density's kernels; 0 takes the one under which the vocabulary's own tokens are most likely."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip="Random seed for noise, noise levels, captions and the order of images."),
                io.Combo.Input("training_dtype", options=list(DTYPES), default="bf16", tooltip="Arithmetic of the U-Net. none: as the model is loaded. The vectors are always fp32."),
                io.Boolean.Input("gradient_checkpointing", default=True, tooltip="Computes layers again on the way back instead of keeping what they computed: less memory, about a third slower."),
                io.Boolean.Input("offloading", default=False, tooltip="Keeps weights that do not fit on the CPU and moves them when they are needed."),
                io.Int.Input("save_every", default=0, min=0, max=100000, optional=True, tooltip="Steps between files of each concept, as embeddings/name/name_000100; 0: none. To compare a concept along its training."),
            ],
            outputs=[
                Concept.Output("xti", is_output_list=True, tooltip="The trained concepts, in the order of their lines. Connect XTI Encode and Save XTI."),
                io.Custom("LOSS_MAP").Output("loss_map", tooltip="The loss of each step, for Plot Loss Graph."),
                io.Image.Output("plot", tooltip="The loss over the steps."),
                io.String.Output("report", tooltip="Steps, losses and density."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, concepts=None, custom_templates=None):
        # ComfyUI hands the inputs of a node that takes lists over as lists here too.
        concepts, custom = (
            one[0] if isinstance(one, list | tuple) else one for one in (concepts, custom_templates)
        )
        return first_problem((read_concepts, concepts), (templates, "object", custom))

    @classmethod
    def execute(
        cls, model, clip, concepts, images=(), vae=(None,), latents=(), captions=(), **options
    ) -> io.NodeOutput:
        one = {name: values[0] for name, values in options.items()}
        samples = [latent["samples"] for latent in latents]
        what = host_train.task(
            model[0], clip[0], concepts[0], images, vae[0], samples, captions, one["template"],
            one.get("custom_templates", ""), one["kind"], one["vectors"],
        )  # fmt: skip
        recipe = Recipe(**{name: one[name] for name in host_train.RECIPE if name in one})
        how = host_train.Options(
            one["training_dtype"], one["gradient_checkpointing"], one["offloading"], one.get("save_every", 0)
        )
        found, plot = host_train.trained_with_plot(model[0], clip[0], what, recipe, how)
        losses = {"loss": found.losses}
        return io.NodeOutput(found.concepts, losses, plot, found.text, ui=shown(found.text, plot, cls=cls))
