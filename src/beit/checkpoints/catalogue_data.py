"""The data of the catalogue: one row per published checkpoint, and the rules that complete it. `catalogue.py` looks it up.

Names follow one rule. BEiT and BEiT v2: family-size-patch16-pixels-stages. A stage is pt (self-supervised) or ft (fine-tuned) with
its data, 300e (a number of epochs, where it is not the usual one), or ade20k (segmentation). DiT and data2vec, which have one
resolution, are family-size-stages. Names of checkpoints that OpenMMLab trained end in `-openmmlab`.

Accuracies are those of the page in `source` and of no other; where it gives none, they are None.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

Kind = Literal["hf", "timm", "unilm", "openmmlab"]
Task = Literal["pretrained", "classify", "segment"]
Family = Literal["beit", "beitv2", "dit", "data2vec"]
Size = Literal["base", "large"]


@dataclass(frozen=True)
class Form:
    """One place where a checkpoint's weights can be downloaded.

    Attributes:
        kind: `hf` is a model folder of transformers and `timm` one of timm, both on the Hub; `unilm` is a file whose
            tensors are named as in the authors' repository, as are those of DiT and data2vec; `openmmlab` is a file of
            mmpretrain or mmsegmentation.
        where: the Hub's id, or the URL of the file.
        sha256: SHA-256 of the file's content, where its publisher states it; none does so far.
        sha256_prefix: its first 8 digits, where the file's name ends with them, as OpenMMLab's names do.
    """

    kind: Kind
    where: str
    sha256: str | None = None
    sha256_prefix: str | None = None


@dataclass(frozen=True)
class Published:
    """A published checkpoint. The same weights in several layouts are one entry with several `forms`.

    Attributes:
        name: our name, in lower case, unique.
        family: `beit`, `beitv2`, `dit` or `data2vec`.
        size: `base` or `large`.
        parameters: in millions: the encoder and the head for the task, without what only pre-training uses (the head for
            visual tokens, BEiT v2's two further blocks). Counted from the architecture; for segmentation models the
            authors' figure.
        resolution: side in pixels of the images, or of the crops, of the last stage of training.
        task: `pretrained` (no head for a task), `classify` or `segment`.
        training: the stages of training, in order.
        classes: number of classes; None for pretrained ones.
        top1: accuracy in percent on the validation images of ImageNet-1k (DiT: RVL-CDIP); None where it is not published.
        top5: as `top1`, for the first five answers.
        miou: mean intersection over union in percent on the validation images of ADE20K, at one scale; None where it is not
            published.
        miou_multi_scale: as `miou`, over several scales and flips.
        licence: as stated where the weights are; places disagree.
        mean_std: how its makers normalised pixels: `half` (mean and deviation 0.5) or `imagenet` (those of ImageNet).
        forms: the places. Their files may differ by rounding, not in what they compute.
        aliases: names that `find` takes besides `name`: the last part of each place.
        note: what a user must know; "" for nothing.
        source: the page with the accuracies; where there are none, the page that publishes the file.
    """

    name: str
    family: Family
    size: Size
    parameters: float
    resolution: int
    task: Task
    training: str
    classes: int | None
    top1: float | None
    top5: float | None
    miou: float | None
    miou_multi_scale: float | None
    licence: str
    mean_std: Literal["half", "imagenet"]
    forms: tuple[Form, ...]
    aliases: tuple[str, ...]
    note: str
    source: str


# Name, millions of parameters, top-1 and top-5 (segmentation: mIoU at one scale and at several); then the places: the
# Hub's id, or what follows the family's address in _FILES.
_ROWS = """
beit-base-patch16-224-pt22k                             85.67     -      -
    hf         microsoft/beit-base-patch16-224-pt22k
    unilm      beit_base_patch16_224_pt22k.pth
beit-base-patch16-224-pt22k-ft22k                      102.56     -      -
    hf         microsoft/beit-base-patch16-224-pt22k-ft22k
    timm       timm/beit_base_patch16_224.in22k_ft_in22k
    unilm      beit_base_patch16_224_pt22k_ft22k.pth
beit-base-patch16-224-pt22k-ft1k                        86.53   83.7   96.6
    unilm      beit_base_patch16_224_pt22k_ft1k.pth
beit-base-patch16-224-pt22k-ft22k-ft1k                  86.53   85.2   97.6
    hf         microsoft/beit-base-patch16-224
    timm       timm/beit_base_patch16_224.in22k_ft_in22k_in1k
    unilm      beit_base_patch16_224_pt22k_ft22kto1k.pth
    openmmlab  mmclassification/v0/beit/beit-base_3rdparty_in1k_20221114-c0a4df23.pth
beit-base-patch16-384-pt22k-ft22k-ft1k                  86.74   86.8   98.1
    hf         microsoft/beit-base-patch16-384
    timm       timm/beit_base_patch16_384.in22k_ft_in22k_in1k
    unilm      beit_base_patch16_384_pt22k_ft22kto1k.pth
beit-large-patch16-224-pt22k                           303.14     -      -
    hf         microsoft/beit-large-patch16-224-pt22k
    unilm      beit_large_patch16_224_pt22k.pth
beit-large-patch16-224-pt22k-ft22k                     325.79     -      -
    hf         microsoft/beit-large-patch16-224-pt22k-ft22k
    timm       timm/beit_large_patch16_224.in22k_ft_in22k
    unilm      beit_large_patch16_224_pt22k_ft22k.pth
beit-large-patch16-224-pt22k-ft1k                      304.43   86.0   97.6
    unilm      beit_large_patch16_224_pt22k_ft1k.pth
beit-large-patch16-224-pt22k-ft22k-ft1k                304.43   87.4   98.3
    hf         microsoft/beit-large-patch16-224
    timm       timm/beit_large_patch16_224.in22k_ft_in22k_in1k
    unilm      beit_large_patch16_224_pt22k_ft22kto1k.pth
beit-large-patch16-384-pt22k-ft22k-ft1k                305.00   88.4   98.6
    hf         microsoft/beit-large-patch16-384
    timm       timm/beit_large_patch16_384.in22k_ft_in22k_in1k
    unilm      beit_large_patch16_384_pt22k_ft22kto1k.pth
beit-large-patch16-512-pt22k-ft22k-ft1k                305.67   88.60  98.66
    hf         microsoft/beit-large-patch16-512
    timm       timm/beit_large_patch16_512.in22k_ft_in22k_in1k
    unilm      beit_large_patch16_512_pt22k_ft22kto1k.pth
beit-base-patch16-640-pt22k-ft22k-ade20k               163      53.6   54.2
    hf         microsoft/beit-base-finetuned-ade-640-640
    unilm      beit_base_patch16_640_pt22k_ft22ktoade20k.pth
beit-large-patch16-640-pt22k-ft22k-ade20k              441      56.7   57.0
    hf         microsoft/beit-large-finetuned-ade-640-640
    unilm      beit_large_patch16_640_pt22k_ft22ktoade20k.pth
beit-base-patch16-224-pt1k-800e                         85.79     -      -
    unilm      beit_base_patch16_224_pt1k_800ep.pth
beit-base-patch16-224-pt1k-300e-openmmlab               85.67     -      -
    openmmlab  mmselfsup/1.x/beit/{beit}/{beit}_20221128-ab79e626.pth
beit-base-patch16-224-pt1k-300e-ft1k-openmmlab          86.53   83.1     -
    openmmlab  mmselfsup/1.x/beit/{beit}/{ft}/{ft}_20221128-0ca393e9.pth
beit-base-patch16-640-pt22k-ft22k-ade20k-openmmlab     163     53.08  53.84
    openmmlab  mmsegmentation/v0.5/beit/{ade_base}/{ade_base}-eead221d.pth
beit-large-patch16-640-pt22k-ft22k-ade20k-openmmlab    441     56.33  56.84
    openmmlab  mmsegmentation/v0.5/beit/{ade_large}/{ade_large}-8fc0dd5d.pth

beitv2-base-patch16-224-pt1k                            85.67     -      -
    unilm      beitv2_base_patch16_224_pt1k.pth
beitv2-base-patch16-224-pt1k-300e                       85.67     -      -
    unilm      beitv2_base_patch16_224_pt1k_300e.pth
beitv2-base-patch16-224-pt1k-ft21k                     102.56     -      -
    timm       timm/beitv2_base_patch16_224.in1k_ft_in22k
    unilm      beitv2_base_patch16_224_pt1k_ft21k.pth
beitv2-base-patch16-224-pt1k-300e-ft1k                  86.53   85.0     -
    unilm      beitv2_base_patch16_224_pt1k_300e_ft1k.pth
beitv2-base-patch16-224-pt1k-ft1k                       86.53   85.5   97.5
    timm       timm/beitv2_base_patch16_224.in1k_ft_in1k
    unilm      beitv2_base_patch16_224_pt1k_ft1k.pth
beitv2-base-patch16-224-pt1k-ft21k-ft1k                 86.53   86.5   98.0
    timm       timm/beitv2_base_patch16_224.in1k_ft_in22k_in1k
    unilm      beitv2_base_patch16_224_pt1k_ft21kto1k.pth
    openmmlab  mmclassification/v0/beit/beitv2-base_3rdparty_in1k_20221114-73e11905.pth
beitv2-large-patch16-224-pt1k                          303.14     -      -
    unilm      beitv2_large_patch16_224_pt1k.pth
beitv2-large-patch16-224-pt1k-300e                     303.14     -      -
    unilm      beitv2_large_patch16_224_pt1k_300e.pth
beitv2-large-patch16-224-pt1k-ft21k                    325.79     -      -
    timm       timm/beitv2_large_patch16_224.in1k_ft_in22k
    unilm      beitv2_large_patch16_224_pt1k_ft21k.pth
beitv2-large-patch16-224-pt1k-300e-ft1k                304.43   86.6     -
    unilm      beitv2_large_patch16_224_pt1k_300e_ft1k.pth
beitv2-large-patch16-224-pt1k-ft1k                     304.43   87.3   98.2
    timm       timm/beitv2_large_patch16_224.in1k_ft_in1k
    unilm      beitv2_large_patch16_224_pt1k_ft1k.pth
beitv2-large-patch16-224-pt1k-ft21k-ft1k               304.43   88.4   98.6
    timm       timm/beitv2_large_patch16_224.in1k_ft_in22k_in1k
    unilm      beitv2_large_patch16_224_pt1k_ft21kto1k.pth
beitv2-base-patch16-512-pt1k-ade20k                    163      53.1     -
    unilm      beitv2_base_patch16_224_pt1k_ftade20k.pth
beitv2-base-patch16-512-pt1k-ft21k-ade20k              163      53.5     -
    unilm      beitv2_base_patch16_224_pt1k_ft21ktoade20k.pth
beitv2-large-patch16-512-pt1k-ade20k                   441      56.7     -
    unilm      beitv2_large_patch16_224_pt1k_ftade20k.pth
beitv2-large-patch16-512-pt1k-ft21k-ade20k             441      57.5     -
    unilm      beitv2_large_patch16_224_pt1k_ft21ktoade20k.pth
beitv2-base-patch16-224-pt1k-300e-openmmlab             85.67     -      -
    openmmlab  mmselfsup/1.x/beitv2/{beitv2}/{beitv2}_20221212-a157be30.pth
beitv2-base-patch16-224-pt1k-300e-ft1k-openmmlab        86.53   85.0     -
    openmmlab  mmselfsup/1.x/beitv2/{beitv2}/{ft}/{ft}_20221212-d1c0789e.pth

dit-base                                                85.81     -      -
    hf         microsoft/dit-base
    unilm      dit-pts/dit-base-224-p16-500k-62d53a.pth
dit-large                                              303.33     -      -
    hf         microsoft/dit-large
    unilm      dit-pts/dit-large-224-p16-500k-d7a2fb.pth
dit-base-rvlcdip                                        85.82  92.11     -
    hf         microsoft/dit-base-finetuned-rvlcdip
    unilm      dit-fts/rvlcdip_dit-b.pth
dit-large-rvlcdip                                      303.34  92.69     -
    hf         microsoft/dit-large-finetuned-rvlcdip
    unilm      dit-fts/rvlcdip_dit-l.pth

data2vec-vision-base                                    85.67     -      -
    hf         facebook/data2vec-vision-base
    unilm      base_800/checkpoint-799.pth
data2vec-vision-large                                  303.14     -      -
    hf         facebook/data2vec-vision-large
data2vec-vision-large-800e                             303.14     -      -
    unilm      large_800/checkpoint-799.pth
data2vec-vision-large-1600e                            303.14     -      -
    unilm      large_1600/checkpoint-799.pth
data2vec-vision-base-ft1k                               86.53   84.2     -
    hf         facebook/data2vec-vision-base-ft1k
    unilm      finetuned_base/checkpoint-99/mp_rank_00_model_states.pt
data2vec-vision-large-ft1k                             304.43   86.6     -
    hf         facebook/data2vec-vision-large-ft1k
    unilm      finetuned_large/checkpoint-49/mp_rank_00_model_states.pt
"""
# Long names of folders and files of OpenMMLab, for the rows above.
_LONG = {
    "beit": "beit_vit-base-p16_8xb256-amp-coslr-300e_in1k",
    "beitv2": "beitv2_vit-base-p16_8xb256-amp-coslr-300e_in1k",
    "ft": "vit-base-p16_ft-8xb128-coslr-100e_in1k",
    "ade_base": "upernet_beit-base_8x2_640x640_160k_ade20k",
    "ade_large": "upernet_beit-large_fp16_8x1_640x640_160k_ade20k",
}
# The links that the authors' pages have today. Older pages link to conversationhub.blob, unilm.blob and layoutlm.blob, which had
# files of the same names.
_FILES = {
    "beit": "https://github.com/addf400/files/releases/download/v1.0/",
    "beitv2": "https://github.com/addf400/files/releases/download/BEiT-v2/",
    "dit": "https://huggingface.co/HYPJUDY/dit/resolve/main/",
    "data2vec": "https://dl.fbaipublicfiles.com/fairseq/data2vec/data2vec_vision/",
    "openmmlab": "https://download.openmmlab.com/",
}
_UNILM = "https://github.com/microsoft/unilm/"
_DATA2VEC = "https://github.com/facebookresearch/data2vec_vision/tree/main/beit"
_OPENMMLAB = "https://github.com/open-mmlab/"
_PAGES = {"beit": "tree/master/beit", "beitv2": "tree/master/beit2", "dit": "tree/master/dit"}
# Stage of fine-tuning → its data and number of classes. The authors of BEiT v2 write 21k for the same classes.
_TUNED = {
    "ft22k": ("ImageNet-22k", 21841),
    "ft21k": ("ImageNet-22k", 21841),
    "ft1k": ("ImageNet-1k", 1000),
    "ade20k": ("ADE20K", 150),
    "rvlcdip": ("RVL-CDIP", 16),
}
_START = {
    "beit": "self-supervised on ImageNet-{}",
    "beitv2": "self-supervised on ImageNet-{}",
    "dit": "self-supervised on IIT-CDIP, 42 million images of documents",
    "data2vec": "self-supervised on ImageNet-1k",
}


class _Row(NamedTuple):
    """A row of the table, parsed.

    Attributes:
        stages: what follows size and resolution in the name, without `openmmlab`.
        own: whether OpenMMLab trained it.
    """

    name: str
    family: Family
    size: Size
    resolution: int
    stages: list[str]
    own: bool
    millions: float
    figures: tuple[float | None, float | None]
    places: list[tuple[Kind, str]]

    @property
    def task(self) -> Task:
        if "ade20k" in self.stages:
            return "segment"
        return "classify" if any(stage in _TUNED for stage in self.stages) else "pretrained"


def _rows() -> Iterable[_Row]:
    for block in re.split(r"\n+(?=\S)", _ROWS.strip()):
        head, *lines = block.splitlines()
        name, millions, first, second = head.split()
        parts = re.fullmatch(r"(beit|beitv2|dit|data2vec)(?:-vision)?-(base|large)(?:-patch16-(\d+))?(?:-(.+))?", name)
        assert parts is not None, name
        family, size, pixels, rest = cast(tuple[Family, Size, str | None, str | None], parts.groups())
        stages = (rest or "").split("-")
        places: list[tuple[Kind, str]] = []
        for line in lines:
            kind, where = cast(tuple[Kind, str], line.split())
            if kind in ("unilm", "openmmlab"):
                where = _FILES[family if kind == "unilm" else kind] + where.format(**_LONG)
            places.append((kind, where))
        yield _Row(
            name=name,
            family=family,
            size=size,
            resolution=int(pixels or 224),
            stages=[stage for stage in stages if stage != "openmmlab"],
            own="openmmlab" in stages,
            millions=float(millions),
            figures=(_figure(first), _figure(second)),
            places=places,
        )


def _figure(text: str) -> float | None:
    return None if text == "-" else float(text)


def _training(row: _Row) -> str:
    data = row.stages[0].removeprefix("pt")
    text = _START[row.family].format(data)
    epochs = [stage for stage in row.stages if re.fullmatch(r"\d+e", stage)]
    if epochs:
        text += f" for {epochs[0].removesuffix('e')} epochs"
    elif row.family == "beitv2":
        text += " for 1600 epochs"  # PRETRAINING.md, get_started_for_image_classification.md
    elif row.family == "data2vec" and row.size == "base":
        text += " for 800 epochs"
    tuned = [_TUNED[stage][0] for stage in row.stages if stage in _TUNED]
    return text + (f", then fine-tuned on {' and '.join(tuned)}" if tuned else "")


def _mean_std(row: _Row) -> Literal["half", "imagenet"]:
    # Segmentation: img_norm_cfg of the authors' and mmsegmentation's data sets.
    if row.task == "segment":
        return "imagenet"
    # Every command of beit2/*.md has --imagenet_default_mean_and_std; timm's and mmpretrain's configs agree.
    if row.family == "beitv2":
        return "imagenet"
    # beit/README.md has that flag for pre-training on ImageNet-1k only; mmpretrain does the same in both of its own runs.
    # timm and the Hub have 0.5. data2vec's README has the flag for pre-training, not for fine-tuning.
    if row.task == "pretrained" and ("pt1k" in row.stages or row.family == "data2vec"):
        return "imagenet"
    # DiT: no flag in dit/classification/README.md, 127.5 in its detectors' configs, 0.5 on the Hub.
    return "half"


def _licence(row: _Row) -> str:
    if row.own:
        return "Apache-2.0"
    # READMEs and LICENSE files license the whole project; none of them mentions the weights.
    authors = "CC-BY-NC" if row.family == "data2vec" else "MIT"
    on_hub = {kind for kind, _ in row.places} & {"hf", "timm"}
    if row.family == "dit" or not on_hub:  # the Hub states none for DiT
        return authors
    return f"{authors} (authors), Apache-2.0 (Hub)"


def _source(row: _Row) -> str:
    if row.own:
        project = "mmsegmentation" if row.task == "segment" else "mmpretrain"
        return f"{_OPENMMLAB}{project}/tree/main/configs/{'beit' if row.task == 'segment' else row.family}"
    if row.family == "data2vec":
        return "https://arxiv.org/abs/2202.03555" if row.task == "classify" else _DATA2VEC
    if row.family == "beitv2" and "300e" in row.stages:
        page = "PRETRAINING.md" if row.task == "pretrained" else "get_started_for_image_classification.md"
        return f"{_UNILM}blob/master/beit2/{page}"
    return _UNILM + _PAGES[row.family]


def _note(row: _Row) -> str:
    """What a user must know. These are rules instead of a column, because a note holds for all checkpoints of a kind."""
    notes = []
    kinds = {kind for kind, _ in row.places}
    if row.stages[-1] in ("ft22k", "ft21k"):
        notes.append("Its classes are the sorted WordNet ids of ImageNet-22k; no accuracy on them is published.")
        if "hf" in kinds:  # its conversion script deletes two of 21,843 names and does not renumber the rest
            notes.append(
                "In the Hub's config the names of classes skip the numbers 9205 and 15027, so from 9205 on each number "
                "is one or two too high. beit renumbers them."
            )
    if "800e" in row.stages and row.family == "beit":
        notes.append(
            "Absolute positions, no relative-position bias, no layer scale; published to show its attention maps."
        )
    if row.family == "beitv2" and row.task == "pretrained":
        notes.append(
            "The file holds its tokenizer too, 192.8 million parameters in all."
            if row.own
            else "Two blocks in the file (cls_pt_layers) are used in pre-training only."
        )
    if row.task == "segment" and "hf" in kinds:
        notes.append(
            "The Hub's processor normalises by 0.5, as the conversion script does; the authors trained and measured "
            "with ImageNet's mean. transformers reads other layers than the authors: see segmentation_layers."
        )
    if row.task == "segment" and row.family == "beitv2":
        notes.append("Crops of 512 pixels, though the file's name says 224.")
    if len(kinds) > 1 and "openmmlab" in kinds:
        measured = {"beit": "85.28 and 97.59", "beitv2": "86.47 and 97.99"}[row.family]
        notes.append(f"OpenMMLab measures {measured} with the same weights.")
    if row.family == "dit":
        notes.append("For scans of documents. Absolute positions, no relative-position bias.")
        if row.task == "classify":
            notes.append("Accuracy on RVL-CDIP.")
    if row.family == "data2vec":
        if row.task == "pretrained":
            notes.append("It predicts a teacher's features, not visual tokens, so its lm_head gives no tokens.")
            if "hf" in kinds:
                notes.append("The Hub's processor normalises by 0.5, the authors' command by ImageNet's mean.")
            if row.name == "data2vec-vision-large":
                notes.append("Its page does not say whether this is the model of 800 or of 1600 epochs.")
        else:
            notes.append("The accuracy is the paper's, which names no file. The authors' file was saved by DeepSpeed.")
    return " ".join(notes)


def _entry(row: _Row, shared: set[str]) -> Published:
    first, second = row.figures
    forms = []
    for kind, where in row.places:
        prefix = re.search(r"-([0-9a-f]{8})\.pth$", where) if kind == "openmmlab" else None
        forms.append(Form(kind, where, sha256_prefix=prefix[1] if prefix else None))
    segments = row.task == "segment"
    aliases = [alias for _, where in row.places for alias in _last_parts(where) if alias not in shared]
    return Published(
        name=row.name,
        family=row.family,
        size=row.size,
        parameters=row.millions,
        resolution=row.resolution,
        task=row.task,
        training=_training(row),
        classes=None if row.task == "pretrained" else _TUNED[row.stages[-1]][1],
        top1=None if segments else first,
        top5=None if segments else second,
        miou=first if segments else None,
        miou_multi_scale=second if segments else None,
        licence=_licence(row),
        mean_std=_mean_std(row),
        forms=tuple(forms),
        aliases=tuple(alias for alias in dict.fromkeys(aliases) if alias != row.name),
        note=_note(row),
        source=_source(row),
    )


def _last_parts(where: str) -> list[str]:
    """The last part of a place, with and without its suffix: beit_x.pth and beit_x."""
    last = where.rpartition("/")[2].lower()
    return [last, re.sub(r"\.(pth|pt)$", "", last)] if "://" in where else [last]


def _catalogue() -> tuple[Published, ...]:
    rows = list(_rows())
    # All files of data2vec have the same name, which therefore names none of them.
    counts = Counter(alias for row in rows for _, where in row.places for alias in set(_last_parts(where)))
    return tuple(_entry(row, {alias for alias, count in counts.items() if count > 1}) for row in rows)


PUBLISHED: tuple[Published, ...] = _catalogue()
