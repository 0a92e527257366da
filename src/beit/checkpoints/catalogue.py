"""The catalogue: every BEiT checkpoint that its makers published, where it is, how it scores and how it wants its pixels.

`find` takes our names, those of the Hub, timm and the authors, and names of files. Loads neither torch nor jax.
"""

from __future__ import annotations

from collections.abc import Iterable

from beit.checkpoints.catalogue_data import PUBLISHED, Published

_BY_NAME = {
    name.lower(): entry
    for entry in PUBLISHED
    for name in (entry.name, *entry.aliases, *(form.where for form in entry.forms))
}

# To fine-tune on a folder of one's own: a good one of base size, which has seen many kinds of things.
RECOMMENDED = "beitv2-base-patch16-224-pt1k-ft21k"

# (what people look for, what there is instead)
NOT_PUBLISHED: tuple[tuple[str, str], ...] = (
    (
        "BEiT or BEiT v2 of another size (tiny, small, huge, giant)",
        "The authors publish base and large only. mmpretrain's beit-g-* are EVA, another architecture.",
    ),
    (
        "BEiT v1 pre-trained on ImageNet-1k by the authors, with relative positions",
        "Their one file of ImageNet-1k, beit-base-patch16-224-pt1k-800e, has absolute positions, no fine-tuned form. "
        "beit-base-patch16-224-pt1k-300e-openmmlab has relative ones. There is no large one.",
    ),
    (
        "BEiT v1 fine-tuned on ImageNet-1k without ImageNet-22k labels (pt22k-ft1k), for transformers or timm",
        "Only the authors' .pth files exist; transformers' conversion script refuses their names.",
    ),
    ("BEiT v1 or v2 as pre-trained, for timm", "timm has the classifiers; its list has no weights before fine-tuning."),
    (
        "BEiT v2 for transformers",
        "The authors' page links .pth files only; timm has the classifiers in its own layout.",
    ),
    ("BEiT v2 at 384 or 512 pixels", "Its classifiers are all of 224 pixels; its segmenters of 512."),
    ("BEiT v2 with an object detector", "Its page says «Under preparation»."),
    ("BEiT or BEiT v2's accuracy on ImageNet-22k", "No page gives it for the models fine-tuned there."),
    ("mIoU of BEiT v2 over several scales and flips", "Its page has one scale only."),
    (
        "Flax weights of segmenters, DiT or data2vec",
        "The Hub has flax_model.msgpack, beside PyTorch's weights, for BEiT v1's classifiers and pre-trained models only. "
        "No checkpoint is in Flax alone.",
    ),
    (
        "DiT for layout, tables or text",
        "These are published, as Mask R-CNN and Cascade R-CNN of detectron2 around DiT; detectors are not listed here.",
    ),
    ("DiT's tokenizer", "Its page links none; DALL-E's and BEiT v2's are other vocabularies."),
    (
        "data2vec-vision for segmentation",
        "transformers has the class; its example loads data2vec-vision-base, whose file has no such head.",
    ),
    ("VL-BEiT", "Its page announces the paper and links no weights."),
    (
        "BEiT-3",
        "Published, but another architecture (Magneto with experts for each modality); timm has its image part as "
        "beit3_base_patch16_224 and beit3_large_patch16_224, and their giants without weights.",
    ),
    (
        "BEiT v2's tokenizers (VQ-KD)",
        "Published as vqkd_encoder_base_decoder_*.pth, but they are tokenizers and no BEiT; not listed here.",
    ),
)


def find(name: str) -> Published | None:
    """Find a checkpoint by its name, an alias, a Hub id, a URL or the name of its file; upper case does not matter.

    Returns:
        None if no checkpoint has this name, or several have.
    """
    return _BY_NAME.get(name.strip().lower())


def names() -> list[str]:
    """What checkpoints are called: our names, then the ids of the Hub."""
    ids = [form.where for entry in PUBLISHED for form in entry.forms if form.kind in ("hf", "timm")]
    return [*(entry.name for entry in PUBLISHED), *ids]


def table(entries: Iterable[Published]) -> str:
    """A table as text, one line per checkpoint: name, task, millions of parameters, pixels, top-1 or mIoU, layouts."""
    lines = [f"{'name':52} {'task':10} {'million':>7} {'pixels':>6} {'score':>10}  as"]
    for entry in entries:
        score = "not given"
        if entry.miou is not None:
            score = f"{entry.miou:.1f} mIoU"
        elif entry.top1 is not None:
            score = f"{entry.top1:.1f} top1"
        kinds = ", ".join(form.kind for form in entry.forms)
        lines.append(
            f"{entry.name:52} {entry.task:10} {entry.parameters:7.1f} {entry.resolution:6} {score:>10}  {kinds}"
        )
    return "\n".join(lines)


def page(entry: Published) -> str:
    """Everything about one checkpoint, as text."""
    scores = {
        "top-1": entry.top1,
        "top-5": entry.top5,
        "mIoU": entry.miou,
        "mIoU at several scales": entry.miou_multi_scale,
    }
    given = ", ".join(f"{what} {score}" for what, score in scores.items() if score is not None)
    facts = {
        "size": f"{entry.size}, {entry.parameters:g} million parameters, images of {entry.resolution} pixels",
        "task": entry.task + (f", {entry.classes} classes" if entry.classes else ""),
        "training": entry.training,
        "scores": given or "not published",
        "pixels": "mean and deviation 0.5" if entry.mean_std == "half" else "ImageNet's mean and deviation",
        "licence": entry.licence,
        "source": entry.source,
        "also called": ", ".join(entry.aliases),
        "note": entry.note,
    }
    lines = [entry.name, *(f"  {what:12} {fact}" for what, fact in facts.items() if fact)]
    return "\n".join([*lines, *(f"  {form.kind:12} {form.where}" for form in entry.forms)])
