"""The table of signatures in `docs/transformers.md`: each public method and attribute of the reference's classes beside ours.

    PYTHONPATH= <environment with transformers 4.37.2, jax 0.4.23, flax 0.8.0, peft>/bin/python tests/peers/signatures.py \
        --ours PYTHON [--write docs/transformers.md]

PYTHON, of our environment (the two need different versions of JAX), describes our classes. Prints Markdown; `--write` puts it
into the page, between its two marks. Exits with 1 when a difference has no reason in `REASONS`, or a reason no difference.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

MARKS = ("<!-- signatures -->", "<!-- /signatures -->")
CONFIG = "BeitConfig"
PROCESSOR = "BeitImageProcessor"
MODELS = (
    "BeitModel",
    "BeitForMaskedImageModeling",
    "BeitForImageClassification",
    "BeitForSemanticSegmentation",
    "BeitBackbone",
)
FLAX = ("FlaxBeitModel", "FlaxBeitForMaskedImageModeling", "FlaxBeitForImageClassification")
# Our output → the reference's module and name.
OUTPUTS = {
    "BeitModelOutputWithPooling": ("transformers.models.beit.modeling_beit", "BeitModelOutputWithPooling"),
    "MaskedLMOutput": ("transformers.modeling_outputs", "MaskedLMOutput"),
    "ImageClassifierOutput": ("transformers.modeling_outputs", "ImageClassifierOutput"),
    "SemanticSegmenterOutput": ("transformers.modeling_outputs", "SemanticSegmenterOutput"),
    "BackboneOutput": ("transformers.modeling_outputs", "BackboneOutput"),
    "FlaxBeitModelOutputWithPooling": ("transformers.models.beit.modeling_flax_beit", "FlaxBeitModelOutputWithPooling"),
}

# Why a member differs or is absent, for sentences that serve several.
GENERATION = "Text generation: no BEiT generates text."
TEXT = "For language models. Files keep the value; the model does nothing with it."
LANGUAGE = "For language models: images have no vocabulary and no padding."
KEYWORDS = "After the first argument there are keywords only."
REGISTRY = "The Auto classes here know BEiT alone."
PEFT = "Ask PEFT itself: `peft.get_peft_model_state_dict(model)`."
HUB = "Write tags into the model card."
MEMORY = "`torch.profiler` and `torch.cuda.memory_stats` measure memory."
RESIZE = "Load the model with `image_size=…`: positions are resized."
FUSED = "Attention is fused without it."
# (class or table, member) → why it differs or is absent. `*` is any class.
REASONS: dict[tuple[str, str], str] = {
    **{
        (CONFIG, name): TEXT
        for name in """add_cross_attention bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
        cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping
        encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id
        is_decoder is_encoder_decoder length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
        num_return_sequences output_scores pad_token_id prefix remove_invalid_values repetition_penalty
        return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
        tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p typical_p use_bfloat16 finetuning_task""".split()
    },
    (CONFIG, "dict_torch_dtype_to_str"): "Inside `to_dict`; types are written by their names.",
    (CONFIG, "pruned_heads"): "Heads are not removed: see `prune_heads`.",
    (CONFIG, "transformers_version"): "A file's value is kept.",
    ("*", "register_for_auto_class"): REGISTRY,
    ("*", "push_to_hub"): KEYWORDS,
    ("*", "from_pretrained"): KEYWORDS,
    (PROCESSOR, "fetch_images"): "Nothing is fetched from addresses: open the image yourself.",
    (PROCESSOR, "center_crop"): "An unknown keyword is an error.",
    (PROCESSOR, "normalize"): "An unknown keyword is an error.",
    (PROCESSOR, "rescale"): "An unknown keyword is an error.",
    (PROCESSOR, "resize"): "An unknown keyword is an error.",
    ("All PyTorch models", "active_adapter"): "Ask the adapted layers: `layer.active_adapter`.",
    ("All PyTorch models", "active_adapters"): "Ask the adapted layers: `layer.active_adapters`.",
    ("All PyTorch models", "get_adapter_state_dict"): PEFT,
    ("All PyTorch models", "add_adapter"): "The name that PEFT gives where none is given.",
    (
        "All PyTorch models",
        "load_adapter",
    ): "Takes a folder that PEFT wrote; for more, use `peft.PeftModel.from_pretrained`.",
    ("All PyTorch models", "add_memory_hooks"): MEMORY,
    ("All PyTorch models", "reset_memory_hooks_state"): MEMORY,
    ("All PyTorch models", "add_model_tags"): HUB,
    ("All PyTorch models", "model_tags"): HUB,
    ("All PyTorch models", "create_extended_attention_mask_for_decoder"): LANGUAGE,
    ("All PyTorch models", "get_extended_attention_mask"): LANGUAGE,
    ("All PyTorch models", "invert_attention_mask"): LANGUAGE,
    ("All PyTorch models", "warn_if_padding_and_no_attention_mask"): LANGUAGE,
    ("All PyTorch models", "estimate_tokens"): "`floating_point_ops` counts patches itself.",
    ("All PyTorch models", "generation_config"): GENERATION,
    ("All PyTorch models", "get_head_mask"): "Each call takes `head_mask` as `(heads,)` or `(L, heads)`.",
    ("All PyTorch models", "get_position_embeddings"): RESIZE,
    ("All PyTorch models", "resize_position_embeddings"): RESIZE,
    ("All PyTorch models", "prune_heads"): (
        "Refused: folders have no place for layers of different widths, and with relative positions transformers fails too. "
        "`head_mask` gives the same outputs."
    ),
    ("All PyTorch models", "resize_token_embeddings"): "Refused: images have no vocabulary of words.",
    ("All PyTorch models", "retrieve_modules_from_names"): "`model.get_submodule(name)` finds a module.",
    ("All PyTorch models", "to_bettertransformer"): FUSED,
    ("All PyTorch models", "reverse_bettertransformer"): FUSED,
    (
        "All PyTorch models",
        "save_pretrained",
    ): "None means that safetensors writes the file; a function is called as there.",
    (
        "BeitForMaskedImageModeling",
        "num_labels",
    ): "It has no classes; the number of visual tokens is `config.vocab_size`.",
    ("BeitForSemanticSegmentation", "compute_loss"): "Call the model with `labels`.",
    ("BeitBackbone", "backbone_type"): "It is a BEiT, never timm's.",
    ("BeitBackbone", "use_timm_backbone"): "It is a BEiT, never timm's.",
    ("BeitBackbone", "forward_with_filtered_kwargs"): "Call the model with the arguments of `forward`.",
    ("BeitBackbone", "to_dict"): "`model.config.to_dict()`.",
    ("All Flax models", "init_weights"): "Parameters do not depend on the images' shape.",
    ("All Flax models", "load_flax_weights"): "Inside `from_pretrained`.",
    ("All Flax models", "load_flax_sharded_weights"): "Inside `from_pretrained`.",
    ("All Flax models", "save_pretrained"): "safetensors by default, which both frameworks and transformers open.",
    **{(name, "__call__"): "Missing images are refused with a message." for name in FLAX},
    ("BackboneOutput", "__init__"): "No maps are an empty tuple.",
    ("BackboneOutput", "feature_maps"): "No maps are an empty tuple.",
}


# --- describing ------------------------------------------------------------------------------------------------------


def describe(kind: type, instance: Any, base: type | tuple[type, ...]) -> dict[str, Any]:
    """Name → what it is, of all public members that are not of `base`.

    A method is `{"parameters": [[name, kind, default], …]}`, anything else `{"value": text}` ("" where it says nothing).
    """
    names = {name for name in dir(kind) if not name.startswith("_")}
    names |= {name for name in getattr(instance, "__dict__", {}) if not name.startswith("_")}
    found: dict[str, Any] = {"__init__": parameters(kind.__init__)}
    if any("__call__" in vars(one) for one in kind.__mro__) and "__call__" not in dir(base):
        found["__call__"] = parameters(kind.__call__)
    for name in sorted(names):
        if any(name in dir(one) for one in (base if isinstance(base, tuple) else (base,))) and name != "forward":
            continue
        member = inspect.getattr_static(kind, name, None)
        value = getattr(kind, name, None)
        if isinstance(member, property) or member is None:
            found[name] = {"value": text_of(getattr(instance, name, None))}
        elif callable(value) and not isinstance(value, type):
            found[name] = parameters(value)
        else:
            found[name] = {"value": text_of(value)}
    return found


def text_of(value: Any) -> str:
    plain = (type(None), bool, int, float, str)
    if isinstance(value, tuple):
        value = list(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return repr(value) if all(isinstance(one, plain) for one in inner) and len(repr(value)) < 80 else ""


def parameters(function: Any) -> dict[str, Any]:
    """Parameters without self; a default is its text, or None for "must be given"."""
    try:
        given = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return {"parameters": None}  # written in C
    if given and given[0].name in ("self", "cls") and not inspect.ismethod(function):
        given = given[1:]
    return {"parameters": [[p.name, p.kind.name, default_of(p)] for p in given]}


def default_of(parameter: inspect.Parameter) -> str | None:
    if parameter.default is inspect.Parameter.empty:
        return None
    value = parameter.default
    if getattr(value, "__name__", "") == "float32" or str(value) == "float32":
        return "float32"
    value = getattr(value, "value", value)  # enumerations
    return repr(list(value) if isinstance(value, tuple) else value)


def describe_all(of: str) -> dict[str, Any]:
    """Everything of `transformers` or of `beit`."""
    module = __import__(of)
    import torch

    theirs = of == "transformers"
    small = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 8,
    }
    config = module.BeitConfig(**small, patch_size=4)
    dense = module.BeitConfig(
        **{**small, "num_hidden_layers": 4}, patch_size=4, out_indices=[1, 2, 3, 4], auxiliary_channels=8
    )
    found = {
        CONFIG: describe(module.BeitConfig, module.BeitConfig(), object),
        PROCESSOR: describe(module.BeitImageProcessor, module.BeitImageProcessor(), object),
    }
    for name in MODELS:
        kind = getattr(module, name)
        instance = kind(dense if "Segmentation" in name or "Backbone" in name else config)
        found[name] = describe(kind, instance, torch.nn.Module)
        for child in dict(instance.named_children()):
            found[name].pop(child, None)
    for name in FLAX:
        found[name] = describe(getattr(module, name), getattr(module, name)(config), object)
    for name, (path, other) in OUTPUTS.items():
        kind = getattr(__import__(path, fromlist=[other]), other) if theirs else getattr(module, name)
        found[name] = describe(kind, kind(), object)
    if theirs:
        from transformers.generation import FlaxGenerationMixin, GenerationMixin

        for mixin in (GenerationMixin, FlaxGenerationMixin):
            for name in dir(mixin):
                if not name.startswith("_") and name != "framework":
                    for kind in (*MODELS, *FLAX):
                        found[kind].pop(name, None)
    return found


# --- comparing -------------------------------------------------------------------------------------------------------

Parameter = list[Any]
NAMED = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")


def compare(theirs: dict[str, Any], ours: dict[str, Any] | None) -> tuple[str, str]:
    """What a member of ours is beside the reference's, and the details."""
    if ours is None:
        return "absent", ""
    if "parameters" not in theirs:
        if theirs["value"] and "value" in ours and ours["value"] != theirs["value"]:
            return "differs", f"{theirs['value']} there, {ours['value'] or 'another kind'} here"
        return ("same", "") if "value" in ours else ("differs", "an attribute there, a method here")
    if "parameters" not in ours:
        return "differs", "a method there, an attribute here"
    if theirs["parameters"] is None or ours["parameters"] is None:
        return "same", ""
    return compare_parameters(theirs["parameters"], ours["parameters"])


