"""The key pair by which a node proves who it is: what Flower's node authentication takes.

Flower 1.41 reads both halves in OpenSSH's format, on a NIST curve, and signs every request.
`ssh-keygen -t ecdsa -b 384 -N "" -f node.key` makes the same.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization

from fedpeft_app.keys.certificates import new_key


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKey:
    """A node's key pair, as files have it.

    Attributes:
        private: For the node alone.
        public: For the server, which registers it.
    """

    private: bytes
    public: bytes


def make_node_key(name: str) -> NodeKey:
    """Make the key pair of a node.

    Args:
        name: The node's, as the comment of the public key.
    """
    key = new_key()
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return NodeKey(private=private, public=b"%s %s\n" % (public, name.encode()))
