"""The one place where names in the configuration become objects.

What is expensive is made once per process and kept; data and what reads it: `run_data`.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.adapters.algebra import digest_of
from fedpeft_app.adapters.lora import pairs, resized_spec
from fedpeft_app.admission import policy_of, require_model
from fedpeft_app.backbone.load import load_model, release
from fedpeft_app.backbone.positions import require_positions, require_whole_patches
from fedpeft_app.config import RunConfig
from fedpeft_app.config.policy import Policy
from fedpeft_app.config.readings import needed_precision, options, planned_ranks
from fedpeft_app.data.tasks.padding import padding_token
from fedpeft_app.data_plan import make_task
from fedpeft_app.environment import software
from fedpeft_app.errors import BackboneError, DataError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.method import Method, MethodSettings
from fedpeft_app.methods.soft_prompts import prompt_tokens
from fedpeft_app.node.identity import identity, node_name, node_number
from fedpeft_app.node_privacy import SampleLevel
from fedpeft_app.participation import Participation
from fedpeft_app.privacy.budget import least_noise
from fedpeft_app.privacy.ceiling import Ceiling
from fedpeft_app.privacy.noisy_mean import Follow, NoisyMean
from fedpeft_app.run_data import (
    bound_task,
    find_model,
    node_data,
    own_setting,
    processor,
    processor_digest,
)
from fedpeft_app.strategies.broadcast import is_exact
from fedpeft_app.strategies.roll_call import Presence
from fedpeft_app.training.capacity import own_share, within
from fedpeft_app.training.fit import FitSettings
from fedpeft_app.training.precision import device, resolve_precision
from fedpeft_app.training.worker import Worker, use_assigned_threads
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.record import Order

_MODELS: dict[tuple[RunConfig, tuple[str, ...]], AdaptedModel] = {}  # the oldest first
_BYTES_PER_GIB = 2**30
_LOADING = threading.Lock()


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


def adapted_model(config: RunConfig, labels: tuple[str, ...]) -> AdaptedModel:
    """Load the backbone and make it adaptable, once per process.

    Runs that have the model in common share it: whoever uses it pours all that trains, before.
    Of others a process keeps two, or one where a GPU's memory has to hold it.

    Args:
        config: The run's configuration.
        labels: Label names in the order of a classifier's outputs.

    Raises:
        FedPeftError: If the model cannot be had, or does not fit.
    """
    key = (_of_the_model(config), labels)
    with _LOADING:  # a server loads beside the roll call; whoever comes second has what is there
        if key not in _MODELS:
            forget_models(but=0 if device().type == "cuda" else 1)
            _MODELS[key] = _adapted(*key)
        return _MODELS[key]


def forget_models(but: int = 0) -> None:
    """Give back the memory of models.

    Args:
        but: How many of them to keep, the newest.
    """
    while len(_MODELS) > but:
        del _MODELS[next(iter(_MODELS))]
    release()


def _of_the_model(config: RunConfig) -> RunConfig:
    """Leave of a configuration what a model is made from, and the defaults of all else."""
    whole, data, train = RunConfig(), config.data, config.train
    shape = {"max_length": data.max_length, "image_size": data.image_size}
    saving = {"gradient_checkpointing": train.gradient_checkpointing}
    return whole.model_copy(
        update={
            "task": config.task,
            "task_options": config.task_options,
            "seed": config.seed,
            "model": config.model,
            "method": config.method.model_copy(update={"init_from": ""}),
            "data": whole.data.model_copy(update=shape),
            "train": whole.train.model_copy(update=saving),
        }
    )


def _adapted(config: RunConfig, labels: tuple[str, ...]) -> AdaptedModel:
    """Load the backbone and make it adaptable."""
    with within(own_share(device()), "the model"):
        return _loaded(config, labels)


def _loaded(config: RunConfig, labels: tuple[str, ...]) -> AdaptedModel:
    """Load the backbone and make it adaptable, on this process's device."""
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
    at_once = config.rounds if config.mode == "local" else 1  # rounds that nodes train in one go
    return FitSettings(
        epochs=train.local_epochs * at_once,
        max_steps=train.max_steps * at_once,
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
        rounds=config.rounds // at_once,
        seed=config.seed,
        frozen_cache_bytes=int(train.frozen_cache_gib * _BYTES_PER_GIB),
    )


def make_worker(config: RunConfig, node_config: Mapping[str, Any]) -> Worker:
    """Make one node's worker, warm after the first call in a process.

    Raises:
        FedPeftError: If its model or data cannot be had.
    """
    use_assigned_threads()
    own_share(device())  # before anything lies there
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


def codecs(config: RunConfig) -> tuple[Codec, Codec]:
    """Make the codecs of uplink and downlink.

    In a baseline messages only stand for what happens in one place, so nothing is lost there.
    """
    if config.mode != "federated":
        return float32(), float32()
    return parse_codec(config.wire.uplink), parse_codec(config.wire.downlink)


def noisy_mean(config: RunConfig, users: int) -> NoisyMean:
    """Make what takes the mean of nodes under user-level privacy.

    Its noise is as set, or the least with which all rounds keep to the target.

    Args:
        config: The run's configuration.
        users: Nodes that passed the roll call, from 1.

    Raises:
        PrivacyError: If no noise keeps to the target, or users are too few for a norm that
            follows theirs.
    """
    privacy, sampling = config.privacy, config.strategy.fraction_train
    quantile = privacy.clip_quantile
    return NoisyMean(
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=privacy.noise_multiplier
        or least_noise(privacy.target_epsilon, privacy.delta, sampling, config.rounds),
        sampling=sampling,
        users=users,
        follow=Follow(quantile=quantile, rate=privacy.clip_rate) if quantile else None,
    )


