"""The two sides of `pretrain.py`, each in a process of its own: `pretrain_engines.py ENGINE MODE PLAN.json`.

ENGINE is "beit", "beit, token cache" or "unilm". MODE is "check" (loss and tokens of one batch), "time" (a round of steps
for each line of standard input, see `paired.turns`), "breakdown" (one round, split in parts) or, ours alone, "fill" (write
the token cache). Answers are lines of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import math
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paired


class Clock:
    """Seconds of each part, without those of other parts within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._within = [0.0]

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count the time of a function, or a method of a class, as `part`."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            self._within.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                spent = time.perf_counter() - began
                own = spent - self._within.pop()
                self._within[-1] += spent
                self.seconds[part] = self.seconds.get(part, 0.0) + own

        setattr(owner, name, timed)

    def watch_training(self) -> None:
        """What both sides call in PyTorch."""
        import torch

        self.watch(torch.Tensor, "backward", "backward")
        self.watch(torch.optim.AdamW, "step", "optimiser")
        self.watch(torch.nn.utils, "clip_grad_norm_", "clip")


class Seen:
    """What the batches that a model got look like."""

    def __init__(self) -> None:
        self.shapes: dict[str, list[int]] = {}
        self.masked: list[float] = []

    def add(self, pixels: Any, view: Any, mask: Any) -> None:
        """Note a batch; `view` is None where tokens are read."""
        self.shapes = {"images": list(pixels.shape), "mask": list(mask.flatten(1).shape)}
        if view is not None:
            self.shapes["view"] = list(view.shape)
        self.masked.append(float(mask.flatten(1).sum(1).float().mean()))


