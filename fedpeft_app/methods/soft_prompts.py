"""Trained prefixes of text through PEFT: soft prompts, P-tuning, prefix tuning.

References:
    Lester et al. 2021, arXiv 2104.08691 (soft prompts).
    Liu et al. 2021, arXiv 2103.10385 (P-tuning: an MLP computes the prompt).
    Li and Liang 2021, arXiv 2101.00190 (prefixes of every layer's keys and values).
"""

import dataclasses
import inspect
from typing import Any

import peft

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import (
    Adaptation,
    MethodSettings,
    Tensors,
    refuse_unused,
)
from fedpeft_app.methods.wrap import takes_images, wrap

_NOT_READ = ("dropout", "targets", "layers")


class Prefix:
    """Prefix tuning; `method.options` are further arguments of `peft.PrefixTuningConfig`."""

    name = "prefix"
    learning_rate = 1e-2
    head_learning_rate = 1e-2
    peft = True
    merges = False

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT.

        Args:
            model: A transformers model for text; it is changed in place.
            head: Names of the head's parameters.
            settings: The prompt's length, per layer.

        Raises:
            BackboneError: If the model takes images or no keys and values from outside, or
                PEFT refuses.
        """
        refuse_unused(self.name, settings, *_NOT_READ)
        _require_text(self.name, model)
        _require_past(self.name, model)
        wrapped = wrap(
            peft.PrefixTuningConfig,
            model,
            head,
            self.name,
            settings,
            num_virtual_tokens=settings.prompt_length,
        )
        return Adaptation(model=wrapped, restate=without_projection)


class PTuning:
    """P-tuning; `method.options` are further arguments of `peft.PromptEncoderConfig`."""

    name = "p-tuning"
    learning_rate = 1e-2
    head_learning_rate = 1e-2
    peft = True
    merges = False

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT.

        Args:
            model: A transformers model for text; it is changed in place.
            head: Names of the head's parameters.
            settings: The prompt's length.

        Raises:
            BackboneError: If the model cannot take the prompt, or PEFT refuses.
        """
        refuse_unused(self.name, settings, *_NOT_READ)
        _require_text(self.name, model)
        _require_tokens_found(self.name, model)
        wrapped = wrap(
            peft.PromptEncoderConfig,
            model,
            head,
            self.name,
            settings,
            num_virtual_tokens=settings.prompt_length,
            **_sizes(model),
        )
        return Adaptation(model=wrapped, restate=as_soft_prompt)


def adapt_soft_prompt(
    name: str, model: Any, head: frozenset[str], settings: MethodSettings
) -> Adaptation:
    """Put trained embeddings before a text; they start as embeddings of random tokens.

    Args:
        name: The method's.
        model: A transformers model for text; it is changed in place.
        head: Names of the head's parameters.
        settings: The prompt's length; options are arguments of `peft.PromptTuningConfig`.

    Raises:
        BackboneError: If the model cannot take the prompt, or PEFT refuses.
    """
    refuse_unused(name, settings, *_NOT_READ)
    _require_tokens_found(name, model)
    start = {"prompt_tuning_init": "SAMPLE_VOCAB"}  # "sampled vocabulary", Lester et al., § 3.2
    wrapped = wrap(
        peft.PromptTuningConfig,
        model,
        head,
        name,
        settings,
        num_virtual_tokens=settings.prompt_length,
        **_sizes(model),
        **{key: value for key, value in start.items() if key not in settings.options},
    )
    return Adaptation(model=wrapped)


def prompt_tokens(model: Any) -> int:
    """Count the tokens that stand before every text: each takes one of the model's positions.

    Args:
        model: What a method made of a model of text.
    """
    configs = getattr(model, "peft_config", {}).values()
    return sum(getattr(config, "num_virtual_tokens", 0) for config in configs)


def as_soft_prompt(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Restate P-tuning as a soft prompt: PEFT saves what its MLP computed, and not the MLP."""
    known = {field.name for field in dataclasses.fields(peft.PromptTuningConfig)}
    kept = {key: value for key, value in config.items() if key in known | {"peft_version"}}
    return tensors, {**kept, "peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM"}


def without_projection(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Restate a projected prefix as a plain one: PEFT saves what the projection computed."""
    return tensors, {**config, "prefix_projection": False}


def _require_text(name: str, model: Any) -> None:
    """Refuse models of images."""
    if takes_images(model):
        raise BackboneError(
            f"method.name = '{name}' is for text, and {type(model).__name__} takes images. "
            f"Use 'prompt' (visual prompts in every layer) or 'prompt-shallow'."
        )


def _require_past(name: str, model: Any) -> None:
    """Refuse models whose attention takes no keys and values from outside."""
    body = _body(model)
    if "past_key_values" not in inspect.signature(body.forward).parameters:
        raise BackboneError(
            f"method.name = '{name}' hands keys and values to the attention, and "
            f"{type(body).__name__} takes none (no past_key_values). Use 'prompt' or 'lora'."
        )


def _require_tokens_found(name: str, model: Any) -> None:
    """Refuse decoders that look for a text's last token among ids that a prompt replaces."""
    if hasattr(model, "score"):  # what transformers calls the classifier of its decoders
        raise BackboneError(
            f"method.name = '{name}' replaces token ids by embeddings, and {type(model).__name__} "
            f"finds the end of a padded text by its ids: it would classify padding. Use 'prefix' "
            f"or 'lora'."
        )


def _body(model: Any) -> Any:
    """Give the pre-trained model under the head."""
    return getattr(model, model.base_model_prefix, model)


def _sizes(model: Any) -> dict[str, int]:
    """Tell PEFT the sizes that it does not find in every architecture's config by itself.

    ALBERT and ELECTRA embed tokens in fewer dimensions than their layers have.
    """
    return {
        "token_dim": int(_body(model).get_input_embeddings().weight.shape[1]),
        "num_layers": model.config.num_hidden_layers,
        "num_attention_heads": model.config.num_attention_heads,
    }