def compare_parameters(theirs: list[Parameter], ours: list[Parameter]) -> tuple[str, str]:
    if theirs == ours:
        return "same", ""
    wanted = [p for p in theirs if p[1] in NAMED]
    have = {p[0]: p for p in ours if p[1] in NAMED}
    takes_all = any(p[1] == "VAR_KEYWORD" for p in ours)
    missing = [p[0] for p in wanted if p[0] not in have]
    details = []
    if missing and not takes_all:
        details.append(f"lacks {code(missing)}")
    others = [f"{p[0]}={have[p[0]][2]}" for p in wanted if p[0] in have and p[2] != have[p[0]][2] and have[p[0]][2]]
    others += [p[0] for p in wanted if p[0] in have and have[p[0]][2] is None and p[2] is not None]
    if others:
        details.append(f"other defaults: {code(others)}")
    order = [p[0] for p in wanted if p[1] == "POSITIONAL_OR_KEYWORD"]
    own = [p[0] for p in ours if p[1] == "POSITIONAL_OR_KEYWORD"]
    if own[: len(order)] != order and not any(p[1] == "VAR_POSITIONAL" for p in ours):
        place = next(i for i, name in enumerate(order) if own[i : i + 1] != [name])
        here = f"`{own[place]}`" if place < len(own) else "by keyword only"
        details.append(f"argument {place + 1} is `{order[place]}` there, {here} here")
    if any(p[1] == "VAR_KEYWORD" for p in theirs) and not takes_all:
        details.append("no further keywords")
    if details:
        return "differs", "; ".join(details)
    if len(missing) == len(wanted) and any(p[1] == "VAR_POSITIONAL" for p in ours):
        return "more", "all arguments, and further fields"
    if missing:
        return "by keyword", code(missing)
    more = [name for name in have if name not in {p[0] for p in wanted}]
    return "more", code(more) if more else "further arguments"


