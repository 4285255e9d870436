"""What a typical example does for every message: load, tokenise, train."""

import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

LABELS = 8


def lora_model(path: str):
    """Load the base model and wrap it."""
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=LABELS)
    config = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"])
    return get_peft_model(model, config)


def weights(model) -> dict[str, torch.Tensor]:
    """Give what trains."""
    return get_peft_model_state_dict(model)


def pour(model, state: dict[str, torch.Tensor]) -> None:
    """Take over what came."""
    set_peft_model_state_dict(model, state)


def batches_of(path: str, data: str, length: int, padding: str) -> DataLoader:
    """Read and tokenise a table."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = load_dataset("csv", data_files=data, split="train")
    rows = rows.map(
        lambda row: tokenizer(row["text"], truncation=True, max_length=length, padding=padding),
        batched=True,
    )
    rows = rows.rename_column("label", "labels").remove_columns(["text"])
    collate = DataCollatorWithPadding(tokenizer)
    return DataLoader(rows, batch_size=16, shuffle=True, collate_fn=collate)


def fine_tune(model, batches: DataLoader, most: int) -> None:
    """Train for some steps; 0 = for one epoch."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    model.train()
    for step, batch in enumerate(batches):
        if most and step == most:
            break
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
