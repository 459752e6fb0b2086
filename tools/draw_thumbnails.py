"""Makes the thumbnails of the template browser, beside the drawn workflows in example_workflows/.

A thumbnail shows what a workflow makes: its images on the demo models, which take the place of released models, or those of the
workflow that is its demo. Of models that the demo models cannot stand for, and of merges without an image, the weights are drawn.
Names as arguments limit it to those workflows; without any, those that have no thumbnail yet are made.
"""

import io
import sys
from typing import Any

import stand_ins
from PIL import Image
from refhost import layout, templates
from refhost.client import Client
from refhost.server import Server

PIXELS, QUALITY, GAP = 640, 80, 8
DEMO = {"BlockworkAtelierLoader", "BlockworkAtelierStages"}
PAPER = (38, 40, 46)
DEMO_OF = {
    "cascade_64_256_1024": "demo_cascade",
    "block_sweep": "article_003_demo_blocks",
    "deprojector_training": "deprojector_ensemble",
    "demo_train_xti": "demo_words",  # words that were trained in this way
    "search_demo": "search_eye",
    "article_000_layers": "article_000_demo",
    "article_001_red_green": "article_001_demo",
    "article_001_growth": "article_001_demo_growth",
    "article_002_on_off": "article_002_demo",
    "article_004_style": "article_004_demo_style",
    "article_004_guidance": "article_004_demo_guidance",
    "article_004_prompts": "article_004_demo_guidance",
    "article_004_rating": "article_004_demo_rating",
}
WEIGHTS = {
    "merge_z_image": "z_image: B00-B09=0.25, B10-B19=0.5, B20-B29=0.75",
    "merge_qwen_image": "qwen_image: GRAD_V",
    "merge_flux2_klein": "klein_4b: D=0.5, S00-S09=0.25, S10-S19=0.75",
    "merge_anima": "anima: LAST_THIRD, A=0",
    "merge_sd35": "sd3: J00-J07=0.25, J08-J15=0.5, J16-J23=0.75",
    "merge_wan22": "wan_14b: MIDDLE_THIRD",
    "merge_fp8_scaled": "flux: D00-D09=0.25, D10-D18=0.5",
    "merge_file": "GRAD_V, BASE=0.5",
    "merge_file_fp8_scaled": "z_image: B00-B09=0.25, B10-B19=0.5, B20-B29=0.75",
    "lora_z_image": "z_image: B00-B09=0.3, B20-B29=0.8",
    "lora_merge": "IN01-M00=1, OUT03-OUT11=0",
    "lora_extract": "1",
    "recipe": "GRAD_V",
    "recipe_file": "MID12_50, BASE=0.1",
    "recipe_lora": "IN04-IN08=0.5, OUT03-OUT11=1",
    "recipe_replay": "MID12_50, BASE=0.1",
}


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def prompt_of(name: str) -> dict[str, Any]:
    """The prompt whose images are the thumbnail."""
    if name in WEIGHTS:
        layout_name, _, text = WEIGHTS[name].rpartition(": ")
        weights = {"layout": layout_name or "sd1", "weights": text}
        return {
            "1": {"class_type": "BlockworkBlockWeights", "inputs": weights},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 1]}},
        }
    name = DEMO_OF.get(name, name)
    kinds = {node["class_type"] for node in templates.prompt(name).values()}
    prompt = templates.prompt(name) if kinds & DEMO else stand_ins.prompt_of(name)
    for node in [node for node in prompt.values() if node["class_type"] == "BlockworkRatingSheet"]:
        for name_ in ("first", "second"):  # the node saves a page, so its images are saved for the thumbnail
            saved = {"images": node["inputs"][name_], "filename_prefix": "rating"}
            prompt[f"saved {name_}"] = {"class_type": "SaveImage", "inputs": saved}
    return prompt


def take(client: Client, name: str) -> bytes:
    """A square JPEG of the images that a workflow saves, or else shows, in rows."""
    prompt = prompt_of(name)
    entry = client.run(prompt, timeout=1800)
    with_images = [key for key, output in entry["outputs"].items() if output.get("images")]
    saved = [key for key in with_images if prompt.get(key, {}).get("class_type") == "SaveImage"]
    swept = any(node["class_type"] == "BlockworkBlockSweep" for node in prompt.values())
    keys = (
        saved
        if swept or len(saved) > 1 or not with_images
        else [*saved, *sorted(set(with_images) - set(saved))]
    )
    shown: dict[bytes, Image.Image] = {}  # each image once
    for data in [data for key in keys for data in client.images(entry, key)]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        shown.setdefault(image.tobytes(), image)
    return jpeg(sheet(list(shown.values())))


def sheet(shown: list[Image.Image]) -> Image.Image:
    """Images in equal cells of a square, in as many columns as make them largest."""

    def cell(across: int) -> tuple[int, int]:
        return PIXELS // across, PIXELS // -(-len(shown) // across)

    def scale(image: Image.Image, across: int) -> float:
        width, height = cell(across)
        return min((width - GAP) / image.width, (height - GAP) / image.height)

    across = max(range(1, len(shown) + 1), key=lambda n: (min(scale(image, n) for image in shown), n))
    width, height = cell(across)
    page = Image.new("RGB", (PIXELS, PIXELS), PAPER)
    for number, image in enumerate(shown):
        by = scale(image, across)
        size = round(image.width * by), round(image.height * by)
        filter_ = Image.Resampling.NEAREST if by >= 2 else Image.Resampling.LANCZOS
        row, column = divmod(number, across)
        at = column * width + (width - size[0]) // 2, row * height + (height - size[1]) // 2
        page.paste(image.resize(size, filter_), at)
    return page


def main() -> int:
    names = sys.argv[1:] or [name for name in templates.names() if not templates.drawn(name, ".jpg").exists()]
    with Server(layout.HOST / "thumbnails") as server:
        client = Client(server.url)
        stand_ins.make_files(server)
        for name in names:
            templates.drawn(name, ".jpg").write_bytes(take(client, name))
            print(name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
