"""The tasks that are built in."""

from fedpeft_app.registry import Registry

TASKS = Registry(
    kind="task",
    group="fedpeft.tasks",
    builtin={
        "text-classification": "fedpeft_app.data.tasks.text_classification:TextClassification",
        "image-classification": "fedpeft_app.data.tasks.image_classification:ImageClassification",
        "causal-lm": "fedpeft_app.data.tasks.causal_lm:CausalLM",
    },
)
