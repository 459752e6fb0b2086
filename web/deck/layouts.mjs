// @ts-check
/**
 * Layouts that a weight text can name: stacks as letter, title and number of blocks, then the names outside them.
 * Written by tools/draw_presets.py from blocks/names.py.
 */

/** @type {Record<string, [[string, string, number][], string[]]>} */
export const NAMED = {
  sd1: [[["IN", "input_blocks", 12], ["M", "middle_block", 1], ["OUT", "output_blocks", 12]], ["BASE", "VAE", "CLIP", "TIME_EMBED", "LABEL_EMB", "OUT"]],
  sdxl: [[["IN", "input_blocks", 9], ["M", "middle_block", 1], ["OUT", "output_blocks", 9]], ["BASE", "VAE", "CLIP", "TIME_EMBED", "LABEL_EMB", "OUT"]],
  sd3: [[["J", "joint_blocks", 24]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  sd35_large: [[["J", "joint_blocks", 38]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  flux: [[["D", "double_blocks", 19], ["S", "single_blocks", 38]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  flux2: [[["D", "double_blocks", 8], ["S", "single_blocks", 48]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  klein_4b: [[["D", "double_blocks", 5], ["S", "single_blocks", 20]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  klein_9b: [[["D", "double_blocks", 8], ["S", "single_blocks", 24]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  chroma: [[["G", "distilled_guidance_layer.layers", 5], ["D", "double_blocks", 19], ["S", "single_blocks", 38]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  qwen_image: [[["B", "transformer_blocks", 60]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  z_image: [[["CR", "context_refiner", 2], ["NR", "noise_refiner", 2], ["B", "layers", 30]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  anima: [[["A", "llm_adapter.blocks", 6], ["B", "blocks", 28]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  krea2: [[["TL", "txtfusion.layerwise_blocks", 2], ["TR", "txtfusion.refiner_blocks", 2], ["B", "blocks", 28]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  wan_14b: [[["B", "blocks", 40]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  wan_1_3b: [[["B", "blocks", 30]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  ltxv: [[["B", "transformer_blocks", 28]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  lumina2: [[["CR", "context_refiner", 2], ["NR", "noise_refiner", 2], ["B", "layers", 26]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
  hunyuan_video: [[["TR", "txt_in.individual_token_refiner.blocks", 2], ["D", "double_blocks", 20], ["S", "single_blocks", 40]], ["BASE", "VAE", "CLIP", "T5", "IN", "TXT", "OUT"]],
};
