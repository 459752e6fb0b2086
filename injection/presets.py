"""Block choices that articles and papers report, with their sources."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockPreset:
    """A block spec that is reported to carry something, and the source."""

    spec: str
    models: str
    carries: str
    source: str


PPLUS = "P+ (Voynov et al., arXiv 2303.09522)"
BLORA = "B-LoRA (Frenkel et al., arXiv 2403.14572), blora_utils.py: content up_blocks.0.attentions.0, style up_blocks.0.attentions.1"
IPADAPTER = "ComfyUI_IPAdapter_plus, weight types of IPAdapterPlus.py"
ARTICLE = "a study of P+ by block prompts (qiita.com/nishiha/items/ccbfb5176e2d97200a89): green lizard in the middle and red cube elsewhere gives a red lizard, the reverse a green cube with lizard skin"
DUMPUNET = "measurements in the README of hnmr293/stable-diffusion-webui-dumpunet (WD 1.3)"

PRESETS: dict[str, BlockPreset] = {
    "all blocks": BlockPreset("all", "any", "everything", "every cross-attention layer of the model"),
    "coarse": BlockPreset("coarse", "any", "object, shape, composition", PPLUS),
    "fine": BlockPreset("fine", "any", "style, colour, texture", PPLUS),
    "object (M00)": BlockPreset("M00", "SD1, SD2", "object and composition", ARTICLE),
    "colour and texture (all but M00)": BlockPreset("down, up", "SD1, SD2", "colour and texture", ARTICLE),
    "geometry (IN08, M00)": BlockPreset("IN08, M00", "SD1, SD2", "geometry of the subject", f"{PPLUS}, style mixing as quoted by SVDiff (arXiv 2303.11305), figure 10"),
    "appearance (all but IN08, M00)": BlockPreset("IN01-IN07, up", "SD1, SD2", "appearance of the subject", f"{PPLUS}, style mixing as quoted by SVDiff (arXiv 2303.11305), figure 10"),
    "strongest (IN07, IN08, M00)": BlockPreset("IN07, IN08, M00", "SD1, SD2", "the largest effect of a changed word", DUMPUNET),
    "black and white (IN07)": BlockPreset("IN07", "SD1, SD2", "the word monochrome acts almost only here", DUMPUNET),
    "content, SDXL (OUT00)": BlockPreset("OUT00", "SDXL", "content", BLORA),
    "style, SDXL (OUT01)": BlockPreset("OUT01", "SDXL", "style", BLORA),
    "composition, SDXL (IN08)": BlockPreset("IN08", "SDXL", "composition", IPADAPTER),
    "style and composition, SDXL": BlockPreset("IN08, OUT01", "SDXL", "style and composition", IPADAPTER),
    "style, SD1": BlockPreset("idx:0-3, idx:9-15", "SD1", "style", IPADAPTER),
    "composition, SD1": BlockPreset("IN07=0.25, IN08", "SD1", "composition", IPADAPTER),
}  # fmt: skip


def described(name: str) -> str:
    """One line on a preset: what it carries, in which models, who found it."""
    preset = PRESETS[name]
    return f"{preset.spec}: {preset.carries} ({preset.models}). Source: {preset.source}."
