"""What every method would train and send on a model, found out without any weights."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.backbone.empty import config_in, empty_model, known_config
from fedpeft_app.backbone.known import KNOWN
from fedpeft_app.backbone.locate import locate
from fedpeft_app.backbone.scratch import PREFIX
from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import Method, MethodSettings
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.record import STATE, Order, content_bytes, section_of, write_order

_FLOAT32_BYTES = 4
_MEASURABLE = 2**24  # values, all different in float32; more are not built only to be weighed


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCost:
    """What one method would send.

    Attributes:
        name: The method's.
        body: Parameters that train outside the head.
        head: Parameters of the head, if it is trained and sent.
        kept: Parameters of the body that train and are never sent.
        carried: Parameters that come from the server and never train.
        model: Parameters of the whole model, head included.
        up_bytes: Size of what a node sends after training as Flower serialises its content,
            head included; 0 if nothing is sent.
        down_bytes: Size of what it is sent, likewise.
        refused: Why the method does not fit the model; empty if it does.
    """

    name: str
    body: int = 0
    head: int = 0
    kept: int = 0
    carried: int = 0
    model: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    refused: str = ""

    @property
    def total(self) -> int:
        """Parameters that train, head included."""
        return self.body + self.head

    @property
    def up(self) -> int:
        """Parameters that a node sends."""
        return self.total - self.kept

    @property
    def down(self) -> int:
        """Parameters that a node is sent."""
        return self.up + self.carried

    @property
    def payload_bytes(self) -> int:
        """Bytes of the float32 values alone that a node sends, as papers count."""
        return _FLOAT32_BYTES * self.up

    @property
    def extrapolated(self) -> bool:
        """Whether bytes of messages follow from a smaller message, to a hundred-thousandth."""
        return self.down > _MEASURABLE


def shape_source(name: str, revision: str = "") -> tuple[Callable[[], Any], str]:
    """Find a model's config: a known architecture's, or that of a model on this machine.

    Args:
        name: A key of `KNOWN`, with or without "scratch:", a folder with a config.json, or what
            `locate` takes.
        revision: Hub revision; empty for the default branch.

    Returns:
        A function that makes a fresh config, and the kind of model a known architecture is
        for; empty for others.

    Raises:
        SourceError: If there is no such model.
    """
    known = name.removeprefix(PREFIX)  # whose weights do not matter here
    if known in KNOWN:
        return lambda: known_config(known), KNOWN[known].kind
    folder = Path(os.path.expanduser(name))
    if not (folder / "config.json").is_file():
        folder = locate(name, revision).path
    return lambda: config_in(folder), ""


def cost_of(
    method: Method,
    config: Any,
    kind: str,
    *,
    settings: MethodSettings,
    labels: int,
    pooling: str,
    send_head: bool = True,
) -> MethodCost:
    """Put a method on a model without weights and count.

    Args:
        method: The method.
        config: A fresh transformers config.
        kind: A key of `backbone.load.AUTO_CLASSES`.
        settings: The method's settings.
        labels: Outputs of a classifier's head.
        pooling: "model", "mean" or "cls".
        send_head: Whether the head travels; one that is frozen or personal does not.

    Returns:
        The counts; or the reason why the method does not fit.
    """
    model, head = empty_model(config, kind, labels=labels, pooling=pooling)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    try:
        adaptation = method.adapt(model, head, settings)
    except BackboneError as error:
        return MethodCost(name=method.name, model=sum(sizes.values()), refused=str(error))
    adapted = dict(adaptation.model.named_parameters())
    body = sum(value.numel() for value in adapted.values() if value.requires_grad)
    in_head = sum(sizes[name] for name in head)
    cost = MethodCost(
        name=method.name,
        body=body - in_head,
        head=in_head if send_head else 0,
        kept=sum(adapted[name].numel() for name in adaptation.personal),
        carried=sum(adapted[name].numel() for name in adaptation.carried),
        model=sum(sizes.values()),
    )
    return replace(cost, up_bytes=_measure(cost.up), down_bytes=_measure(cost.down))


def _measure(values: int) -> int:
    """Build a message's content with so many values, and weigh it; scale up what is too many."""
    if not values:
        return 0
    built = min(values, _MEASURABLE)
    tensor = TensorSpec(name="adapter", shape=(built,))
    spec = AdapterSpec(method="", backbone="", tensors=(tensor,), ranks={})
    different = np.arange(built, dtype=np.float32)  # Flower keeps equal chunks once
    section = section_of(STATE, AdapterState(spec=spec, vector=different))
    order = write_order(Order(spec=spec, sections=[section], round_number=1))
    return round(content_bytes(order) * values / built)


def weighed(spec: AdapterSpec, codec: Codec) -> int:
    """Weigh a message's content with values of normal distribution, as a codec writes them.

    Args:
        spec: What the values are of.
        codec: How they travel.

    Returns:
        Bytes as Flower serialises the content, without what a run's options add.
    """
    generator = np.random.default_rng(0)
    values = generator.standard_normal(spec.size, dtype=np.float32)
    state = AdapterState(spec=spec, vector=values)
    section = section_of(STATE, state, codec, generator)
    return content_bytes(write_order(Order(spec=spec, sections=[section], round_number=1)))
