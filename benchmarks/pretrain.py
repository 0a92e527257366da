"""Pre-training on this machine, from JPEG files to updated weights, beside the authors' engine (microsoft/unilm, beit/).

    python benchmarks/pretrain.py --unilm PATH/TO/unilm/beit --unilm-python PYTHON --images FOLDER
    python benchmarks/pretrain.py --unilm … --model small --rounds 5 --breakdown --json pretrain.json

Both sides read the same files in the same order with as many loader processes, make the same two views and masks, ask the
same dVAE for tokens and train the same model from the same weights (random ones: they cost as much as trained ones). Ours
is `beit.train.pretrain.pretrain`, whole; theirs is `train_one_epoch`, whole, with their data set, augmentation, models and
optimiser, imported from a checkout. A round is a few steps with a loader that starts and ends within it, so that nothing
is prepared before the clock runs. Before timing, both compute loss and tokens of one batch, which must agree.

The authors' Python needs torch, torchvision, timm and attrs. What it lacks besides, or what is gone from today's versions,
is replaced by `pretrain_engines.stand_ins`, none of which makes their steps slower.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paired


@dataclass(frozen=True)
class Sizes:
    """A model and its tokenizer, as both sides can build them."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    absolute: bool  # absolute positions besides the shared relative ones
    vocab_size: int
    dvae_width: int
    dvae_blocks: int
    batch: int

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size

    @property
    def view_size(self) -> int:
        """Side of the dVAE's view in pixels: 8 for a token."""
        return 8 * self.grid

    @property
    def masked(self) -> int:
        """Patches to mask: the paper's 75 of 196 in proportion."""
        return round(75 / 196 * self.grid**2)

    @property
    def smallest_block(self) -> int:
        """Fewest patches of a masked block: the paper's 16 of 196 in proportion."""
        return round(16 / 196 * self.grid**2)


MODELS = {
    "base": Sizes(224, 16, 768, 12, 12, False, 8192, dvae_width=256, dvae_blocks=2, batch=8),  # the paper's
    "small": Sizes(96, 8, 384, 8, 6, True, 1024, dvae_width=64, dvae_blocks=1, batch=32),
}
# The authors' command for base.
CHOICES = {"drop_path": 0.1, "layer_scale": 0.1, "clip": 3.0, "weight_decay": 0.05}


