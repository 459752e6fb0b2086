"""Scores of images for a search: CLIP similarity, pixels, the demo models' classifier, weighted sums."""

from comfy_api.latest import io

from ..demo_models import host as demo_models
from ..demo_models.judge import QUESTIONS
from ..search import host_scores, scores
from .checks import first_problem
from .search import CATEGORY

SIMILAR, PIXELS = "embeddings (similarity)", "pixels (distance)"


def _score(tooltip: str):
    return io.Float.Output("score", display_name="score", tooltip=tooltip)


class ScoreText(io.ComfyNode):
    """Image and text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkScoreText",
            display_name="Score: Image and Text",
            category=CATEGORY,
            description="How well images fit a text: the cosine similarity of their CLIP embeddings, averaged over the images.",
            search_aliases=["CLIP score", "clip similarity", "prompt adherence", "aesthetic"],
            inputs=[
                io.Image.Input("images", tooltip="The images."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder of a CLIP model, from Load CLIP Vision."),
                io.Clip.Input("clip", tooltip="The text encoder of the same CLIP model, with its projection, from Load CLIP."),
                io.String.Input("text", default="", multiline=True, tooltip="What the images should show."),
            ],
            outputs=[_score("The similarity, -1 to 1. Higher is better.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, clip_vision, clip, text) -> io.NodeOutput:
        return io.NodeOutput(host_scores.text_similarity(clip_vision, clip, images, text))


class ScoreImage(io.ComfyNode):
    """Image and reference images."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkScoreImage",
            display_name="Score: Image and Image",
            category=CATEGORY,
            description="How alike images and reference images are: the cosine similarity of their CLIP embeddings, or the distance of their pixels, for example from the images of model A with the same seeds.",
            search_aliases=["image similarity", "CLIP image score", "style similarity", "distance", "MSE"],
            inputs=[
                io.Image.Input("images", tooltip="The images."),
                io.Image.Input("reference", tooltip="What they are compared with. For pixels one image, or one per image."),
                io.Combo.Input("measure", options=[SIMILAR, PIXELS], default=SIMILAR, tooltip="embeddings: similarity of content and style, -1 to 1, higher is more alike. pixels: root mean square difference, 0 to 1, lower is more alike."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="The image encoder for embeddings."),
            ],
            outputs=[_score("The similarity or the distance.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, reference, measure, clip_vision=None) -> io.NodeOutput:
        if measure == PIXELS:
            return io.NodeOutput(scores.pixel_distance(images, reference))
        if clip_vision is None:
            raise scores.SearchError(
                "Embeddings need an image encoder. Connect clip_vision, or choose pixels."
            )
        return io.NodeOutput(host_scores.image_similarity(clip_vision, images, reference))


class ScoreDemo(io.ComfyNode):
    """The demo models' classifier as a score."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlockworkScoreDemo",
            display_name="Score: Demo Classifier",
            category=CATEGORY,
            description="How sure the classifier of the demo models is that images show what is wanted: the mean probability of the answers.",
            search_aliases=["demo score", "classifier score", "judge"],
            inputs=[
                io.Image.Input("images", tooltip="Images of a demo model."),
                io.String.Input("wanted", default="style = ink, shape = star, colour = green", tooltip="What the images should show: shape, colour, texture, background or style, as in style = ink, shape = star."),
            ],
            outputs=[_score("The mean probability, 0 to 1. Higher is better.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, wanted=None):
        return first_problem((scores.parse_wanted, wanted, QUESTIONS))

    @classmethod
    def execute(cls, images, wanted) -> io.NodeOutput:
        answers = scores.parse_wanted(wanted, QUESTIONS)
        verdict = demo_models.judge(images)
        chances = [float(verdict.chance_of(question, answer).mean()) for question, answer in answers.items()]
        return io.NodeOutput(sum(chances) / len(chances))


class ScoreSum(io.ComfyNode):
    """Scores as one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        more = [
            entry
            for number in (2, 3, 4)
            for entry in (
                io.Float.Input(f"score_{number}", force_input=True, optional=True, tooltip="Another score."),
                io.Float.Input(f"weight_{number}", default=1.0, min=-1000.0, max=1000.0, step=0.01, optional=True, tooltip="Its weight. Negative for a score that should be low."),
            )
        ]  # fmt: skip
        return io.Schema(
            node_id="BlockworkScoreSum",
            display_name="Score: Weighted Sum",
            category=CATEGORY,
            description="Adds up to four scores, each times its weight. Lists count with their mean, so scores over several prompts and seeds can be combined.",
            search_aliases=["combine scores", "weighted sum", "average score"],
            is_input_list=True,
            inputs=[
                io.Float.Input("score", force_input=True, tooltip="A score."),
                io.Float.Input("weight", default=1.0, min=-1000.0, max=1000.0, step=0.01, tooltip="Its weight. Negative for a score that should be low."),
                *more,
            ],
            outputs=[_score("The sum.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, score, weight, **more) -> io.NodeOutput:
        numbers = [n for n in (2, 3, 4) if f"score_{n}" in more]
        lists = [score, *(more[f"score_{n}"] for n in numbers)]
        weights = [weight[0], *(more.get(f"weight_{n}", [1.0])[0] for n in numbers)]
        return io.NodeOutput(scores.weighted_sum(lists, weights))
