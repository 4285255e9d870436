"""The run configuration: one frozen section per concern, every field with unit and range.

Flower carries flat scalars (str, int, float, bool) only, so there is no None: an empty
string or a zero stands for "not set" where a field says so, and free-form options travel
as JSON text.
"""

from typing import Annotated, Literal

from pydantic import Field

from fedpeft_app.config.fields import (
    Count,
    CountOrNone,
    DropoutOrOwn,
    Held,
    JsonObject,
    LayerChoice,
    Rate,
    Section,
    Share,
)


class ModelSection(Section):
    """The pre-trained model that stays where it is."""

    name: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        min_length=1,
        description="hub id, known id with a pinned offline source, local model folder, or "
        "'scratch:' and a known architecture (random weights)",
    )
    revision: str = Field("", description="hub revision (commit, tag); empty = the default branch")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="dtype of the frozen weights; adapters are always float32"
    )
    dropout: DropoutOrOwn = Field(
        0.0, description="dropout inside the model in training; -1 = the checkpoint's own"
    )
    pooling: Literal["model", "mean", "cls"] = Field(
        "model",
        description="what an encoder's head sees: model = the architecture's own head, "
        "mean = the mean of the last layer's tokens, cls = its first token",
    )
    quantization: Literal["none", "int8", "nf4"] = Field(
        "none", description="frozen weights in 8 or 4 bits, by bitsandbytes; GPUs only"
    )


class MethodSection(Section):
    """How the model is made adaptable."""

    name: str = Field(
        "lora",
        min_length=1,
        description="a known method, 'peft:' and a type of PEFT ('peft:LOHA'), or "
        "'package.module:Name'",
    )
    rank: Count = Field(8, description="rank r of LoRA and its kin (arXiv 2106.09685)")
    node_ranks: str = Field(
        "",
        description="lower ranks of nodes whose --node-config has no rank, between commas, given "
        "out in turns by partition-id (a node that has none needs a rank of its own); empty = "
        "all have method.rank",
    )
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        16.0, description="LoRA scaling numerator; the update is scaled by alpha / rank"
    )
    dropout: Held = Field(0.0, description="dropout before the adapter, in [0, 1)")
    targets: str = Field(
        "auto",
        min_length=1,
        description="'auto' (the method's own choice), 'attention', 'mlp', 'both', "
        "'all-linear', or module names separated by commas",
    )
    layers: LayerChoice = Field(
        "all", description="'all', 'first:K', 'last:K', or numbers and ranges from 0: '0-3,5'"
    )
    width: CountOrNone = Field(
        0, description="neurons of a bottleneck adapter; 0 = a share of the model's hidden size"
    )
    prompt_length: Count = Field(10, description="prompt tokens, per layer for deep prompts")
    head: Literal["train", "frozen", "personal"] = Field(
        "train",
        description="train = trained and sent; frozen = random, the same everywhere by the seed; "
        "personal = trained, kept by each node, never sent",
    )
    options: JsonObject = Field("{}", description="further arguments of the method, as JSON")
    init_from: str = Field("", description="adapter folder to start from; empty = fresh adapter")


class DataSection(Section):
    """What nodes learn from, and how a public data set is split among simulated ones."""

    name: str = Field(
        "reuters-r8",
        min_length=1,
        description="known id, hub id, local csv/json/jsonl/parquet/IDX file, or folder of "
        "splits, of texts or of images",
    )
    subset: str = Field("", description="configuration of a hub data set; empty = its default")
    text_column: str = Field("text", min_length=1, description="column that holds the text")
    image_column: str = Field("image", min_length=1, description="column that holds the image")
    prompt_column: str = Field(
        "prompt", min_length=1, description="column of the instruction (causal-lm)"
    )
    response_column: str = Field(
        "response", min_length=1, description="column of the answer that is learnt (causal-lm)"
    )
    messages_column: str = Field(
        "messages", min_length=1, description="column of chat messages (causal-lm)"
    )
    label_column: str = Field("label", min_length=1, description="column that holds the label")
    labels: str = Field(
        "",
        description="label names in order, separated by commas, or as a JSON list; empty = found "
        "in the data",
    )
    max_length: Annotated[int, Field(ge=4)] = Field(
        64, description="tokens kept of each text, special tokens included"
    )
    max_examples: CountOrNone = Field(
        0, description="training examples kept in all, before partitioning; 0 = all"
    )
    max_test_examples: CountOrNone = Field(
        0, description="test examples kept, the same ones for every seed; 0 = all"
    )
    max_examples_per_node: CountOrNone = Field(
        0, description="training examples kept of each node's share; 0 = all"
    )
    image_size: CountOrNone = Field(
        0, description="pixels an image is resized to, height and width; 0 = the model's own"
    )
    partitioner: str = Field(
        "dirichlet", min_length=1, description="how training examples spread over nodes"
    )
    dirichlet_alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        0.5,
        description="Dirichlet concentration; smaller = more label skew ('dirichlet', "
        "'dirichlet-balanced')",
    )
    classes_per_node: Count = Field(2, description="labels a node sees ('pathological')")
    partition_column: str = Field("", description="column whose values are nodes ('natural')")
    min_examples: Count = Field(10, description="fewest training examples a node may hold")
    validation_fraction: Held = Field(
        0.1, description="share of training data the server keeps to choose the best round"
    )
    test_fraction: Held = Field(
        0.2,
        description="share set aside as test set where the source brings none, the same in every "
        "run, also where the server holds no data; 0 = none",
    )
    node_validation_fraction: Held = Field(
        0.1,
        description="share of each node's data held out to choose the best round, "
        "if federated evaluation is on",
    )
    node_test_fraction: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        0.1,
        description="share of each node's data held out to report on, "
        "if federated evaluation is on",
    )


