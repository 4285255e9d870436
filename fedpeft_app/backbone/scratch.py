"""Models with random weights: the baseline that no pre-training helps, and tests without a hub.

The weights are drawn once, with a fixed seed, and kept like a download, so that every process
and every node with the same library versions starts from the same body.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from fedpeft_app.backbone.known import KNOWN
from fedpeft_app.errors import BackboneError, SourceError
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.mirrors.digest import file_sha256
from fedpeft_app.registry import near_miss

PREFIX = "scratch:"
_SEED = 0  # one body for every seed of a study
_WRITING = ("ForCausalLM", "LMHeadModel")  # classes whose output layer belongs to the body
_READ_BY = (".json", ".txt", ".model", ".jinja")  # suffixes of what tokenizers are made of
_SPECIAL = ("<bos>", "<eos>", "<pad>", "<unk>")


def draw(name: str) -> Path:
    """Give a folder with a model of random weights, drawing them where it is missing.

    Args:
        name: "scratch:" and a name in `KNOWN`, or a folder with a config.json.

    Returns:
        A folder with config, weights, and tokenizer or image processor.

    Raises:
        SourceError: If there is no such architecture or folder.
        BackboneError: If transformers cannot build the model.
    """
    what = name.removeprefix(PREFIX)
    config = _config(what)
    import torch
    import transformers

    versions = [torch.__version__, transformers.__version__]
    beside = {file.name: file_sha256(file) for file in _beside(what)}
    text = json.dumps([config, beside, versions], sort_keys=True)
    label = "".join(letter if letter.isalnum() else "-" for letter in Path(what).name)
    folder = cache_dir() / "scratch" / f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            scratch = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                _save_model(config, scratch)
                _save_processor(what, scratch)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _config(what: str) -> Mapping[str, Any]:
    """Read the config of a known architecture, or of a folder."""
    if what in KNOWN:
        return KNOWN[what].config
    path = Path(what).expanduser() / "config.json"
    if not path.is_file():
        raise SourceError(
            f"No architecture or folder with a config.json '{what}'. Known: "
            f"{', '.join(KNOWN)}.{near_miss(what, KNOWN)}"
        )
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"Expected JSON in {path}: {error}") from error
    return config


def _save_model(config: Mapping[str, Any], folder: Path) -> None:
    """Draw the weights and save them with their config."""
    import torch
    import transformers

    from fedpeft_app.backbone.quiet import quiet

    try:
        settings = transformers.AutoConfig.for_model(**config)
        names = config.get("architectures") or [""]
        writes = names[0].endswith(_WRITING) and hasattr(transformers, names[0])
        build = getattr(transformers, names[0]) if writes else transformers.AutoModel.from_config
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_SEED)
            model = build(settings)  # no classifier: its head is drawn by the seed of the run
    except Exception as error:  # transformers lets through whatever its parsers raise
        raise BackboneError(f"Cannot build a model from {dict(config)}: {error}") from error
    with quiet():
        model.save_pretrained(folder)


def _save_processor(what: str, folder: Path) -> None:
    """Save what reads the model's examples: the folder's own files, or those of a known model."""
    if what not in KNOWN:
        for file in _beside(what):
            shutil.copyfile(file, folder / file.name)
        return
    if processor := KNOWN[what].processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(dict(processor)))
        return
    _byte_tokenizer().save_pretrained(folder)


def _beside(what: str) -> list[Path]:
    """List the files of a folder's tokenizer or image processor; none for a known model."""
    if what in KNOWN:
        return []
    files = sorted(Path(what).expanduser().iterdir())
    return [file for file in files if file.suffix in _READ_BY and file.name != "config.json"]


def _byte_tokenizer() -> Any:
    """Build a tokenizer whose tokens are the 256 bytes, in order, and four marks."""
    import tokenizers
    import transformers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate((*letters, *_SPECIAL))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    begin, end, pad, unknown = _SPECIAL
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token=end,
        pad_token=pad,
        unk_token=unknown,
    )
