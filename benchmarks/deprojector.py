"""Deprojection at full size (768-d, 77 rows, float32): the pack against the reference or the author's classes.

The reference, ``deprojector_reference``, is this project's own slow rewrite of the published algorithm: T pushes the whole 77-row buffer through the layer
for every row, VT and Mvt the rows so far, the LSTMs one row with separate products and all embedding terms. Both
run on the same weights, alternating in one process; figures are medians of CPU seconds.

    python benchmarks/deprojector.py [--threads 1] [--repeats 3] [--only wide] [--json FILE]

With ``--author FOLDER`` the peer is the author's own code: see deprojector_author.py.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import deprojector_reference as reference
from deprojector_author import add_arguments, author_classes, author_model
from refhost.pack import load_pack

load_pack()

from blockwork.deprojector.families import LstmConfig, MvtConfig, TransformerConfig, VtConfig
from blockwork.deprojector.files import build

KEPT = dict(x_residual=False, h0_residual=True, x_out_residual=True)
WIDE = dict(x_residual=False, h0_residual=True, states_proj=True)


def _lstm3(layers: int, **flags) -> LstmConfig:
    return LstmConfig(use_model3=True, num_layers=layers, **flags)


# name -> configuration, and the ratios asked for at batch 1 and 8 (0: faster is better, nothing asked)
CASES = {
    "T v1": (TransformerConfig(has_null=False, embed_second=False), (4, 12)),
    "T v3": (TransformerConfig(relative_to_null=True), (4, 12)),
    "T v5 (4 units)": (TransformerConfig(relative_to_null=True, apply_mlp_to_input=True, ensemble_size=4), (4, 12)),
    "VT": (VtConfig(), (4, 8)),
    "Mvt": (MvtConfig(), (4, 8)),
    "LSTM 1": (LstmConfig(lstm_hidden_size=768), (1, 1)),
    "LSTM 1 with embed": (LstmConfig(lstm_hidden_size=768, use_extra=True, use_out_proj=True), (1, 1)),
    "LSTM 2": (LstmConfig(use_model2=True), (1, 1)),
    **{f"LSTM 3 initial, {n}": (_lstm3(n), (1.25, 1.25) if n == 1 else (1, 1)) for n in (1, 2, 3)},
    **{f"LSTM 3 kept, {n}": (_lstm3(n, **KEPT), (1.25, 1.25) if n == 1 else (1, 1)) for n in (1, 2, 3)},
    **{f"LSTM 3 wide 1x, {n}": (_lstm3(n, lstm_hidden_size=768, **WIDE), (1.25, 1.25) if n == 1 else (1, 1)) for n in (1, 2)},
    **{f"LSTM 3 wide 1.25x, {n}": (_lstm3(n, lstm_hidden_size=960, **WIDE), (1.25, 1.25) if n == 1 else (1, 1)) for n in (1, 2)},
    "LSTM 3 initial, 2, 4 units": (_lstm3(2, ensemble_size=4), (1, 1)),
}  # fmt: skip


Work = Callable[[], torch.Tensor]
Peer = Callable[[dict[str, torch.Tensor], dict, torch.Tensor], Work | None]


def seconds(work: Work) -> tuple[float, torch.Tensor]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def reference_peer(state: dict[str, torch.Tensor], fields: dict, embeds: torch.Tensor) -> Work:
    """The reference on these weights, ready to run."""
    return lambda: reference.generate(state, fields, embeds)


def author_peer(author: Path, transformers: Path | None) -> Peer:
    """The author's classes, imported from a folder."""
    classes = author_classes(author, transformers)

    def prepare(state: dict[str, torch.Tensor], fields: dict, embeds: torch.Tensor) -> Work | None:
        model = author_model(classes, fields, state)
        return model and (lambda: model.Inference(embeds))

    return prepare


@torch.no_grad()
def compare(name: str, config, batch: int, repeats: int, peer: Peer) -> dict | None:
    """Medians of both, the largest difference of their results; None where the peer cannot run these weights."""
    torch.manual_seed(0)
    module = build(config, "cpu").eval()
    for key, buffer in module.named_buffers():
        if key.endswith("_embed"):
            buffer.normal_()
    state, fields = module.state_dict(), config.as_json()
    embeds = torch.randn(batch, 768)
    ours, theirs = [], []
    module.deproject(embeds, rows=3)
    run_peer = peer(state, fields, embeds)
    if run_peer is None:
        return None
    for _ in range(repeats):
        took, expected = seconds(run_peer)
        theirs.append(took)
        took, result = seconds(lambda: module.deproject(embeds))
        ours.append(took)
    difference = (result[:, :4] - expected[:, :4]).abs().max().item()  # rounding grows with the rows
    return {
        "name": name,
        "batch": batch,
        "ours": median(ours),
        "peer": median(theirs),
        "difference": difference,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description="Times deprojection against the reference.")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--json", type=Path)
    add_arguments(arguments, required=False)
    options = arguments.parse_args()
    peer = author_peer(options.author, options.transformers) if options.author else reference_peer
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), float32, 768-d, CPU seconds (median)")
    rows = []
    for name, (config, wanted) in CASES.items():
        if options.only not in name:
            continue
        for batch, asked in zip((1, 8), wanted, strict=True):
            row = compare(name, config, batch, options.repeats, peer)
            if row is None:
                print(
                    f"{name}, batch {batch}: not comparable, the class of today does not read such files",
                    flush=True,
                )
                continue
            ratio = row["peer"] / row["ours"]
            rows.append({**row, "ratio": ratio, "asked": asked})
            verdict = "" if ratio >= asked else f"  (asked: {asked}x)"
            print(
                f"{name}, batch {batch}: {row['ours']:.3f} s, {row['peer']:.3f} s, {ratio:.2f}x"
                f"  [first rows differ by {row['difference']:.0e}]{verdict}",
                flush=True,
            )
    print(f"peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
