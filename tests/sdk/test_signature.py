"""A signature says who made a bundle: without a trusted one, no engine sees a byte. Keys are kept like keys."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from test_package import without

import sdk
from bundle_edits import manifest, rewrite
from runtimes.engines import RUNNABLE
from sdk import Bundle, BundleError, Classifier, FileError, SignatureError, UsageError, verify
from sdk.bundle import Signed, folder
from sdk.bundle.keys import PASSPHRASE, new_key, read_private, read_public
from sdk.bundle.manifest import MANIFEST
from sdk.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE
from sdk.bundle.writing import sign


class Pair:
    """A pair of keys in files."""

    def __init__(self, path: Path) -> None:
        self.private, self.public, self.id = new_key(path)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Pair:
    return Pair(tmp_path_factory.mktemp("keys") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Pair:
    return Pair(tmp_path_factory.mktemp("keys") / "theirs")


@pytest.fixture
def signed(own_copy, ours) -> Path:
    path = own_copy("onnx")
    sign(path, read_private(ours.private))
    return path


def signature(path: Path) -> dict:
    return json.loads((path / SIGNATURE).read_text())


class TestTrust:
    @pytest.mark.parametrize("target", RUNNABLE)
    def test_a_bundle_that_a_trusted_key_signed(self, own_copy, ours, theirs, target):
        path = own_copy(target)
        before = (path / MANIFEST).read_bytes()
        assert sign(path, read_private(ours.private)).signed == Signed(ours.id, True)
        assert (path / MANIFEST).read_bytes() == before
        assert Bundle.open(path, trusted=ours.public).signed == Signed(ours.id, True)
        assert Bundle.open(path, trusted=[theirs.public, str(ours.public)]).signed == Signed(ours.id, True)
        assert Bundle.open(path, trusted=ours.public.read_bytes()).signed == Signed(ours.id, True)
        assert verify(path, trusted=ours.public).signed == Signed(ours.id, True)
        with Classifier(path, trusted=ours.public) as classifier:
            assert classifier.bundle.signed == Signed(ours.id, True)

    def test_without_trusted_keys_the_signature_is_only_a_claim(self, signed, ours, bundles):
        assert Bundle.open(signed).signed == Signed(ours.id, False)
        assert verify(signed).signed == Signed(ours.id, False)
        assert Bundle.open(bundles["onnx"].path).signed is None

    @pytest.mark.parametrize("target", RUNNABLE)
    def test_no_engine_sees_a_byte_of_an_untrusted_bundle(self, own_copy, ours, target, monkeypatch):
        monkeypatch.setattr(folder, "open_session", lambda *_, **__: pytest.fail("an engine was opened"))
        path = own_copy(target)
        for use in (Bundle.open, Classifier, verify):
            with pytest.raises(SignatureError, match=rf"{target}-copy: not signed; get it from who signs, or sign it"):
                use(path, trusted=ours.public)

    def test_another_key(self, signed, ours, theirs):
        named = rf"signed with the key {ours.id}, which is none of the trusted ones \({theirs.id}\)"
        with pytest.raises(SignatureError, match=named):
            Classifier(signed, trusted=theirs.public)

    def test_another_key_under_the_name_of_a_trusted_one(self, own_copy, ours, theirs):
        path = own_copy("onnx")
        sign(path, read_private(theirs.private))
        (path / SIGNATURE).write_text(json.dumps({**signature(path), "key": ours.id}))
        with pytest.raises(SignatureError, match=f"{MANIFEST} is not what the key {ours.id} signed"):
            Classifier(path, trusted=ours.public)

    @pytest.mark.parametrize(
        "change",
        [
            lambda path: rewrite(path, name="another"),
            lambda path: (path / MANIFEST).write_bytes((path / MANIFEST).read_bytes() + b"\n"),
            lambda path: (path / MANIFEST).write_text(json.dumps(manifest(path))),
        ],
    )
    def test_any_other_byte_in_the_manifest(self, signed, ours, change):
        change(signed)
        with pytest.raises(SignatureError, match=f"{MANIFEST} is not what the key {ours.id} signed"):
            Bundle.open(signed, trusted=ours.public)

    def test_a_changed_file_is_found_through_the_manifest(self, signed, ours):
        content = bytearray((signed / "model.onnx").read_bytes())
        content[-1] ^= 1
        (signed / "model.onnx").write_bytes(content)
        with pytest.raises(BundleError, match=r"model\.onnx was changed since its export"):
            Bundle.open(signed, trusted=ours.public)

    @pytest.mark.parametrize("bit", range(0, 512, 37))
    def test_any_other_bit_in_the_signature(self, signed, ours, bit):
        content = signature(signed)
        raw = bytearray(base64.b64decode(content["signature"]))
        raw[bit // 8] ^= 1 << bit % 8
        (signed / SIGNATURE).write_text(json.dumps({**content, "signature": base64.b64encode(raw).decode()}))
        with pytest.raises(SignatureError):
            Bundle.open(signed, trusted=ours.public)

    def test_the_signature_of_something_else_is_none_of_a_bundle(self, signed, ours):
        plain = read_private(ours.private).sign((signed / MANIFEST).read_bytes())
        (signed / SIGNATURE).write_text(
            json.dumps({**signature(signed), "signature": base64.b64encode(plain).decode()})
        )
        with pytest.raises(SignatureError):
            Bundle.open(signed, trusted=ours.public)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{}",
            b"null",
            b"\xff\xfe",
            b"[" * 4000,
            b" " * (MAX_SIGNATURE_BYTES + 1),
            b'{"algorithm": "none", "key": "0123456789abcdef", "signature": ""}',
            b'{"algorithm": "ed25519", "key": "0123456789ABCDEF", "signature": "' + b"A" * 86 + b'=="}',
            b'{"algorithm": "ed25519", "key": "0123456789abcdef", "signature": "' + b"A" * 87 + b'="}',
            b'{"algorithm": "ed25519", "key": "0123456789abcdef", "signature": "' + b"A" * 86 + b'==", "more": 1}',
        ],
    )
    def test_what_is_no_signature_is_refused_even_where_nobody_asks_for_one(self, own_copy, content, ours):
        path = own_copy("onnx")
        (path / SIGNATURE).write_bytes(content)
        for trusted in (None, ours.public):
            with pytest.raises(BundleError, match=f"{SIGNATURE} is"):
                Bundle.open(path, trusted=trusted)

    def test_a_signature_that_is_a_link_or_a_folder(self, signed, ours, tmp_path):
        (signed / SIGNATURE).rename(tmp_path / "elsewhere")
        (signed / SIGNATURE).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(BundleError):
            Bundle.open(signed, trusted=ours.public)
        (signed / SIGNATURE).unlink()
        (signed / SIGNATURE).mkdir()
        with pytest.raises(BundleError):
            Bundle.open(signed)

    def test_a_manifest_can_t_list_it(self, signed):
        entry = {"sha256": hashlib.sha256((signed / SIGNATURE).read_bytes()).hexdigest(), "bytes": 150}
        rewrite(signed, files={**manifest(signed)["files"], SIGNATURE: entry})
        with pytest.raises(BundleError, match=f"lists '{SIGNATURE}', which is not a valid name"):
            Bundle.open(signed)


class TestSigning:
    def test_signing_again_replaces(self, signed, ours, theirs):
        sign(signed, read_private(theirs.private))
        assert Bundle.open(signed, trusted=theirs.public).signed.key == theirs.id
        with pytest.raises(SignatureError):
            Bundle.open(signed, trusted=ours.public)
        assert [entry.name for entry in signed.parent.iterdir()] == [signed.name]

    def test_a_damaged_bundle_is_not_signed(self, own_copy, ours):
        path = own_copy("onnx")
        (path / "model.onnx").write_bytes(b"\x08")
        with pytest.raises(BundleError, match=r"model\.onnx has 1 bytes"):
            sign(path, read_private(ours.private))
        assert not (path / SIGNATURE).exists()

    def test_a_signed_export_and_the_next_one_without(self, vit, preprocessing, ours, tmp_path):
        from patterns import LABELS

        def export(**options: Any) -> Bundle:
            return sdk.export(
                vit, target="onnx", out=tmp_path / "out", labels=LABELS, preprocessing=preprocessing, **options
            )

        assert export(sign=ours.private).signed == Signed(ours.id, False)
        assert Bundle.open(tmp_path / "out", trusted=ours.public).signed == Signed(ours.id, True)
        assert export().signed is None
        assert not (tmp_path / "out" / SIGNATURE).exists()

    def test_a_key_that_can_t_sign_is_told_before_the_work(self, vit, preprocessing, ours, tmp_path):
        with pytest.raises(UsageError, match="not a private key"):
            sdk.export(
                vit,
                target="onnx",
                out=tmp_path / "out",
                labels=list("abcde"),
                preprocessing=preprocessing,
                sign=ours.public,
                progress=lambda *_: pytest.fail("work began"),
            )
        assert not (tmp_path / "out").exists()

    def test_the_specification_is_enough_to_check_one(self, signed, ours):
        """These are the steps of spec/bundle.md."""
        found = json.loads((signed / "bundle.sig").read_bytes())
        public = load_pem_public_key(ours.public.read_bytes())
        assert isinstance(public, ed25519.Ed25519PublicKey)
        assert found["algorithm"] == "ed25519"
        assert found["key"] == hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]
        message = b"libkd-bundle/1\n" + (signed / "bundle.json").read_bytes()
        public.verify(base64.b64decode(found["signature"]), message)


class TestKeys:
    def test_a_private_key_is_only_for_its_owner_and_is_never_overwritten(self, tmp_path):
        old = os.umask(0)
        try:
            private, public, identity = new_key(tmp_path / "keys" / "mine")
        finally:
            os.umask(old)
        assert (private.name, public.name) == ("mine", "mine.pub")
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
        assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----\n")
        assert read_private(private).id == read_public(public)[0].id == identity
        before = private.read_bytes()
        with pytest.raises(UsageError, match="mine: exists, and a key is never overwritten; choose another name"):
            new_key(private)
        private.rename(tmp_path / "kept")
        with pytest.raises(UsageError, match=r"mine.pub: exists, and a key is never overwritten"):
            new_key(private)
        assert not private.exists()
        assert (tmp_path / "kept").read_bytes() == before

    def test_a_place_that_can_t_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(FileError, match="can't be written"):
            new_key(tmp_path / "file" / "key")

    def test_keys_that_openssl_made(self, tmp_path, own_copy):
        """Also an encrypted one, whose passphrase stands in the environment."""
        pem = tmp_path / "openssl.pem"
        secret = ed25519.Ed25519PrivateKey.generate()
        pem.write_bytes(
            secret.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption("grün".encode()),
            )
        )
        with pytest.raises(UsageError, match=f"is encrypted; put its passphrase into the .*{PASSPHRASE}"):
            read_private(pem)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(PASSPHRASE, "wrong")
            with pytest.raises(UsageError, match=f"the passphrase in {PASSPHRASE} does not open it"):
                read_private(pem)
            patch.setenv(PASSPHRASE, "grün")
            path = own_copy("onnx")
            sign(path, read_private(pem))
        public = secret.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert Bundle.open(path, trusted=public).signed.verified

    def test_what_is_no_public_key(self, bundles, ours, tmp_path):
        other = tmp_path / "other.pem"
        curve = ec.generate_private_key(ec.SECP256R1())
        other.write_bytes(
            curve.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        big = tmp_path / "big.pem"
        big.write_bytes(b"-" * 100_000)
        for trusted, message in (
            (ours.private, "a private key, which belongs only to who signs; give the file with .pub"),
            (other, "a public key of another kind; bundles are signed with Ed25519"),
            (big, "too large for a key"),
            (tmp_path, "can't be read as a key"),
            (tmp_path / "nowhere", r"nowhere: can't be read as a key \(No such file or directory\)"),
            ("a\0b", "can't be read as a key"),
            (b"text", "<key>: not a public key in PEM"),
            ([], "no trusted key is given"),
        ):
            with pytest.raises(UsageError, match=message):
                Classifier(bundles["onnx"].path, trusted=trusted)

    def test_what_is_no_private_key(self, ours, tmp_path):
        other = tmp_path / "other.pem"
        other.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        with pytest.raises(UsageError, match="a private key of another kind; bundles are signed with Ed25519"):
            read_private(other)
        with pytest.raises(UsageError, match="not a private key; give the file that libkd-sdk keygen wrote"):
            read_private(ours.public)

    def test_a_missing_library_is_named_with_its_command_and_needed_only_for_keys(self, signed, ours):
        program = without("cryptography") + (
            "import sdk\n"
            f"print(sdk.Classifier({str(signed)!r}).bundle.signed.verified)\n"
            f"try: sdk.Classifier({str(signed)!r}, trusted={str(ours.public)!r})\n"
            "except sdk.EngineMissing as fault: print(fault, fault.exit_code)\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.stdout.splitlines() == [
            "False",
            "signatures: cryptography is not installed; pip install 'libkd-sdk[sign]' 2",
        ], done.stderr
