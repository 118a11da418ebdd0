"""A model file that crashes its engine, never ends, or takes all memory is one line, and this process lives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bundle_edits import manifest, reseal
from hostile_models import with_endless_loop, with_huge_tensor, with_nested_information, with_one_changed_byte
from programs import needs_compiler
from sdk import Bundle, Classifier, EngineError, EngineMissing, LibkdError, ProofError, UsageError, verify
from sdk.bundle.golden import GOLDEN
from shell import libkd

VERIFY = "import sys, sdk; sdk.verify(sys.argv[1], timeout_s=float(sys.argv[2]))"


def children(process: int) -> list[int]:
    """Return the processes that a process started and that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[1]) == process and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def is_gone(process: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True


class TestHostileFiles:
    def test_nested_elements_crash_openvino_in_a_child(self, own_copy, capfd):
        folder = with_nested_information(own_copy("openvino"))
        with pytest.raises(ProofError, match=rf"^{folder}: crashed OpenVINO in a child process \(SIG\w+\); don't use"):
            verify(folder)
        with pytest.raises(ProofError, match="crashed OpenVINO in a child process"):
            Classifier(folder, self_test=True)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("golden", [True, False])
    def test_a_graph_that_never_ends(self, own_copy, golden):
        folder, before = with_endless_loop(own_copy("onnx")), children(os.getpid())
        if not golden:
            (folder / GOLDEN).unlink()
            reseal(folder)
        with pytest.raises(ProofError, match="did not answer within 3 s; allow more time if this machine is slow"):
            verify(folder, timeout_s=3)
        assert children(os.getpid()) == before

    def test_a_graph_that_takes_all_memory(self, own_copy):
        folder = with_huge_tensor(own_copy("onnx"))
        with pytest.raises(LibkdError) as caught:
            verify(folder, memory_gb=2)
        assert "\n" not in str(caught.value)
        assert caught.value.code in ("engine-failed", "proof-failed")

    @needs_compiler
    @pytest.mark.slow
    def test_no_changed_byte_of_a_program_crashes_executorch(self, own_copy, capfd):
        """Its Python module aborts at about each fourth of the bytes that describe the delegate's graph."""
        folder = own_copy("executorch")
        program = (folder / "model.pte").read_bytes()
        start = program.index(b"XN01") + 300
        found = []
        for place in range(start, start + 40 * 37, 37):
            (folder / "model.pte").write_bytes(program)
            try:
                verify(with_one_changed_byte(folder, "model.pte", place))
            except (EngineError, ProofError) as fault:
                found.append(str(fault))
        assert len(found) > 20
        assert not [fault for fault in found if "crashed" in fault or "\n" in fault or "00:00" in fault]
        assert capfd.readouterr() == ("", "")

    def test_the_command_says_it_in_a_line(self, own_copy):
        done = libkd("verify", with_endless_loop(own_copy("onnx")), "--timeout", 3)
        assert done.returncode == 1
        assert done.stdout == b""
        assert done.stderr.decode().count("\n") == 1
        assert "did not answer within 3 s" in done.stderr.decode()
        assert done.stderr.decode().endswith("[proof-failed]\n")


class TestTheChild:
    def test_is_ended_with_the_parent_s_work(self, own_copy):
        """Ctrl-C in the parent ends both."""
        folder = with_endless_loop(own_copy("onnx"))
        parent = subprocess.Popen([sys.executable, "-c", VERIFY, str(folder), "100"], stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: children(parent.pid))
            (child,) = children(parent.pid)
            time.sleep(1)
            parent.send_signal(signal.SIGINT)
            parent.wait(30)
        finally:
            parent.kill()
        wait_for(lambda: is_gone(child), 5)

    @pytest.mark.slow
    def test_ends_itself_if_its_parent_was_killed(self, own_copy):
        folder = with_endless_loop(own_copy("onnx"))
        parent = subprocess.Popen([sys.executable, "-c", VERIFY, str(folder), "2"])
        wait_for(lambda: children(parent.pid))
        (child,) = children(parent.pid)
        time.sleep(1)
        parent.kill()
        parent.wait()
        assert not is_gone(child)
        wait_for(lambda: is_gone(child), 30)

    def test_works_beside_other_threads(self, bundles):
        results: list[object] = []
        threads = [threading.Thread(target=lambda: results.append(verify(bundles["onnx"]))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [verify(bundles["onnx"])] * 3

    def test_gets_what_was_checked_even_if_the_folder_is_gone(self, own_copy, monkeypatch):
        folder = own_copy("onnx")
        golden = Bundle.golden

        def remove(bundle: Bundle):
            found = golden(bundle)
            shutil.rmtree(folder, ignore_errors=True)
            return found

        monkeypatch.setattr(Bundle, "golden", remove)
        assert verify(folder).golden == 12
        assert not folder.exists()

    def test_finds_what_the_parent_finds(self, bundles, tmp_path, monkeypatch):
        """The child has the parent's module path, and its errors come back as what they are."""
        (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError('no', name='onnxruntime')")
        monkeypatch.syspath_prepend(tmp_path)
        message = "ONNX Runtime: onnxruntime is not installed; pip install 'libkd-sdk'"
        with pytest.raises(EngineMissing, match=f"^{message}$"):
            verify(bundles["onnx"])

    def test_an_unexpected_error_in_it_is_one_line_too(self, bundles, tmp_path, monkeypatch):
        (tmp_path / "onnxruntime.py").write_text("raise RuntimeError('first\\nsecond')")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(EngineError, match=r"can't be loaded \(first\); pip install"):
            verify(bundles["onnx"])

    @pytest.mark.parametrize(
        "answer",
        [
            b"{}",
            b"[1]",
            b"null",
            b"\xff",
            b"[" * 100_000,
            b'{"difference": NaN}',
            b'{"difference": -1}',
            b'{"difference": 0.5}',
            b'{"difference": [0]}',
            b'{"code": "unknown", "message": ""}',
            b'{"code": "usage"}',
        ],
    )
    def test_that_a_model_took_over_is_not_believed(self, bundles, tmp_path, monkeypatch, answer):
        (tmp_path / "onnxruntime.py").write_text(
            "import os\n"
            "for descriptor in range(3, 10):\n"
            "    try:\n"
            f"        os.write(descriptor, {answer!r})\n"
            "        os._exit(0)\n"
            "    except OSError:\n"
            "        pass\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ProofError, match="child process does not answer as it should; don't use this bundle"):
            verify(bundles["onnx"])

    def test_a_path_that_is_not_utf_8(self, bundles, tmp_path):
        folder = tmp_path / os.fsdecode(b"caf\xe9")
        shutil.copytree(bundles["onnx"].path, folder)
        assert verify(folder).golden == 12
        with pytest.raises(UsageError, match="threads=0: at least 1"):
            verify(folder, threads=0)

    @pytest.mark.parametrize(
        "limits",
        [
            {"timeout_s": 0},
            {"timeout_s": -1},
            {"timeout_s": float("nan")},
            {"timeout_s": float("inf")},
            {"memory_gb": 0},
            {"memory_gb": float("inf")},
        ],
    )
    def test_limits_that_make_no_sense(self, bundles, limits):
        ((name, value),) = limits.items()
        with pytest.raises(UsageError, match=rf"^{name}={value}: a number above 0$"):
            verify(bundles["onnx"], **limits)

    def test_no_python_to_start(self, bundles, monkeypatch):
        monkeypatch.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(EngineError, match="the trial can't start a Python process"):
            verify(bundles["onnx"])
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        with pytest.raises(EngineError, match="a frozen program lacks"):
            verify(bundles["onnx"])

    def test_a_bundle_without_golden_images_is_run_all_the_same(self, own_copy):
        folder = own_copy("onnx")
        (folder / GOLDEN).unlink()
        reseal(folder)
        found = verify(folder)
        assert (found.golden, found.max_abs_difference, found.tolerance) == (0, None, None)
        assert found.files == len(manifest(folder)["files"])