class TrainSection(Section):
    """What one node does in one round."""

    local_epochs: Count = Field(1, description="passes over the node's data per round")
    max_steps: CountOrNone = Field(0, description="optimizer steps per round at most; 0 = no cap")
    batch_size: Count = Field(16, description="examples per forward pass")
    gradient_accumulation: Count = Field(1, description="forward passes per optimizer step")
    learning_rate: Rate = Field(0.0, description="peak rate of the body; 0 = the method's own")
    head_learning_rate: Rate = Field(0.0, description="peak rate of the head; 0 = the method's own")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has momentum 0.9")
    weight_decay: Rate = Field(0.0, description="decoupled for adamw; not on biases and norms")
    lr_schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="shape over the whole run, all rounds, after warm-up"
    )
    warmup_fraction: Held = Field(0.0, description="share of the whole run spent warming up")
    max_grad_norm: Rate = Field(1.0, description="clip the gradient's global norm; 0 = never")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="autocast; auto = bf16 where the device has it, else fp32"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass to save memory"
    )
    frozen_cache_gib: Rate = Field(
        4.0,
        description="GiB of a machine's disk for what frozen layers make of examples, so that they "
        "run once per example, without dropout; 0 = they run in every pass",
    )


class EvaluateSection(Section):
    """What the server measures."""

    server: bool = Field(True, description="whether the server holds validation and test data")
    every: CountOrNone = Field(1, description="rounds between server evaluations; 0 = never")
    test: Literal["rounds", "end"] = Field(
        "rounds",
        description="when the test set is measured: with every evaluation, or once at the end, "
        "for the chosen round",
    )
    batch_size: Count = Field(64, description="examples per forward pass of evaluation")
    select_by: str = Field(
        "",
        description="validation metric that chooses the best round; empty = the task's own: "
        "accuracy, of several labels micro-f1, of causal-lm the loss",
    )
    personal_steps: CountOrNone = Field(
        0, description="optimizer steps a node makes for itself before it evaluates; 0 = none"
    )


class StrategySection(Section):
    """What the server does with replies, and whom it asks."""

    name: str = Field("fedavg", min_length=1, description="a known strategy or a path to one")
    options: JsonObject = Field("{}", description="arguments of the strategy, as JSON")
    fraction_train: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.4, description="share of the nodes that train in a round"
    )
    fraction_evaluate: Share = Field(
        0.0, description="share of the nodes that evaluate each round; 0 = none"
    )
    cohort: str = Field("uniform", min_length=1, description="how the nodes of a round are chosen")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="probability that a chosen node does not report; for studies of stability"
    )
    over_selection: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = Field(
        1.0, description="how many times more nodes are asked; the first replies are used"
    )
    min_nodes: Count = Field(2, description="nodes that must answer the roll call")
    min_replies: Count = Field(2, description="good replies a round needs to count")
    round_timeout: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        3600.0, description="seconds to wait for the replies of a round"
    )
    retries: CountOrNone = Field(
        1, description="further attempts at a round that has fewer good replies than min-replies"
    )
    quarantine_after: CountOrNone = Field(
        3, description="failures in a row after which a node is left alone for a while; 0 = never"
    )
    norm_bound: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        0.0,
        description="largest norm of an update over the median of its round's; 0 = any",
    )