def make_participation(
    config: RunConfig, node_config: Mapping[str, Any], read: Callable[[AdapterSpec], Order]
) -> Participation:
    """Read an order, and find what a node needs to carry it out.

    Args:
        config: The run's configuration.
        node_config: The node's own.
        read: Reads the order, given the adapter that this side has.

    Raises:
        FedPeftError: If its model or data cannot be had, the message is no order, or the node's
            owner does not allow these weights.
    """
    policy = _policy(config, node_config)
    worker = make_worker(config, node_config)
    uplink, _ = codecs(config)
    spec = worker.adapted.spec
    rank = own_rank(config, node_config, worker.adapted)
    return Participation(
        worker=worker,
        order=read(resized_spec(spec, rank) if rank else spec),
        uplink=uplink,
        feedback=config.wire.feedback and not is_exact(uplink),
        protection=sample_level(config, policy),
        discreet=config.privacy.mode != "none",
    )


def _policy(config: RunConfig, node_config: Mapping[str, Any]) -> Policy:
    """Read what the node's owner allows, and look at the model's weights before any data."""
    policy = policy_of(node_config)
    if policy.model_fingerprints is not None:
        located = find_model(config.model.name, config.model.revision)
        require_model(policy, located.fingerprint)
    return policy


def sample_level(config: RunConfig, policy: Policy | None = None) -> SampleLevel | None:
    """Say how a node protects its examples; None if it does not have to.

    Args:
        config: The run's configuration.
        policy: What the node's owner allows; None for any node.
    """
    privacy = config.privacy
    if privacy.mode != "sample":
        return None
    ceiling = None
    if policy is not None and policy.max_total_epsilon and policy.max_delta:
        ceiling = Ceiling(most=policy.max_total_epsilon, delta=policy.max_delta)
    return SampleLevel(
        delta=privacy.delta,
        target=privacy.target_epsilon,
        clipping_norm=privacy.clipping_norm,
        noise=privacy.noise_multiplier,
        public_counts=privacy.public_counts,
        unsafe_seed=privacy.unsafe_seed,
        wait_s=config.strategy.round_timeout,
        ceiling=ceiling,
    )


def own_rank(config: RunConfig, node_config: Mapping[str, Any], adapted: AdaptedModel) -> int:
    """Give the rank that a node trains in, where it is lower than the run's.

    Args:
        config: The run's configuration.
        node_config: The node's own.
        adapted: The run's model.

    Returns:
        The rank; 0 for that of the run, which all have in baselines.

    Raises:
        DataError: If it is no rank, or higher than the run's; or if the run gives ranks out in
            turns, and the node has neither a turn ("partition-id") nor a rank of its own.
        BackboneError: If the method's adapter cannot be cut to it.
    """
    if config.mode != "federated":
        return 0  # one model for all that is compared
    partition = node_number(node_config)
    if config.method.node_ranks and "rank" not in node_config and identity(node_config):
        raise DataError(
            f"Expected a rank in this node's --node-config, got none: method.node-ranks = "
            f"'{config.method.node_ranks}' gives ranks out by partition-id, and it has none."
        )
    usual = planned_ranks(config.method.node_ranks, config.method.rank)
    chosen = usual[partition % len(usual)]
    rank = int(own_setting(node_config, "rank", chosen, least=1, below=config.method.rank + 1))
    if rank == config.method.rank:
        return 0
    if problem := _uncut(adapted):
        raise BackboneError(
            f"Node {partition} has rank {rank} of its own, but an adapter of method.name = "
            f"'{config.method.name}' {problem}."
        )
    return rank


def _uncut(adapted: AdaptedModel) -> str:
    """Say why an adapter cannot be cut to a lower rank; empty if it can."""
    found = pairs(adapted.spec)
    if not found or not all(pair.whole for pair in found):
        return "has no factors A and B that could be cut to it"
    if len(set(adapted.spec.ranks.values())) > 1:
        return "has modules of different ranks"
    start = adapted.initial.tensors()
    if any(start[pair.b].any() for pair in found if pair.b):
        return "sets out from factors that are not zero, of which it would lack a part"
    return ""


def make_presence(config: RunConfig, node_config: Mapping[str, Any]) -> Presence:
    """Say who a node is and what it has; warms the process up.

    Raises:
        FedPeftError: If its model or data cannot be had, or its owner does not allow these weights.
    """
    policy = _policy(config, node_config)
    worker = make_worker(config, node_config)
    rank = own_rank(config, node_config, worker.adapted)
    examples = len(worker.train)
    if (protection := sample_level(config, policy)) is not None:
        protection.require(examples)
        worker.require_sound_privacy()
    worker.require_memory(config.data.max_length, private=protection is not None)
    return Presence(
        rank=rank,
        partition=worker.partition,
        identity=identity(node_config),
        name=node_name(node_config),
        examples=examples if config.privacy.counts_told else min(examples, 1),
        labels=node_data(config, node_config).labels,
        agreed=agreement(config, worker.adapted),
    )


def agreement(config: RunConfig, adapted: AdaptedModel) -> dict[str, str]:
    """Say what server and nodes must have in common: versions, weights, and how data is read.

    Where increments are sent, everyone must also draw the first state alike, to the last bit.
    """
    drawn = "" if is_exact(codecs(config)[1]) else digest_of(adapted.initial)
    return {
        **software(),
        "backbone": adapted.spec.backbone,
        "processor": processor_digest(adapted.backbone.located),
        "adapter": adapted.spec.fingerprint,
        "personal": adapted.personal.spec.fingerprint,
        "frozen": adapted.frozen,
        "start": drawn,
    }
