"""A task: one that fedpeft has, with its options settled."""

from fedpeft_app.data.tasks.text_classification import TextClassification


def tags(*, separator: str = ";") -> TextClassification:
    """Give each text any number of labels; the arguments come from `task.options`."""
    return TextClassification(multi_label=True, separator=separator)
