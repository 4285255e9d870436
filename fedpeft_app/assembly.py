"""The one place where names in the configuration become objects.

What is expensive is made once per process and kept; data and what reads it: `run_data`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from fedpeft_app import __version__
from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.positions import require_positions, require_whole_patches
from fedpeft_app.config import RunConfig
from fedpeft_app.config.schema import needed_precision, options
from fedpeft_app.data.tasks.padding import padding_token
from fedpeft_app.data_plan import make_task
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.method import Method, MethodSettings
from fedpeft_app.methods.soft_prompts import prompt_tokens
from fedpeft_app.node.memory import memory_of
from fedpeft_app.run_data import (
    bound_task,
    find_model,
    node_data,
    own_setting,
    processor,
    processor_digest,
)
from fedpeft_app.strategies.roll_call import Presence
from fedpeft_app.training.fit import FitSettings
from fedpeft_app.training.precision import device, resolve_precision
from fedpeft_app.training.worker import Own, Worker, use_assigned_threads

_AGREEING_PACKAGES = ("torch", "transformers", "peft")  # their versions name and shape tensors


def make_method(config: RunConfig) -> Method:
    """Make the run's PEFT method."""
    return find_method(config.method.name)


def method_settings(config: RunConfig) -> MethodSettings:
    """Collect what the method is told."""
    return MethodSettings(
        rank=config.method.rank,
        alpha=config.method.alpha,
        dropout=config.method.dropout,
        targets=config.method.targets,
        layers=config.method.layers,
        width=config.method.width,
        prompt_length=config.method.prompt_length,
        options=options(config.method.options),
    )


@lru_cache(maxsize=2)
def adapted_model(config: RunConfig, labels: tuple[str, ...]) -> AdaptedModel:
    """Load the backbone and make it adaptable, once per process."""
    method, task = make_method(config), make_task(config)
    backbone = load_model(
        find_model(config.model.name, config.model.revision),
        kind=task.model_kind,
        labels=labels,
        dtype=config.model.dtype,
        dropout=config.model.dropout,
        pooling=config.model.pooling,
        quantization=config.model.quantization,
        gradient_checkpointing=config.train.gradient_checkpointing,
        seed=config.seed,
    )
    adapted = adapt(backbone, method, method_settings(config), config.seed, head=config.method.head)
    if task.model_kind != "image-classification":
        settings = adapted.backbone.model.config
        require_positions(settings.to_dict(), config.data.max_length, prompt_tokens(adapted.model))
        settings.pad_token_id = padding_token(processor(config))
    else:
        require_whole_patches(adapted.backbone.model.config.to_dict(), config.data.image_size)
    adapted.model.to(device())
    return adapted


def fit_settings(config: RunConfig) -> FitSettings:
    """Collect how every node trains; zero rates become the method's own."""
    train, method = config.train, make_method(config)
    return FitSettings(
        epochs=train.local_epochs,
        max_steps=train.max_steps * (config.rounds if config.mode == "local" else 1),
        batch_size=train.batch_size,
        accumulation=train.gradient_accumulation,
        optimizer=train.optimizer,
        learning_rate=train.learning_rate or method.learning_rate,
        head_learning_rate=train.head_learning_rate or method.head_learning_rate,
        weight_decay=train.weight_decay,
        schedule=train.lr_schedule,
        warmup=train.warmup_fraction,
        max_grad_norm=train.max_grad_norm,
        precision=resolve_precision(
            needed_precision(config.model.dtype) or train.precision, device()
        ),
        rounds=1 if config.mode == "local" else config.rounds,
        seed=config.seed,
    )


def make_worker(config: RunConfig, node_config: Mapping[str, Any]) -> Worker:
    """Make one node's worker, warm after the first call in a process.

    Raises:
        FedPeftError: If its model or data cannot be had.
    """
    use_assigned_threads()
    data = node_data(config, node_config)
    adapted = adapted_model(config, data.labels)
    settings = fit_settings(config)
    batch_size = int(own_setting(node_config, "batch-size", settings.batch_size, least=1))
    return Worker(
        adapted=adapted,
        task=bound_task(config, data.labels),
        partition=data.partition,
        train=data.train,
        held_out=data.held_out,
        test=data.test,
        settings=replace(settings, batch_size=batch_size),
        evaluate_batch_size=config.evaluate.batch_size,
    )


def make_presence(config: RunConfig, node_config: Mapping[str, Any]) -> Presence:
    """Say who a node is and what it has; warms the process up.

    Raises:
        FedPeftError: If its model or data cannot be had.
    """
    worker = make_worker(config, node_config)
    return Presence(
        partition=worker.partition,
        examples=len(worker.train),
        labels=node_data(config, node_config).labels,
        agreed=agreement(worker.adapted),
    )


def own_parameters(options: Mapping[str, Any], worker: Worker) -> Own | None:
    """Find what a node keeps for itself, as an order names it; None if it names nothing.

    Args:
        options: The order's options.
        worker: The node's worker.

    Raises:
        NodeStateError: If what the order names is no experiment.
    """
    if "experiment" not in options:
        return None
    memory = memory_of(str(options["experiment"]), worker.partition)
    return Own(memory=memory, version=int(options.get("base", 0)))


def agreement(adapted: AdaptedModel) -> dict[str, str]:
    """Say what server and nodes must have in common: versions, weights, and how data is read."""
    packages = {name: ".".join(version(name).split(".")[:2]) for name in _AGREEING_PACKAGES}
    return {
        "fedpeft": __version__,
        **packages,
        "backbone": adapted.spec.backbone,
        "processor": processor_digest(adapted.backbone.located),
        "adapter": adapted.spec.fingerprint,
        "personal": adapted.personal.spec.fingerprint,
        "frozen": adapted.frozen,
    }