class WireSection(Section):
    """How adapters travel."""

    uplink: str = Field(
        "float32",
        min_length=1,
        description="codec of what nodes send: float32, bfloat16, float16, int8 or int4; with "
        "topk(share)+ or threshold(value)+ before it, +zstd behind it",
    )
    downlink: str = Field(
        "float32",
        min_length=1,
        description="codec of what the server sends; other than in float32, increments to what "
        "a node has",
    )
    feedback: bool = Field(
        True, description="whether what a codec lost in one round is sent in the next"
    )


class PrivacySection(Section):
    """What may be learnt about the data that nodes hold; see docs/privacy.md."""

    mode: Literal["none", "sample", "user"] = Field(
        "none",
        description="whose contribution is hidden: nobody's, each example's from everyone "
        "(DP-SGD on nodes), or each node's from all but the server",
    )
    trust: Literal["nobody", "server"] = Field(
        "nobody", description="who may see what nodes send without noise: user needs 'server'"
    )
    target_epsilon: Rate = Field(
        0.0, description="epsilon that a run stays within, at most; 0 = none is set"
    )
    noise_multiplier: Rate = Field(
        0.0,
        description="standard deviation of the noise over the clipping norm; 0 = the least that "
        "keeps to the target in all rounds",
    )
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        1e-5, description="delta of the guarantee; below 1 over the number of those it hides"
    )
    clipping_norm: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        1.0, description="largest norm of an example's gradient (sample) or a node's delta (user)"
    )
    clip_quantile: Held = Field(
        0.0,
        description="share of nodes whose delta the clipping norm, which follows them, is to "
        "leave as it is (user); 0 = the norm is fixed",
    )
    clip_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = Field(
        0.2, description="how fast the clipping norm follows"
    )
    public_counts: bool = Field(
        False,
        description="whether a node's number of examples may be known, so that it can weigh",
    )
    unsafe_seed: Annotated[int, Field(ge=-1, lt=2**63)] = Field(
        -1,
        description="seed of noise and sampling, for tests alone: who knows it can take the noise "
        "off; -1 = secure randomness",
    )

    @property
    def counts_told(self) -> bool:
        """Whether nodes tell how many examples they hold."""
        return self.mode == "none" or self.public_counts


class BudgetSection(Section):
    """What a run may cost."""

    uplink_mib: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        0.0, description="MiB of train replies after which the run ends, exported; 0 = no end"
    )
    minutes: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        0.0, description="minutes after which no further round begins; 0 = no end"
    )
    patience: CountOrNone = Field(
        0,
        description="evaluations in a row without a better round after which the run ends; "
        "0 = no end",
    )


class ObserveSection(Section):
    """Who looks on while the run goes by, beside its journal."""

    to: str = Field(
        "",
        description="observers between commas: tensorboard, mlflow, wandb, or paths to others; "
        "empty = none",
    )
    options: JsonObject = Field(
        "{}", description="arguments of observers, as JSON, under their names; no passwords"
    )


class OutputSection(Section):
    """Where the run goes."""

    keep: str = Field(
        "last-best",
        pattern=r"^(last-best|all|(last|best|every):[1-9][0-9]{0,8}(,(last|best|every):[1-9][0-9]{0,8})*)$",
        description="which rounds' checkpoints stay: last-best (last:2,best:1), all, or rules "
        "such as last:2,best:1,every:10",
    )
    dir: str = Field("", description="folder of run folders; empty = $FEDPEFT_HOME/runs")
    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="part of the folder's name"
    )


class RunConfig(Section):
    """Everything that defines a run."""

    mode: Literal["federated", "central", "local"] = Field(
        "federated",
        description="federated; or a baseline: central (all data pooled), local (no exchange)",
    )
    rounds: Count = Field(5, description="communication rounds")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="seed of all randomness")
    resume: str = Field(
        "", description="run to go on with after its last round, by folder, name or 'latest'"
    )
    task: str = Field("text-classification", min_length=1, description="a known task or a path")
    task_options: JsonObject = Field(
        "{}", alias="task.options", description="further arguments of the task, as JSON"
    )
    model: ModelSection = Field(default_factory=ModelSection)
    method: MethodSection = Field(default_factory=MethodSection)
    data: DataSection = Field(default_factory=DataSection)
    train: TrainSection = Field(default_factory=TrainSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    strategy: StrategySection = Field(default_factory=StrategySection)
    wire: WireSection = Field(default_factory=WireSection)
    privacy: PrivacySection = Field(default_factory=PrivacySection)
    budget: BudgetSection = Field(default_factory=BudgetSection)
    observe: ObserveSection = Field(default_factory=ObserveSection)
    output: OutputSection = Field(default_factory=OutputSection)
