"""The commands about keys: keygen, sign, and the options of export, verify and info."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def key(shell, tmp_path):
    return tmp_path / "my.key", json.loads(shell.succeeded("keygen", tmp_path / "my.key", "--json"))["key"]


def test_a_bundle_is_signed_shown_and_checked(shell, own_copy, key):
    bundle, (private, identity) = own_copy("onnx"), key
    assert "signature" in shell.succeeded("info", bundle)
    assert json.loads(shell.succeeded("info", bundle, "--json"))["signed"] is None
    assert "none" in shell.succeeded("verify", bundle)

    assert identity in shell.succeeded("sign", bundle, "--key", private)
    said = f"by key {identity}, not checked: give the public key by --key"
    known = f"by key {identity}, checked"
    for command in ("info", "verify"):
        assert said in shell.succeeded(command, bundle)
        assert known in shell.succeeded(command, bundle, "--key", f"{private}.pub")
        found = json.loads(shell.succeeded(command, bundle, "--json"))["signed"]
        assert found == {"key": identity, "verified": False}
        found = json.loads(shell.succeeded(command, bundle, "--key", f"{private}.pub", "--json"))["signed"]
        assert found == {"key": identity, "verified": True}


def test_one_of_several_keys_is_enough_and_none_is_refused(shell, own_copy, key, tmp_path):
    bundle, (private, identity) = own_copy("onnx"), key
    shell.succeeded("keygen", tmp_path / "other")
    line = shell.refused("verify", bundle, "--key", tmp_path / "other.pub")
    assert line.startswith(f"libkd-sdk: {bundle}: not signed")
    assert line.endswith("[signature-refused]")
    signed = json.loads(shell.succeeded("sign", bundle, "--key", private, "--json"))
    assert signed == {"bundle": str(bundle), "key": identity}
    line = shell.refused("verify", bundle, "--key", tmp_path / "other.pub")
    assert f"signed with the key {identity}, which is none of the trusted ones" in line
    shell.succeeded("verify", bundle, "--key", tmp_path / "other.pub", "--key", f"{private}.pub")


def test_the_keys_are_told_and_never_overwritten(shell, tmp_path):
    private = tmp_path / "deep" / "a.key"
    text = shell.succeeded("keygen", private)
    assert f"{private}, for who signs" in text
    assert f"{private}.pub, for those who get bundles" in text
    assert "exists, and a key is never overwritten" in shell.refused("keygen", private)


@pytest.mark.slow
def test_export_signs(shell, distilled, key, tmp_path):
    private, identity = key
    out = tmp_path / "bundle"
    line = shell.refused("export", distilled, "--target", "onnx", "--out", out, "--sign", f"{private}.pub")
    assert "not a private key" in line
    shell.succeeded("export", distilled, "--target", "onnx", "--out", out, "--sign", private)
    assert f"by key {identity}, checked" in shell.succeeded("info", out, "--key", f"{private}.pub")
