"""The package keeps its promises: cheap to import, no torch on the device, one family of errors."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sdk
from programs import needs_compiler
from sdk import errors

HEAVY = ("torch", "timm", "onnxruntime", "openvino", "executorch", "matplotlib", "PIL", "trainer", "rich", "typer")


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def without(*packages: str) -> str:
    """The start of a program in which these packages are not installed."""
    return (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {packages!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )


def test_importing_it_loads_nothing_heavy():
    done = run(f"import sys, sdk; print(sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


def test_the_device_part_loads_neither_torch_nor_an_engine():
    done = run(
        "import sys\nfrom sdk import Classifier, Prediction, Bundle, Preprocessing, Input, Resize, verify, benchmark\n"
        "print(sorted({'torch', 'timm', 'onnxruntime', 'openvino', 'executorch', 'matplotlib'} & set(sys.modules)))"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_is_there():
    assert len(sdk.__all__) == len(set(sdk.__all__))
    for name in sdk.__all__:
        assert getattr(sdk, name) is not None
        assert name in dir(sdk)
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        sdk.Clasifier  # noqa: B018


def test_the_names_have_a_second_home():
    import libkd_sdk

    for name in sdk.__all__:
        assert getattr(libkd_sdk, name) is getattr(sdk, name)
        assert name in dir(libkd_sdk)
    with pytest.raises(AttributeError, match="module 'libkd_sdk' has no attribute 'Clasifier'"):
        libkd_sdk.Clasifier  # noqa: B018
    done = run(
        "import sys, libkd_sdk\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
        "import libkd_sdk.main, sdk\n"
        "print(libkd_sdk.export is sdk.export, libkd_sdk.verify is sdk.verify, libkd_sdk.benchmark is sdk.benchmark)"
    )
    assert done.stdout.splitlines() == ["[]", "True True True"], done.stderr


def test_export_stays_a_function_whatever_is_imported():
    done = run(
        "import sdk.exporting.exporter, sdk; from sdk import export; print(callable(export), sdk.export is export)"
    )
    assert done.stdout.strip() == "True True", done.stderr


def test_every_error_is_of_the_family_and_has_an_exit_code():
    family = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(family) == 10
    assert len({kind.code for kind in family}) == 10
    for kind in family:
        assert issubclass(kind, sdk.LibkdError)
        assert kind.exit_code in (1, 2)
        assert kind.__name__ in sdk.__all__


@pytest.mark.parametrize("target", ["onnx", "openvino", pytest.param("executorch", marks=needs_compiler)])
def test_bundles_predict_where_there_is_no_torch(bundles, target):
    program = without("torch", "torchvision", "timm", "onnxscript", "onnx", "nncf") + (
        "import numpy as np, sdk\n"
        f"with sdk.Classifier({str(bundles[target].path)!r}, self_test=True) as classifier:\n"
        "    classifier.warm_up()\n"
        "    golden = classifier.bundle.golden()\n"
        "    found = classifier.predict_batch(golden.pixels)\n"
        "    assert max(abs(f.probabilities - p).max() for f, p in zip(found, golden.probabilities)) < 1e-5\n"
        f"print(sdk.verify({str(bundles[target].path)!r}).golden, 'torch' in sys.modules)\n"
    )
    done = run(program)
    assert done.stdout.strip() == "12 False", done.stderr


@pytest.mark.parametrize(
    ("target", "absent", "message"),
    [
        ("openvino", "openvino", "OpenVINO: openvino is not installed; pip install 'libkd-sdk[openvino]'"),
        ("executorch", "executorch", "ExecuTorch: executorch is not installed; pip install 'libkd-sdk[executorch]'"),
        ("onnx", "onnxruntime", "ONNX Runtime: onnxruntime is not installed; pip install 'libkd-sdk'"),
    ],
)
def test_a_missing_engine_is_named_with_its_mend(bundles, target, absent, message):
    done = run(
        without(absent) + "import sdk\n"
        f"try: sdk.Classifier({str(bundles[target].path)!r})\n"
        "except sdk.EngineMissing as fault: print(fault, fault.exit_code)\n"
    )
    assert done.stdout.strip() == f"{message} 2", done.stderr


@pytest.mark.parametrize(
    ("target", "absent", "message"),
    [
        ("onnx", "torch", "ONNX Runtime: torch is not installed; pip install 'libkd-sdk[export]'"),
        ("onnx", "onnxscript", "ONNX Runtime: onnxscript is not installed; pip install 'libkd-sdk[export]'"),
        ("openvino", "openvino", "OpenVINO: openvino is not installed; pip install 'libkd-sdk[export,openvino]'"),
        ("openvino", "nncf", "OpenVINO: nncf is not installed; pip install 'libkd-sdk[export,openvino]'"),
    ],
)
def test_what_an_export_needs_is_named_with_its_mend(tmp_path, target, absent, message):
    done = run(
        without(absent) + "import sdk\n"
        f"try: sdk.export(None, target={target!r}, out={str(tmp_path / 'b')!r}, labels=['a', 'b'],"
        " preprocessing=sdk.Preprocessing.square(8))\n"
        "except sdk.EngineMissing as fault: print(fault, fault.exit_code)\n"
    )
    assert done.stdout.strip() == f"{message} 2", done.stderr
    assert not list(tmp_path.iterdir())
