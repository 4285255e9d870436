"""A private certificate authority, and what it signs: the certificate of one server.

Nodes need no certificate. They prove who they are with a key that the server knows
(`fedpeft_app.keys.node_key`).
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedpeft_app.errors import KeysError

AUTHORITY_DAYS = 3650  # ten years: longer than a federation, and than any certificate below it
SERVER_DAYS = 397  # the longest that the CA/Browser Forum allowed: thirteen months
_EARLIER = dt.timedelta(hours=1)  # for machines whose clocks are late
_NO_USE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)
# The SuperLink's own processes reach it here, and check the name.
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Who signs.

    Attributes:
        key: Its private key.
        certificate: What everyone trusts.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_authority(now: dt.datetime) -> Authority:
    """Make a certificate authority that signs servers' certificates and nothing else.

    Args:
        now: The present, with its time zone.
    """
    key = new_key()
    name = _name("fedpeft private CA")
    certificate = (
        _certificate(name, name, key, now, now + dt.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(**{**_NO_USE, "key_cert_sign": True, "crl_sign": True}), critical=True
        )
        .sign(key, hashes.SHA384())
    )
    return Authority(key=key, certificate=certificate)


def issue(
    authority: Authority,
    key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
    now: dt.datetime,
) -> x509.Certificate:
    """Certify that a key is that of a server.

    Args:
        authority: Who signs.
        key: The server's.
        hosts: Names and addresses under which others reach it; the first is its name.
        now: The present, with its time zone.

    Returns:
        A certificate for `hosts` and the loopback, which ends with the authority at the latest.

    Raises:
        KeysError: If the authority's own certificate has ended.
    """
    ends = authority.certificate.not_valid_after_utc
    if ends <= now:
        raise KeysError(
            f"Expected a certificate authority that is still valid, but it ended on "
            f"{ends:%Y-%m-%d}. Make keys anew in another folder, and give every party its own."
        )
    names = list(dict.fromkeys([*hosts, *LOOPBACK]))
    public = authority.key.public_key()
    until = min(now + dt.timedelta(days=SERVER_DAYS), ends)
    return (
        _certificate(_name(hosts[0][:64]), authority.certificate.subject, key, now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{**_NO_USE, "digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(authority.key, hashes.SHA384())
    )


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Give the names and addresses that a certificate is for, without the loopback.

    Returns:
        The first is the one that was asked for first, if need be on the loopback.
    """
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = tuple(str(one.value) for one in found)
    return tuple(name for name in names if name not in LOOPBACK) or names[:1]


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make a key on P-384, the curve that Flower's own keys are on."""
    return ec.generate_private_key(ec.SECP384R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as PEM (PKCS #8), not encrypted: services start without a person."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Write a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_key(content: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    """Read what `key_pem` wrote.

    Args:
        content: The file's.
        where: The file, for the message.

    Raises:
        KeysError: If it is something else.
    """
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise KeysError(f"Expected a private key in PEM in {where}: {error}.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeysError(f"Expected an elliptic-curve key in {where}, got another kind.")
    return key


def read_certificate(content: bytes, where: str) -> x509.Certificate:
    """Read what `certificate_pem` wrote; arguments and errors as for `read_key`."""
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise KeysError(f"Expected a certificate in PEM in {where}: {error}.") from error


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
    until: dt.datetime,
) -> x509.CertificateBuilder:
    """Begin a certificate: what all of them have."""
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    """Write a distinguished name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    """Write an address or a name as certificates have them."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
