from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from agent.edges.signing import KeyPair, verify

DIGEST = bytes(range(32))
# RFC 8032 section 7.1, TEST 2
RFC_SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
RFC_PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
RFC_SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_the_vector_of_rfc_8032_is_reproduced():
    pkcs8 = bytes.fromhex("302e020100300506032b657004220420") + RFC_SECRET
    pem = subprocess.run(["openssl", "pkey", "-inform", "DER"], input=pkcs8, capture_output=True, check=True).stdout
    keys = KeyPair.from_pem(pem)
    assert keys.public_key == RFC_PUBLIC
    assert keys.sign(b"\x72") == RFC_SIGNATURE
    assert verify(RFC_PUBLIC, RFC_SIGNATURE, b"\x72")


def test_a_signature_verifies_under_its_own_key_and_digest_alone():
    keys, others = KeyPair.generate(), KeyPair.generate()
    signature = keys.sign(DIGEST)
    assert verify(keys.public_key, signature, DIGEST)
    assert not verify(others.public_key, signature, DIGEST)
    assert not verify(keys.public_key, signature, DIGEST[::-1])
    assert not verify(keys.public_key, others.sign(DIGEST), DIGEST)


@pytest.mark.parametrize(
    "spoil", [str.upper, lambda text: text + " ", lambda text: text + "\n", lambda text: text[:-1]]
)
def test_only_the_canonical_spelling_of_key_and_signature_is_taken(spoil):
    keys = KeyPair.generate()
    signature = keys.sign(DIGEST)
    assert not verify(keys.public_key, spoil(signature), DIGEST)
    assert not verify(spoil(keys.public_key), signature, DIGEST)


@given(st.text(max_size=140), st.text(max_size=140), st.binary(max_size=40))
def test_malformed_input_is_false_and_never_an_exception(key, signature, digest):
    assert verify(key, signature, digest) is False


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_random_keys_and_signatures_are_false(key, signature):
    assert verify(key.hex(), signature.hex(), DIGEST) is False


def test_a_saved_key_is_private_and_loads_again(tmp_path: Path):
    keys = KeyPair.generate()
    keys.save(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert KeyPair.load(tmp_path / "key").public_key == keys.public_key
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_key_is_never_saved_over_another(tmp_path: Path):
    first = KeyPair.generate()
    first.save(tmp_path / "key")
    with pytest.raises(FileExistsError):
        KeyPair.generate().save(tmp_path / "key")
    assert KeyPair.load(tmp_path / "key").public_key == first.public_key
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_key_is_written_as_others_write_it_and_read_however_pem_is_spelled():
    keys = KeyPair.generate()
    pem = keys.to_pem()
    others = load_pem_private_key(pem, password=None)
    assert others.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) == pem
    for spelled in (pem.replace(b"\n", b"\r\n"), b"a comment\n" + pem, pem[:-1]):
        assert KeyPair.from_pem(spelled).public_key == keys.public_key
    for broken in (pem[:60], pem.replace(b"MC4CAQ", b"MC4CAg"), pem.replace(b"PRIVATE", b"PUBLIC"), b""):
        with pytest.raises(ValueError, match="not an"):
            KeyPair.from_pem(broken)


def test_another_kind_of_key_is_refused():
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="not an Ed25519 key"):
        KeyPair.from_pem(rsa)


def test_the_private_key_is_not_in_the_repr():
    keys = KeyPair.generate()
    secret = keys.to_pem().decode().splitlines()[1]
    assert secret not in repr(keys)
