"""A classifier on frozen features: a logistic regression on the best layer, as an ordinary model that predicts.

images → frozen layers → mean of the patches of layer l → layer norm → logistic regression, for every l and several strengths
       → the best by the images to measure on → `BeitForImageClassification` of l layers, with this regression as its head
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.core.progress import progress_bar
from beit.data.processor import BeitImageProcessor
from beit.data.sources.images import Images
from beit.evaluation.scores import wilson
from beit.inference.torch.features import Features, body_of, layer_features
from beit.models.torch.beit import BeitForImageClassification, BeitPreTrainedModel

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of the penalty on the squares of the weights
_ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class FrozenClassifier:
    """A classifier of which only the head was trained.

    Attributes:
        model: all its weights; in evaluation mode.
        layer: how many layers it has: those of the model that it was made of, from the first.
        strength: of the penalty.
        right: how many images to measure on it classifies right.
        count: how many there are. Layer and strength were chosen by them, so `right` is a little optimistic.
    """

    model: BeitForImageClassification
    layer: int
    strength: float
    right: int
    count: int

    def __str__(self) -> str:
        low, high = wilson(self.right, self.count)
        return (
            f"logistic regression on layer {self.layer}: top-1 {self.right / self.count:.1%} (95 % interval {low:.1%} to {high:.1%}) "
            f"on {self.count} images, by which layer and penalty were chosen"
        )


def frozen_classifier(
    model: BeitPreTrainedModel,
    processor: BeitImageProcessor,
    images: Images,
    validation: Images,
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> FrozenClassifier:
    """Train a head on frozen layers.

    Args:
        model: any BEiT model; not changed.
        processor: its image processor.
        images: labelled images to learn from.
        validation: labelled images to choose by, of the same classes.
        layers, batch_size, device, progress: as for `layer_features`.

    Raises:
        DataError, CheckpointError: as for `layer_features`.
    """
    known, asked = (
        layer_features(model, processor, part, layers, batch_size, device, progress=progress)
        for part in (images, validation)
    )
    config = body_of(model).config
    tokens, questions = (_normed(part, config.layer_norm_eps) for part in (known, asked))
    labels, truth = torch.from_numpy(known.labels), torch.from_numpy(asked.labels)
    found: list[tuple[tuple[int, float], int, float, Tensor, Tensor]] = []
    for place in progress_bar(range(len(known.layers)), purpose="a probe", shown=progress, desc="heads", unit="layer"):
        for strength in STRENGTHS:
            weight, bias = logistic_regression(tokens[:, place], labels, len(images.classes), strength)
            logits = questions[:, place] @ weight + bias
            order = int((logits.argmax(1) == truth).sum()), -float(F.cross_entropy(logits, truth))
            found.append((order, known.layers[place], strength, weight, bias))
    (right, _), layer, strength, weight, bias = max(found, key=lambda entry: entry[0])
    made = _assembled(model, layer, images.classes, weight, bias)
    return FrozenClassifier(made, layer, strength, right, len(truth))


def _normed(features: Features, eps: float) -> Tensor:
    """The means of the patches after a layer norm without weights, as `BeitForImageClassification` takes them, `(n, L, C)`."""
    half = features.tokens.shape[2] // 2
    patches = features.tokens[..., half:].float()
    return F.layer_norm(patches, patches.shape[-1:], eps=eps)


def logistic_regression(features: Tensor, labels: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Weights `(D, classes)` and bias `(classes,)` with the least mean cross-entropy plus a penalty, by L-BFGS.

    The features are standardised for it; the penalty is half the strength times the sum of the squares of those weights.

    Args:
        features: `(n, D)`.
        labels: class numbers `(n,)`.
        classes: how many there are.
        strength: of the penalty.
    """
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    deviation = deviation.clamp_min(1e-6)
    ready = (features - mean) / deviation
    weight = torch.zeros(features.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = F.cross_entropy(ready @ weight + bias, labels) + strength / 2 * weight.square().sum()
            value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        plain = weight / deviation[:, None]
        return plain, bias - mean @ plain


def _assembled(
    model: BeitPreTrainedModel, layer: int, classes: Sequence[str], weight: Tensor, bias: Tensor
) -> BeitForImageClassification:
    body = body_of(model)
    config = body.config.replace(
        num_hidden_layers=layer,
        use_mean_pooling=True,
        use_mask_token=False,
        drop_path_rate=0.0,
        problem_type=None,
        id2label=dict(enumerate(classes)),
        **_without_taps(body.config.to_dict()),
    )
    made = BeitForImageClassification(config)
    own = made.beit.state_dict()
    made.beit.load_state_dict({**own, **{name: value for name, value in body.state_dict().items() if name in own}})
    head = made.classifier
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        norm = None if made.beit.pooler is None else made.beit.pooler.layernorm
        assert norm is not None
        norm.weight.fill_(1)
        norm.bias.zero_()
        head.weight.copy_(weight.T)
        head.bias.copy_(bias)
    return made.eval()


def _without_taps(config: dict[str, object]) -> dict[str, None]:
    """The layers that a backbone or a segmentation head sees are others now: left to the default."""
    return {name: None for name in ("out_features", "out_indices", "segmentation_layers") if name in config}
