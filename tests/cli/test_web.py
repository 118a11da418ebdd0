"""The command `web`: the folder it writes, where it takes ONNX Runtime for browsers from, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from libkd_sdk import web_runtime
from libkd_sdk.pages.page import COLOURS
from libkd_sdk.pages.web_app import PAGE
from libkd_sdk.web_runtime import ARCHIVE, FILES, PACKAGE, VERSION

ROOT = Path(__file__).parents[2]
BUNDLES = ROOT / "spec" / "vectors" / "bundles"
FP32 = BUNDLES / "onnx-fp32"


def archive() -> bytes:
    """Return an archive as npm has it, with files of a few bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in FILES:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return buffer.getvalue()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Iterator[Path]:
    """A registry on this machine, whose archive has the right hash. Return the file of the archive."""
    file = tmp_path / "registry" / PACKAGE / "-" / ARCHIVE
    file.parent.mkdir(parents=True)
    content = archive()
    file.write_bytes(content)
    monkeypatch.setattr(web_runtime, "SHA512", base64.b64encode(hashlib.sha512(content).digest()).decode())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "registry")))
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield file
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_folder_holds_the_page_the_bundle_and_the_runtime(shell, registry, tmp_path):
    out = tmp_path / "deep" / "app"
    text = shell.succeeded("web", FP32, "--out", out)
    assert f"python -m http.server --bind 127.0.0.1 --directory {out} 8000" in text
    found = {str(file.relative_to(out)): file for file in out.rglob("*") if file.is_file()}
    bundle = {f"bundle/{file.name}": file.read_bytes() for file in FP32.iterdir()}
    assert found.keys() == {*PAGE, *bundle, *(f"runtime/{name}" for name in FILES)}
    assert {name: found[name].read_bytes() for name in bundle} == bundle
    assert found[f"runtime/{FILES[0]}"].read_bytes() == FILES[0].encode()


def test_the_page_keeps_all_that_it_needs_and_its_version_changes_with_the_bundle(shell, registry, tmp_path):
    versions = set()
    for bundle in ("onnx-fp32", "onnx-int8", "onnx-fp32"):
        facts = json.loads(shell.succeeded("web", BUNDLES / bundle, "--out", tmp_path / "app", "--json"))
        (line,) = re.findall(r"^const FILES = (.*);$", (tmp_path / "app" / "service.js").read_text(), re.MULTILINE)
        kept = json.loads(line)
        left_out = {"index.html", "service.js", *(f"runtime/{name}" for name in FILES[3:])}
        assert {*kept["names"]} == {"./", *facts["files"]} - left_out
        versions.add(kept["version"])
    assert len(versions) == 2


def test_a_signature_comes_along_and_a_key_that_did_not_sign_is_refused(shell, tmp_path):
    package, bundle = installed(tmp_path / PACKAGE), shutil.copytree(FP32, tmp_path / "bundle")
    for key in ("mine", "other"):
        shell.succeeded("keygen", tmp_path / key)
    shell.succeeded("sign", bundle, "--key", tmp_path / "mine")
    app = (tmp_path / "app", "--runtime", package, "--key")
    assert "[signature-refused]" in shell.refused("web", bundle, "--out", *app, tmp_path / "other.pub")
    assert not (tmp_path / "app").exists()
    shell.succeeded("web", bundle, "--out", *app, tmp_path / "mine.pub")
    signature = (tmp_path / "bundle" / "bundle.sig").read_bytes()
    assert (tmp_path / "app" / "bundle" / "bundle.sig").read_bytes() == signature


def test_the_runtime_is_fetched_once_and_a_damaged_copy_is_fetched_again(shell, registry, tmp_path):
    out = tmp_path / "app"
    shell.succeeded("web", FP32, "--out", out)
    content = registry.read_bytes()
    registry.unlink()
    shell.succeeded("web", FP32, "--out", out)
    kept = tmp_path / "cache" / "libkd-sdk" / ARCHIVE
    kept.write_bytes(content[:-1])
    assert "can't be fetched (HTTP Error 404: File not found)" in shell.refused("web", FP32, "--out", out)
    registry.write_bytes(content)
    shell.succeeded("web", FP32, "--out", out)
    assert kept.read_bytes() == content