def code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


WORDS = {
    "same": "the same",
    "more": "ours has more",
    "by keyword": "the same, as keywords",
    "differs": "differs",
    "absent": "absent",
}


class Page:
    """Tables of Markdown, and which reasons were used."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.used: set[tuple[str, str]] = set()
        self.unexplained: list[str] = []

    def reason(self, kind: str, member: str, result: str) -> str:
        for key in ((kind, member), ("*", member)):
            if key in REASONS:
                self.used.add(key)
                return REASONS[key]
        if result in ("differs", "absent"):
            self.unexplained.append(f"{kind}.{member}")
        return ""

    def table(self, title: str, kind: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
        results = {member: compare(what, ours.get(member)) for member, what in theirs.items()}
        explained = {member for member in results if self.reason(kind, member, "")}
        same = [member for member, (result, _) in results.items() if result == "same" and member not in explained]
        self.lines += [f"### {title}", ""]
        if same:
            self.lines += [f"The same: {code(same)}.", ""]
        joined: dict[tuple[str, str], list[str]] = {}
        for member, (result, details) in results.items():
            if member not in same:
                found = f"{WORDS[result]}{': ' * bool(details)}{details}"
                joined.setdefault((found, self.reason(kind, member, result)), []).append(member)
        rows = [f"| {code(members)} | {found} | {reason} |" for (found, reason), members in joined.items()]
        if rows:
            self.lines += ["| | ours | why |", "|---|---|---|", *rows, ""]

    def text(self) -> str:
        return "\n".join(self.lines).strip() + "\n"


def common(
    descriptions: dict[str, Any], ours: dict[str, Any], kinds: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Members that all classes have and that compare alike, of the reference and of ours."""
    first = kinds[0]
    theirs_, ours_ = {}, {}
    for member, what in descriptions[first].items():
        if member in ("__init__", "forward", "__call__"):
            continue
        if not all(member in descriptions[kind] for kind in kinds):
            continue
        results = {compare(descriptions[kind][member], ours[kind].get(member)) for kind in kinds}
        if len(results) == 1:
            theirs_[member] = what
            if member in ours[first]:
                ours_[member] = ours[first][member]
    return theirs_, ours_


