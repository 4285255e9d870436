"""A BERT of two layers with a word-level tokenizer, for runs that must be quick."""

from pathlib import Path

WORDS = ("wheat", "corn", "grain", "oil", "barrel", "crude", "bank", "rate", "money")
TOPICS = {"grain": WORDS[0:3], "crude": WORDS[3:6], "money": WORDS[6:9]}


def save_tiny_bert(folder: Path) -> None:
    """Write its weights, which are random, and its tokenizer.

    Args:
        folder: Where to.
    """
    import torch
    import transformers

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=80,  # data.max-length and method.prompt-length as they are
        initializer_range=0.3,  # random features that tell words apart
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    numbered = {word: index for index, word in enumerate(vocabulary)}
    transformers.BertTokenizer(vocab=numbered).save_pretrained(folder)