def test_without_a_network_a_line_names_the_address_and_the_option(shell, registry, tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/npm/")
    line = shell.refused("web", FP32, "--out", tmp_path / "app")
    assert f"http://127.0.0.1:9/npm/{PACKAGE}/-/{ARCHIVE} [engine-missing]" in line
    assert "give the file by --runtime" in line
    assert not (tmp_path / "app").exists()
    given = shutil.copy(registry, tmp_path / "given.tgz")
    shell.succeeded("web", FP32, "--out", tmp_path / "app", "--runtime", given)


def test_another_file_from_the_registry_is_refused_and_not_kept(shell, registry, tmp_path):
    registry.write_bytes(registry.read_bytes() + b"x")
    line = shell.refused("web", FP32, "--out", tmp_path / "app")
    assert "the registry sent another file (SHA-512 differs)" in line
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "app").exists()


def test_a_registry_that_is_a_file_is_refused(shell, registry, tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", registry.parents[2].as_uri())
    assert "it begins with https://" in shell.refused("web", FP32, "--out", tmp_path / "app")


def installed(folder: Path, version: str = VERSION) -> Path:
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": PACKAGE, "version": version}))
    for name in FILES:
        (folder / "dist" / name).write_bytes(b"x")
    return folder


def test_the_runtime_may_be_a_folder_that_npm_installed(shell, tmp_path):
    package = installed(tmp_path / PACKAGE)
    shell.succeeded("web", FP32, "--out", tmp_path / "app", "--runtime", package)
    assert (tmp_path / "app" / "runtime" / FILES[0]).read_bytes() == b"x"


@pytest.mark.parametrize("what", ["another version", "a file less", "an empty folder", "another archive", "nothing"])
def test_a_runtime_that_is_something_else_is_refused(shell, tmp_path, what):
    given = tmp_path / "runtime"
    if what == "another version":
        installed(given, "1.29.0")
    elif what == "a file less":
        (installed(given) / "dist" / FILES[2]).unlink()
    elif what == "an empty folder":
        given.mkdir()
    elif what == "another archive":
        given.write_bytes(archive())
    line = shell.refused("web", FP32, "--out", tmp_path / "app", "--runtime", given)
    assert f"{given}: not the " in line
    assert f"{PACKAGE} {VERSION}" in line
    assert not (tmp_path / "app").exists()


def test_other_bundles_and_damaged_ones_are_refused(shell, tmp_path):
    package = installed(tmp_path / PACKAGE)
    line = shell.refused("web", BUNDLES / "openvino-fp32", "--out", tmp_path / "app", "--runtime", package)
    assert "a bundle for openvino; browsers run those for onnx" in line
    damaged = Path(shutil.copytree(FP32, tmp_path / "damaged"))
    (damaged / "model.onnx").write_bytes(b"x")
    line = shell.refused("web", damaged, "--out", tmp_path / "app", "--runtime", package)
    assert "model.onnx has 1 bytes" in line
    assert line.endswith("[bundle-invalid]")
    assert "not a bundle" in shell.refused("web", tmp_path / "nowhere", "--out", tmp_path / "app", "--runtime", package)
    assert not (tmp_path / "app").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(shell, tmp_path):
    package = installed(tmp_path / PACKAGE)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "thesis.txt").write_text("x")
    line = shell.refused("web", FP32, "--out", tmp_path / "app", "--runtime", package)
    assert "holds thesis.txt, which is not part of an app" in line
    assert (tmp_path / "app" / "thesis.txt").exists()
    assert "not a folder" in shell.refused("web", FP32, "--out", package / "package.json", "--runtime", package)
    bundle = shutil.copytree(FP32, tmp_path / "bundle")
    assert "holds bundle.json" in shell.refused("web", bundle, "--out", bundle, "--runtime", package)
    assert "lies in the bundle" in shell.refused("web", bundle, "--out", bundle / "app", "--runtime", package)
    empty = tmp_path / "empty"
    empty.mkdir()
    shell.succeeded("web", FP32, "--out", empty, "--runtime", package)


def test_the_version_is_the_one_that_the_tests_install():
    lock = json.loads((ROOT / "bindings" / "js" / "package-lock.json").read_text(encoding="utf-8"))
    assert lock["packages"][f"node_modules/{PACKAGE}"]["version"] == VERSION
    assert lock["packages"][f"node_modules/{PACKAGE}"]["integrity"] == f"sha512-{web_runtime.SHA512}"


def test_the_app_has_the_colours_of_the_pages():
    style = (ROOT / "libkd_sdk" / "pages" / "web" / "style.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", rule)) for rule in re.findall(r":root \{([^}]*)\}", style))
    assert light.keys() == dark.keys()
    assert light
    assert {name: (light[name], dark[name]) for name in light}.items() <= COLOURS.items()