def build(theirs: dict[str, Any], ours: dict[str, Any]) -> Page:
    page = Page()
    page.table(CONFIG, CONFIG, theirs[CONFIG], ours[CONFIG])
    page.table(PROCESSOR, PROCESSOR, theirs[PROCESSOR], ours[PROCESSOR])
    for title, kinds in (("All PyTorch models", MODELS), ("All Flax models", FLAX)):
        shared, shared_ours = common(theirs, ours, kinds)
        page.table(title, title, shared, shared_ours)
        for kind in kinds:
            own = {member: what for member, what in theirs[kind].items() if member not in shared}
            page.table(kind, kind, own, ours[kind])
    shared, shared_ours = common(theirs, ours, tuple(OUTPUTS)[:-1])
    page.table("All outputs", "outputs", shared, shared_ours)
    for kind in OUTPUTS:
        own = {member: what for member, what in theirs[kind].items() if member not in shared}
        page.table(kind, kind, own, ours[kind])
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", metavar="PYTHON", help="interpreter of our environment")
    parser.add_argument("--describe", action="store_true", help="only describe our classes (in our environment)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    arguments = parser.parse_args()
    if arguments.describe:
        print(json.dumps(describe_all("beit")))
        return 0
    if arguments.ours is None:
        parser.error("give --ours PYTHON")
    import transformers

    transformers.logging.set_verbosity_error()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    answer = subprocess.run(
        [arguments.ours, __file__, "--describe"], check=True, env=environment, stdout=subprocess.PIPE, text=True
    )
    page = build(describe_all("transformers"), json.loads(answer.stdout.splitlines()[-1]))
    print(page.text())
    if arguments.write:
        text = arguments.write.read_text(encoding="utf-8")
        pattern = re.compile(f"{re.escape(MARKS[0])}.*{re.escape(MARKS[1])}", re.DOTALL)
        assert pattern.search(text), f"{arguments.write} lacks the marks {MARKS}"
        new = f"{MARKS[0]}\n\n{page.text()}\n{MARKS[1]}"
        arguments.write.write_text(pattern.sub(lambda _: new, text), encoding="utf-8")
    for what in page.unexplained:
        print(f"no reason for {what}", file=sys.stderr)
    unused = sorted(set(REASONS) - page.used)
    for kind, member in unused:
        print(f"no difference for the reason of {kind}.{member}", file=sys.stderr)
    return int(bool(page.unexplained or unused))


if __name__ == "__main__":
    sys.exit(main())