def gflop(s: Sizes) -> dict[str, float]:
    """Work of one image by part, in GFLOP (2 a multiply-add): matrix products and convolutions, nothing else.

    dVAE encoder: a 7x7 convolution to `dvae_width` channels; four groups, each with half the pixels a side and twice the
    channels of the one before, of blocks with three 3x3 and one 1x1 convolutions a quarter as wide inside; 1x1 to the codes.
    Model: a layer has 12·C² a token and 2·C a pair of tokens; the head sees masked patches only. Backward: twice forward.
    """
    side = s.view_size
    encoder, n_in = 49 * 3 * s.dvae_width * side**2, s.dvae_width
    for group in range(4):
        n_out, pixels = s.dvae_width * 2**group, (side // 2**group) ** 2
        for _ in range(s.dvae_blocks):
            inner = n_out // 4
            path = 9 * n_in * inner + 2 * 9 * inner**2 + inner * n_out
            encoder += pixels * (path + (n_in * n_out if n_in != n_out else 0))
            n_in = n_out
    encoder += s.grid**2 * n_in * s.vocab_size
    patches, tokens = s.grid**2, s.grid**2 + 1
    layers = s.depth * (12 * s.width**2 * tokens + 2 * s.width * tokens**2)
    forward = patches * 3 * s.patch_size**2 * s.width + layers + s.masked * s.width * s.vocab_size
    return {"tokenise": 2 * encoder / 1e9, "forward": 2 * forward / 1e9, "backward": 4 * forward / 1e9}


# --- what both sides start from ---------------------------------------------------------------------------------------


def prepare(folder: Path, s: Sizes, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write images, tokenizer, model and a batch to check with into `folder`; returns what a worker must know."""
    import torch

    from beit import BeitConfig, BeitForMaskedImageModeling
    from beit.checkpoints import names
    from beit.data.order import Order
    from beit.tokenizers import DalleConfig, DalleTokenizer

    batch = arguments.batch or s.batch
    steps = arguments.steps * (arguments.rounds + 2)
    link_images(folder / "images" / "all", arguments.images, batch * steps)
    torch.manual_seed(0)
    dvae = DalleConfig(groups=4, blocks_per_group=s.dvae_blocks, n_hid=s.dvae_width, n_init=8, vocab_size=s.vocab_size)
    tokenizer = DalleTokenizer(dvae)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = BeitConfig(
        image_size=s.image_size,
        patch_size=s.patch_size,
        hidden_size=s.width,
        num_hidden_layers=s.depth,
        num_attention_heads=s.heads,
        intermediate_size=4 * s.width,
        vocab_size=s.vocab_size,
        use_absolute_position_embeddings=s.absolute,
        use_shared_relative_position_bias=True,
        use_mask_token=True,
        mask_keeps_position=True,
        drop_path_rate=CHOICES["drop_path"],
        layer_scale_init_value=CHOICES["layer_scale"],
        layer_norm_eps=1e-6,
    )
    model = BeitForMaskedImageModeling(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("table"):  # zeros at first, which would hide a bias that lies otherwise
                parameter.normal_(std=0.2)
    model.save_pretrained(folder / "model")
    mask = torch.zeros(4, s.grid**2, dtype=torch.bool)
    for row in mask:
        row[torch.randperm(s.grid**2)[: s.masked]] = True
    authors = names.to_disk({name: tensor.numpy() for name, tensor in model.state_dict().items()}, "unilm")
    shared = {
        "model": {name: torch.from_numpy(array) for name, array in authors.items()},
        "encoder": {
            name.replace(".weight", ".w").replace(".bias", ".b"): tensor.contiguous()
            for name, tensor in tokenizer.encoder.state_dict().items()
        },
        "pixels": torch.randn(4, 3, s.image_size, s.image_size),
        "view": torch.rand(4, 3, s.view_size, s.view_size),
        "mask": mask,
    }
    torch.save(shared, folder / "shared.pt")
    order = Order(batch * steps, batch, seed=0)
    return {
        "folder": str(folder),
        "model": arguments.model,
        "sizes": {
            **asdict(s),
            "grid": s.grid,
            "view_size": s.view_size,
            "masked": s.masked,
            "smallest_block": s.smallest_block,
        },
        **CHOICES,
        "batch": batch,
        "steps": arguments.steps,
        "order": [order.indices(step)[1].tolist() for step in range(steps)],
        "workers": arguments.workers,
        "threads": arguments.threads,
        "precision": arguments.precision,
        "learning_rate": 1.5e-3 * batch / 2048,
        "unilm": str(arguments.unilm),
    }


def link_images(folder: Path, source: Path | None, count: int) -> None:
    """Links to `count` JPEG files below `source`, spread over all that there are; some again where there are fewer."""
    if source is None:
        from beit.data.embedded import photographs

        source = photographs()
    files = sorted(path.resolve() for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise SystemExit(f"No JPEG files below {source}. Give another folder by --images.")
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:06}.jpg").symlink_to(files[number * len(files) // count])


# --- all engines, in turn ---------------------------------------------------------------------------------------------


def same_work(checks: list[dict[str, Any]], timed: list[dict[str, Any]], vocab_size: int) -> None:
    """Refuse to compare engines that do not compute the same.

    Equal: parameters, loss and tokens of one batch from the same weights, shapes of the training batches. Alike: patches
    masked on average, and a first loss near that of guessing.
    """
    ours, ours_timed = checks[0], timed[0]
    for check in checks:
        agree = sum(a == b for a, b in zip(check["tokens"], ours["tokens"])) / len(ours["tokens"])  # noqa: B905
        print(
            f"  {check['ready']:24} {check['torch']:14} {check['parameters']:,} parameters, loss of the same batch "
            f"{check['loss']:.5f}, {agree:.1%} of tokens as ours"
        )
        assert check["parameters"] == ours["parameters"], "the models differ"
        assert agree > 0.99, "the same batch gives other tokens"
        assert abs(check["loss"] - ours["loss"]) < 1e-3, "the same batch gives another loss"
    for row in timed:
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in row["shapes"].items())
        print(f"  {row['ready']:24} {shapes}, {row['masked']:.1f} patches masked, first loss {row['loss']:.3f}")
        common = row["shapes"].keys() & ours_timed["shapes"].keys()
        assert all(row["shapes"][name] == ours_timed["shapes"][name] for name in common), "batches differ"
        assert abs(row["masked"] / ours_timed["masked"] - 1) < 0.05, "masks differ"
        assert abs(row["loss"] - math.log(vocab_size)) < 0.5, "the first loss is not that of guessing"


def print_parts(about: dict[str, Any], images: int, work: dict[str, float], peak: float) -> None:
    """Where an engine's time goes."""
    print(
        f"\n{about['ready']}, torch {about['torch']}, no loader processes: ms an image, part of all, GFLOP, of the peak"
    )
    rest = about["total"] - sum(about["parts"].values())
    for part in ("decode", "augment", "tokenise", "forward", "backward", "clip", "optimiser", "other", "all"):
        seconds = {**about["parts"], "other": rest, "all": about["total"]}.get(part, 0.0)
        done = sum(work[name] for name in work if name in about["parts"] and part in (name, "all"))
        share = f"{done * images / seconds / peak:6.0%}" if done and seconds else ""
        print(f"  {part:10} {1000 * seconds / images:9.2f} {seconds / about['total']:6.1%} {done:8.1f} {share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unilm", type=Path, help="the authors' folder beit/; without it, ours alone")
    parser.add_argument("--unilm-python", action="append", help="interpreter for it, this one by default; repeatable")
    parser.add_argument("--images", type=Path, help="folder with JPEG files; the embedded photographs by default")
    parser.add_argument("--model", choices=list(MODELS), default="base")
    parser.add_argument("--batch", type=int, help="images a step; 8 for base, 32 for small by default")
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="loader processes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of both sides")
    parser.add_argument("--token-cache", action="store_true", help="ours with tokens from `beit tokenize`, too")
    parser.add_argument("--breakdown", action="store_true", help="where the time goes, in one process each")
    parser.add_argument("--json", type=Path, help="write all figures there")
    arguments = parser.parse_args()

    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # this is about CPUs
    s = MODELS[arguments.model]
    engines = [("beit", sys.executable)]
    if arguments.token_cache:
        engines.append(("beit, token cache", sys.executable))
    if arguments.unilm:
        if not (arguments.unilm / "engine_for_pretraining.py").is_file():
            raise SystemExit(f"{arguments.unilm} is not the folder beit/ of a checkout of microsoft/unilm.")
        arguments.unilm = arguments.unilm.resolve()
        engines += [("unilm", python) for python in arguments.unilm_python or [sys.executable]]

    by_product, by_convolution = paired.matrix_peak(arguments.threads)
    peak, work = max(by_product, by_convolution), gflop(s)
    parts = ", ".join(f"{name} {value:.1f}" for name, value in work.items())
    print(
        f"{platform.machine()}, {arguments.threads} threads, {arguments.workers} loader processes, {arguments.precision}"
    )
    print(f"large matrix product: {by_product:.0f} GFLOP/s by torch.mm, {by_convolution:.0f} as a convolution")
    print(f"GFLOP an image: {parts}; together {sum(work.values()):.1f}\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plan = prepare(folder, s, arguments)
        (folder / "plan.json").write_text(json.dumps(plan))
        images = plan["batch"] * plan["steps"]

        def start(engine: str, python: str, mode: str) -> paired.Engine:
            script = [str(Path(__file__).with_name("pretrain_engines.py")), engine, mode, str(folder / "plan.json")]
            return paired.Engine(engine, python, script, arguments.threads)

        def ask(engine: str, python: str, mode: str) -> dict[str, Any]:
            worker = start(engine, python, mode)
            worker.close()
            return worker.about

        filling = ask("beit", sys.executable, "fill")["seconds"] if arguments.token_cache else None
        checks = [ask(engine, python, "check") for engine, python in engines]
        running = [start(engine, python, "time") for engine, python in engines]
        same_work(checks, [engine.about for engine in running], s.vocab_size)
        paired.take_turns(running, arguments.rounds)
        rows = paired.compared(running)
        print(
            f"\n{arguments.model}: {plan['steps']} steps of {plan['batch']} images a round, {arguments.rounds} rounds"
        )
        print(paired.HEADER + "  images/s")
        for row in rows:
            done = sum(work.values()) - (work["tokenise"] if "token cache" in row["engine"] else 0.0)
            row["images_per_second"] = images / row["seconds"]
            row["share_of_peak"] = done * row["images_per_second"] / peak
            print(f"{paired.as_line(row, row['share_of_peak'])}  {row['images_per_second']:8.2f}", flush=True)
        if filling is not None:
            print(
                f"  writing the token cache of {len(plan['order']) * plan['batch']} images took {filling:.1f} s, once"
            )
        tables = [ask(engine, python, "breakdown") for engine, python in engines] if arguments.breakdown else []
        for about in tables:
            print_parts(about, images, work, peak)
    if arguments.json:
        content = {
            "model": arguments.model,
            "sizes": asdict(s),
            "batch": plan["batch"],
            "steps": plan["steps"],
            "threads": arguments.threads,
            "workers": arguments.workers,
            "precision": arguments.precision,
            "matrix_peak_gflops": peak,
            "gflop_an_image": work,
            "token_cache_seconds": filling,
            "rows": rows,
            "breakdown": [{**about, "images": images} for about in tables],
            "commit": _commit(arguments.unilm),
        }
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


def _commit(folder: Path | None) -> str | None:
    """Which commit of the authors' repository a checkout has, if git knows."""
    if folder is None:
        return None
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


if __name__ == "__main__":
    main()
