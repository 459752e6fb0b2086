// @ts-check
/** What the command that converts nodes says. */

export const CONVERSION = {
  en: {
    convert: "Convert to Blockwork",
    converted: "What differs after the conversion",
    lost: "{} has no counterpart and is left out.",
    mergeFirst: "Layers without a slider followed {}; here they are BASE, with {}. Weights are shares of model B: 1 minus the slider.",
    mergeParts: "Layers outside the input, middle and output blocks followed input; here they follow the number {}. The other two are lines of elemental.",
    mergeDifference: "The subtraction is part of this node: A + (B - C) is rounded once, not twice.",
    loraBlocks: "Numbers count for fixed blocks of the model, not for the blocks that the LoRA happens to have, in order.",
    loraVector: "The block vector {} is not translated; the weights are 1.",
    loraRandom: "R is a random number from 0 to 1 (there: 0 to 3), from another generator.",
    loraInverse: "inverse is not translated: {} is not a list of numbers.",
    injectPositive: "The prompt goes into the positive conditioning only, also in batches and where positive and negative run apart.",
    injectWeight: "A weight mixes the prompt with the conditioning's own; there it multiplied the embeddings of both.",
    injectSeveral: "There are {} nodes, one for each prompt, because later ones take precedence.",
    mimicScale: "mimic scale {} has no counterpart: the range is that of the conditional prediction.",
  },
  ja: {
    convert: "Blockworkのノードに変換",
    converted: "変換後に異なる点",
    lost: "{}に対応する設定がないため、省きました。",
    mergeFirst: "スライダーのない層は{}に従っていました。ここではBASE（{}）です。重みはモデルBの割合、つまり1からスライダーの値を引いた値です。",
    mergeParts: "入力、中間、出力ブロック以外の層はinputに従っていました。ここでは数値{}に従います。残りの2つはelementalの行になりました。",
    mergeDifference: "差分の計算はこのノードに含まれます。A + (B - C)の丸めは2回ではなく1回です。",
    loraBlocks: "数値はモデルの決まったブロックに対応します。LoRAが持つブロックの順ではありません。",
    loraVector: "ブロックの指定{}は変換できないため、重みを1にしました。",
    loraRandom: "Rは0から1の乱数です（元は0から3）。乱数の生成方法も異なります。",
    loraInverse: "inverseは変換できません：{}は数値のリストではありません。",
    injectPositive: "プロンプトはポジティブの条件付けだけに入ります。バッチでも、ポジティブとネガティブが別々に実行される場合も同じです。",
    injectWeight: "重みはプロンプトと元の条件付けを混ぜる割合です。元のノードでは両方の埋め込みに掛けていました。",
    injectSeveral: "後のノードが優先されるため、プロンプトごとに1つ、{}個のノードになりました。",
    mimicScale: "mimic scale {}に対応する設定はありません。範囲は条件付き予測の範囲です。",
  },
};