def rounds(breakdown: bool, clock: Clock, about: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Yield once for each round of steps that is to be done: a warm-up, then one a turn, or one to be split in parts."""
    yield
    if not breakdown:
        yield from paired.turns(about())
        return
    clock.seconds.clear()
    began = time.perf_counter()
    yield
    total = time.perf_counter() - began
    print(json.dumps({**about(), "parts": clock.seconds, "total": total}), flush=True)


class _Enough(BaseException):
    """Ends a run that has steps left."""


def ours(plan: dict[str, Any], mode: str, engine: str) -> None:
    """`pretrain`, stopped between rounds where it asks for the next batch."""
    import torch

    import beit
    from beit import BeitForMaskedImageModeling
    from beit.data.loader import Loader
    from beit.data.sources.images import FolderImages
    from beit.data.transforms.pretrain import PretrainViews
    from beit.tokenizers.dalle.torch import DalleTokenizer
    from beit.train.pretrain import pretrain
    from beit.train.settings import PretrainSettings

    folder, steps, breakdown = Path(plan["folder"]), plan["steps"], mode == "breakdown"
    name = {"ready": f"beit {beit.__version__}{engine[len('beit') :]}", "torch": torch.__version__}
    if mode == "check":
        shared = torch.load(folder / "shared.pt", weights_only=True)
        model = BeitForMaskedImageModeling.from_pretrained(folder / "model").eval()
        tokens = DalleTokenizer.from_pretrained(folder / "tokenizer").tokens(shared["view"])
        with torch.no_grad():
            mask = shared["mask"]
            loss = model(shared["pixels"], mask, labels=tokens[mask], masked_logits_only=True).loss
        say_check(name, model, loss, tokens)
        return
    if mode == "fill":
        print(json.dumps({"seconds": fill_token_cache(plan)}))
        return

    if importlib.util.find_spec("torchvision"):
        # What workers load in each round, they would load once in a run: there a loader ends with the run, not the epoch.
        import torchvision.transforms.v2.functional  # noqa: F401
    clock, seen, output = Clock(), Seen(), folder / f"run {engine} {mode}"
    if breakdown:
        clock.watch_training()
        clock.watch(FolderImages, "read", "decode")
        clock.watch(PretrainViews, "one", "augment")
        clock.watch(DalleTokenizer, "tokens", "tokenise")
        clock.watch(BeitForMaskedImageModeling, "forward", "forward")

    def about() -> dict[str, Any]:
        first = json.loads((output / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
        return {**name, "loss": first["loss"], "shapes": seen.shapes, "masked": sum(seen.masked) / len(seen.masked)}

    all_batches = Loader.batches

    def batches(loader: Loader, first: int, last: int) -> Iterator[dict[str, Any]]:
        for _ in rounds(breakdown, clock, about):
            for batch in all_batches(loader, first, first + steps):
                seen.add(batch["pixel_values"], batch.get("token_pixels"), batch["mask"])
                yield batch
            first += steps
        raise _Enough

    Loader.batches = batches
    cached = "token cache" in engine
    more: dict[str, Any] = {"token_cache": folder / "tokens"} if cached else {"tokenizer": str(folder / "tokenizer")}
    settings = PretrainSettings(
        images=folder / "images",
        output=output,
        model=str(folder / "model"),
        batch_size=plan["batch"],
        steps=1_000_000,
        learning_rate=plan["learning_rate"],
        warmup=0.0,
        clip=plan["clip"],
        weight_decay=plan["weight_decay"],
        precision=plan["precision"],
        workers=0 if breakdown else plan["workers"],
        log_every=steps,
        save_every=1_000_000,
        **more,
    )
    with contextlib.suppress(_Enough), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        pretrain(settings)


def fill_token_cache(plan: dict[str, Any]) -> float:
    """Write the tokens of one crop of each image, as `beit tokenize` does; the seconds it takes."""
    try:
        from beit.train.settings import TokenizeSettings
        from beit.train.tokenize import tokenize
    except ImportError:
        raise SystemExit("--token-cache needs `beit tokenize`, which this version of beit does not have.") from None
    folder = Path(plan["folder"])
    settings = TokenizeSettings(
        images=folder / "images",
        output=folder / "tokens",
        tokenizer=str(folder / "tokenizer"),
        model=str(folder / "model"),
        crops=1,
        batch_size=plan["batch"],
        workers=plan["workers"],
    )
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        tokenize(settings)
    return time.perf_counter() - began


def say_check(name: dict[str, str], model: Any, loss: Any, tokens: Any) -> None:
    """What `same_work` compares."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({**name, "parameters": parameters, "loss": float(loss), "tokens": tokens.flatten().tolist()}))


def stand_ins(plan: dict[str, Any]) -> None:
    """Let the authors' files be imported with today's libraries, and run on a CPU. Nothing here does more than what it
    stands for.

    - Packages that they import and this run never calls: tensorboardX, einops, requests, and optimisers of timm.
    - `torch._six.inf` and `numpy.int`, which are gone.
    - CUDA's autocast, loss scaling and synchronisation: nothing in float32 on a CPU, autocast of the CPU in bfloat16.
    """
    import numpy
    import torch

    for name, content in (
        ("torch._six", {"inf": math.inf}),
        ("tensorboardX", {"SummaryWriter": None}),
        ("einops", {"rearrange": None}),
        ("requests", {}),
        ("timm.optim.novograd", {}),
    ):
        try:
            importlib.import_module(name)
        except ImportError:
            module = types.ModuleType(name)
            module.__dict__.update(content)
            sys.modules[name] = module
    for name, optimiser in (("nadam", "Nadam"), ("novograd", "NovoGrad"), ("radam", "RAdam")):
        module = importlib.import_module(f"timm.optim.{name}")
        if not hasattr(module, optimiser):
            setattr(module, optimiser, None)
    if "int" not in vars(numpy):
        numpy.int = int

    class NoScaling:
        scale = staticmethod(lambda loss: loss)
        unscale_ = staticmethod(lambda optimizer: None)
        step = staticmethod(lambda optimizer: optimizer.step())
        update = staticmethod(lambda: None)
        state_dict = staticmethod(lambda: {"scale": 1.0})

    torch.cuda.amp.GradScaler = NoScaling
    torch.cuda.synchronize = lambda: None
    bf16 = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    torch.cuda.amp.autocast = bf16 if plan["precision"] == "bf16" else contextlib.nullcontext


def authors(plan: dict[str, Any], mode: str, engine: str) -> None:
    """The authors' pre-training: what `run_beit_pretraining.py` builds, and an epoch of a few steps a round."""
    import torch

    stand_ins(plan)
    sys.path.insert(0, plan["unilm"])
    import dataset_folder
    import datasets
    import engine_for_pretraining
    import modeling_discrete_vae
    import modeling_pretrain
    import optim_factory
    import utils
    from dall_e.encoder import Encoder
    from dall_e.utils import map_pixels

    s, folder, breakdown = types.SimpleNamespace(**plan["sizes"]), Path(plan["folder"]), mode == "breakdown"
    name = {"ready": engine, "torch": torch.__version__}
    shared = torch.load(folder / "shared.pt", weights_only=True)
    choices = {
        "init_values": plan["layer_scale"],
        "drop_path_rate": plan["drop_path"],
        "use_shared_rel_pos_bias": True,
        "use_abs_pos_emb": s.absolute,
    }
    if plan["model"] == "base":
        model = modeling_pretrain.beit_base_patch16_224_8k_vocab(**choices)
    else:
        norm = functools.partial(torch.nn.LayerNorm, eps=1e-6)
        model = modeling_pretrain.VisionTransformerForMaskedImageModeling(
            s.image_size, s.patch_size, 3, s.vocab_size, s.width, s.depth, s.heads, norm_layer=norm, **choices
        )
    loaded = model.load_state_dict(shared["model"], strict=False)
    lost = [key for key in loaded.missing_keys if not key.endswith("relative_position_index")]
    assert not lost + loaded.unexpected_keys, (lost, loaded.unexpected_keys)
    d_vae = modeling_discrete_vae.Dalle_VAE(s.view_size)
    d_vae.encoder = Encoder(n_hid=s.dvae_width, n_blk_per_group=s.dvae_blocks, vocab_size=s.vocab_size)
    d_vae.encoder.load_state_dict(shared["encoder"])
    if mode == "check":
        tokens = d_vae.get_codebook_indices(map_pixels(shared["view"])).flatten(1)
        model.eval()
        with torch.no_grad():
            logits = model(shared["pixels"], shared["mask"])
        say_check(name, model, torch.nn.functional.cross_entropy(logits, tokens[shared["mask"]]), tokens)
        return

    options = argparse.Namespace(
        imagenet_default_mean_and_std=False,
        input_size=s.image_size,
        second_input_size=s.view_size,
        train_interpolation="bicubic",
        second_interpolation="lanczos",
        discrete_vae_type="dall-e",
        window_size=(s.grid, s.grid),
        num_mask_patches=s.masked,
        max_mask_patches_per_block=None,
        min_mask_patches_per_block=s.smallest_block,
        opt="adamw",
        lr=plan["learning_rate"],
        weight_decay=plan["weight_decay"],
        opt_eps=1e-8,
        opt_betas=[0.9, 0.999],
    )
    clock, seen = Clock(), Seen()
    if breakdown:
        clock.watch_training()
        clock.watch(dataset_folder, "pil_loader", "decode")
        clock.watch(datasets.DataAugmentationForBEiT, "__call__", "augment")
        clock.watch(modeling_discrete_vae.Dalle_VAE, "get_codebook_indices", "tokenise")
        clock.watch(modeling_pretrain.VisionTransformerForMaskedImageModeling, "forward", "forward")
        clock.watch(torch.nn.CrossEntropyLoss, "forward", "forward")
    images = dataset_folder.ImageFolder(str(folder / "images"), datasets.DataAugmentationForBEiT(options))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        optimizer = optim_factory.create_optimizer(options, model)
        scaler = utils.NativeScalerWithGradNormCount()

    class Batches(torch.utils.data.DataLoader):
        def __iter__(self) -> Iterator[Any]:
            for batch, label in super().__iter__():
                seen.add(*batch)
                yield batch, label

    losses: list[float] = []

    def about() -> dict[str, Any]:
        return {**name, "loss": losses[0], "shapes": seen.shapes, "masked": sum(seen.masked) / len(seen.masked)}

    steps = plan["steps"]
    for number, _ in enumerate(rounds(breakdown, clock, about)):
        indices = [index for batch in plan["order"][number * steps : (number + 1) * steps] for index in batch]
        loader = Batches(
            images,
            batch_size=plan["batch"],
            sampler=indices,
            num_workers=0 if breakdown else plan["workers"],
            drop_last=True,
        )
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            found = engine_for_pretraining.train_one_epoch(
                model,
                d_vae,
                loader,
                optimizer,
                torch.device("cpu"),
                number,
                scaler,
                plan["clip"],
                start_steps=0,
                lr_schedule_values=[options.lr] * steps,
                wd_schedule_values=[plan["weight_decay"]] * steps,
            )
        losses.append(found["loss"])


if __name__ == "__main__":
    import torch

    name, how, path = sys.argv[1:]
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(content["threads"])
    (ours if name.startswith("beit") else authors)(content, how, name)
