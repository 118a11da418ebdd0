"""A bundle is whole, or it is refused with the name of what is wrong; and it proves itself where it stands."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdk
from bundle_edits import manifest, reseal, rewrite
from patterns import LABELS, SIZE
from runtimes.base import ModelFiles, Signature
from runtimes.engines import RUNNABLE, open_session
from sdk import Bundle, BundleError, ProofError, verify
from sdk.bundle.golden import GOLDEN
from sdk.bundle.manifest import MANIFEST, embedded
from sdk.bundle.writing import new_folder
from sdk.exporting.card import CARD


class TestWhatABundleSays:
    @pytest.mark.parametrize("target", RUNNABLE)
    def test_its_attributes(self, bundles, target):
        bundle = Bundle.open(bundles[target].path)
        assert bundle == bundles[target]
        assert (bundle.target, bundle.precision, bundle.labels) == (target, "fp32", LABELS)
        assert bundle.manifest.model.teachers == ("conv", "involution")
        assert bundle.proved
        assert bundle.size_bytes == sum(
            file.stat().st_size for file in bundle.path.iterdir() if file.name not in (MANIFEST, CARD, GOLDEN)
        )

    def test_its_json_has_the_documented_keys(self, bundles):
        found = manifest(bundles["onnx"].path)
        assert list(found) == [
            *("format", "name", "created", "target", "backend", "precision", "labels", "input", "output", "model"),
            *("quantized", "versions", "files", "lowered", "proof"),
        ]
        assert found["format"] == "libkd-bundle/1"
        assert found["input"] == {
            "dtype": "uint8",
            "layout": "NHWC",
            "channels": "RGB",
            "height": SIZE,
            "width": SIZE,
            "resize": {"mode": "cover", "size": [SIZE, SIZE], "filter": "bicubic"},
            "crop": "center",
        }
        assert found["output"] == {"kind": "probabilities", "temperature": 1.0}
        assert set(found["files"]) == {"model.onnx", CARD, GOLDEN}
        assert set(found["versions"]) >= {"libkd-sdk", "torch", "onnxruntime"}

    def test_it_travels(self, own_copy):
        folder = own_copy("onnx")
        assert verify(folder).golden == 12


class TestVerify:
    @pytest.mark.parametrize("target", RUNNABLE)
    def test_a_good_bundle(self, bundles, target):
        found = verify(bundles[target], threads=1)
        assert found.files == len(bundles[target].manifest.files)
        assert found.golden == 12
        assert found.max_abs_difference < 1e-5
        assert found.tolerance == 1e-4

    @pytest.mark.parametrize("target", RUNNABLE)
    def test_the_model_file_of_another_export(self, bundles, own_copy, target):
        folder = own_copy(target)
        rewrite(folder, labels=[*LABELS[:-1], "jacket"])
        with pytest.raises(
            BundleError, match=rf"{folder}: model\.\w+ was made for another bundle.json; copy the whole"
        ):
            sdk.Classifier(folder)
        with pytest.raises(BundleError, match="was made for another"):
            verify(folder)

    @pytest.mark.parametrize("target", RUNNABLE)
    @pytest.mark.parametrize(
        ("where", "value"),
        [
            ("resize", {"mode": "squash", "size": [SIZE, SIZE], "filter": "bicubic"}),
            ("resize", {"mode": "cover", "size": [SIZE, SIZE], "filter": "nearest"}),
            ("resize", {"mode": "cover", "size": [2 * SIZE, 2 * SIZE], "filter": "bicubic"}),
        ],
    )
    def test_a_manifest_that_was_changed_is_seen_at_every_load(self, own_copy, target, where, value):
        folder = own_copy(target)
        rewrite(folder, input={**manifest(folder)["input"], where: value})
        with pytest.raises(BundleError, match=r"was made for another bundle\.json"):
            sdk.Classifier(folder)

    @pytest.mark.parametrize("target", RUNNABLE)
    def test_shuffled_labels_are_seen_at_every_load(self, own_copy, target):
        folder = own_copy(target)
        rewrite(folder, labels=list(reversed(LABELS)))
        with pytest.raises(BundleError, match=r"was made for another bundle\.json"):
            sdk.Classifier(folder)

    @pytest.mark.parametrize("target", RUNNABLE)
    def test_what_is_known_only_afterwards_does_not_ride_inside(self, bundles, target):
        bundle = bundles[target]
        signature = Signature(SIZE, SIZE, len(LABELS))
        session, text = open_session(target, ModelFiles(str(bundle.path), bundle.contents), signature, 1)
        session.close()
        carried = json.loads(text)
        outside = manifest(bundle.path)
        del outside["files"], outside["lowered"], outside["proof"]
        assert carried == outside
        assert "\n" not in embedded(bundles[target].manifest)

    def test_answers_that_this_machine_does_not_reproduce(self, own_copy):
        folder = own_copy("onnx")
        golden = load_file(folder / GOLDEN)
        golden["probabilities"] = np.roll(golden["probabilities"], 1, axis=1)
        save_file(golden, folder / GOLDEN)
        reseal(folder)
        with pytest.raises(ProofError, match=r"golden answers are off by 0\.\d+ on this machine, more than 0.0001"):
            verify(folder)
        with pytest.raises(ProofError, match="golden answers are off"):
            sdk.Classifier(folder, self_test=True)
        sdk.Classifier(folder).close()

    def test_weights_of_openvino_that_were_changed_and_hashed_again(self, own_copy):
        folder = own_copy("openvino")
        weights = bytearray((folder / "model.bin").read_bytes())
        weights[100_000:110_000] = bytes(10_000)
        (folder / "model.bin").write_bytes(weights)  # the engine loads it, and answers
        reseal(folder)
        with pytest.raises(ProofError, match="golden answers are off"):
            verify(folder)

    @pytest.mark.parametrize(
        "tensors",
        [
            {"pixels": np.zeros((2, SIZE, SIZE, 3), np.uint8)},
            {"pixels": np.zeros((2, 8, 8, 3), np.uint8), "probabilities": np.zeros((2, 5), np.float32)},
            {"pixels": np.zeros((2, SIZE, SIZE, 3), np.float32), "probabilities": np.zeros((2, 5), np.float32)},
            {"pixels": np.zeros((2, SIZE, SIZE, 3), np.uint8), "probabilities": np.zeros((3, 5), np.float32)},
            {"pixels": np.zeros((0, SIZE, SIZE, 3), np.uint8), "probabilities": np.zeros((0, 5), np.float32)},
            {"pixels": np.array(1, np.uint8), "probabilities": np.zeros((2, 5), np.float32)},
        ],
    )
    def test_golden_images_that_do_not_fit(self, own_copy, tensors):
        folder = own_copy("onnx")
        save_file(tensors, folder / GOLDEN)
        reseal(folder)
        with pytest.raises(BundleError, match=r"golden.safetensors (does not fit|can't be read)"):
            verify(folder)

    @pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2", "I64", "BOOL", "U4"])
    def test_golden_images_of_a_dtype_that_is_not_theirs(self, own_copy, dtype):
        folder = own_copy("onnx")
        pixels = {"dtype": dtype, "shape": [1, 2], "data_offsets": [0, 2 * 8 if dtype == "I64" else 4]}
        header = json.dumps({"pixels": pixels}).encode()
        (folder / GOLDEN).write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        reseal(folder)
        with pytest.raises(BundleError, match=r"golden.safetensors (does not fit|can't be read)"):
            verify(folder)

    def test_golden_images_that_are_none(self, own_copy):
        folder = own_copy("onnx")
        (folder / GOLDEN).write_bytes(b"\xff" * 500)
        reseal(folder)
        with pytest.raises(BundleError, match=r"golden.safetensors can't be read"):
            verify(folder)


class TestDamage:
    @pytest.mark.parametrize(
        ("target", "name"),
        [
            ("onnx", "model.onnx"),
            ("onnx", GOLDEN),
            ("openvino", "model.xml"),
            ("openvino", "model.bin"),
            ("openvino", GOLDEN),
            ("executorch", "model.pte"),
            ("executorch", GOLDEN),
        ],
    )
    def test_one_changed_byte(self, own_copy, target, name):
        folder = own_copy(target)
        content = bytearray((folder / name).read_bytes())
        for place in (0, 9, len(content) // 2, len(content) - 1):
            content[place] ^= 0x10
            (folder / name).write_bytes(content)
            with pytest.raises(BundleError, match=name):
                Bundle.open(folder)
            content[place] ^= 0x10
        (folder / name).write_bytes(content)
        assert Bundle.open(folder).target == target

    @pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0", lambda _: b""])
    def test_another_length(self, own_copy, change):
        folder = own_copy("openvino")
        (folder / "model.bin").write_bytes(change((folder / "model.bin").read_bytes()))
        with pytest.raises(
            BundleError, match=r"model.bin has (over )?[\d,]+ bytes, not [\d,]+; copy or export the bundle again"
        ):
            Bundle.open(folder)

    def test_the_file_of_another_engine(self, bundles, own_copy):
        folder = own_copy("onnx")
        (folder / "model.onnx").write_bytes((bundles["executorch"].path / "model.pte").read_bytes())
        reseal(folder)
        with pytest.raises(BundleError, match=r"model\.onnx is not a file of ONNX Runtime"):
            Bundle.open(folder)

    @pytest.mark.parametrize("name", ["w.bin", ".hidden", "model.onnx.data", "sub/deep.bin"])
    def test_nothing_lies_in_the_folder_that_is_not_listed(self, own_copy, name):
        folder = own_copy("onnx")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        with pytest.raises(
            BundleError, match=rf"holds '{name.split('/')[0]}', which bundle.json does not list; remove it"
        ):
            Bundle.open(folder)

    def test_links_and_pipes_are_no_files_of_a_bundle(self, own_copy):
        folder = own_copy("onnx")
        file = folder / "model.onnx"
        file.rename(folder.parent / "elsewhere")
        file.symlink_to(folder.parent / "elsewhere")
        with pytest.raises(BundleError, match=r"model\.onnx is a link; copy the file itself"):
            Bundle.open(folder)
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(BundleError, match=r"model\.onnx is unreadable \(not a regular file\)"):
            Bundle.open(folder)

    def test_systems_that_cannot_hold_on_to_a_folder_read_it_by_its_path(self, own_copy, monkeypatch):
        monkeypatch.setattr("sdk.files.BY_DESCRIPTOR", False)
        folder = own_copy("onnx")
        assert Bundle.open(folder).target == "onnx"
        (folder / "w.bin").write_bytes(b"x")
        with pytest.raises(BundleError, match=r"holds 'w\.bin'"):
            Bundle.open(folder)
        (folder / "w.bin").unlink()
        with new_folder(folder) as new:
            (new / "a").write_text("a")
        assert [file.name for file in folder.iterdir()] == ["a"]

    def test_files_are_read_once_and_again_only_with_a_check(self, own_copy):
        folder = own_copy("onnx")
        bundle = Bundle.open(folder)
        content = (folder / "model.onnx").read_bytes()
        (folder / "model.onnx").write_bytes(content[:-1] + b"\0")
        assert bundle.read("model.onnx") == content
        bundle.session(1).close()
        with pytest.raises(BundleError, match=r"model\.onnx was changed since its export"):
            bundle.without_contents().session(1)

    @pytest.mark.parametrize("name", ["model.onnx", GOLDEN])
    def test_a_missing_file(self, own_copy, name):
        folder = own_copy("onnx")
        (folder / name).unlink()
        with pytest.raises(BundleError, match=f"{name} is missing; copy or export the bundle again"):
            Bundle.open(folder)

    def test_no_bundle_at_all(self, tmp_path):
        with pytest.raises(BundleError, match=r"nowhere: not a bundle \(No such file or directory\)"):
            Bundle.open(tmp_path / "nowhere")
        with pytest.raises(BundleError, match="give the folder that export wrote"):
            Bundle.open(tmp_path)

    def test_the_graph_has_to_fit_the_manifest(self, own_copy):
        folder = own_copy("onnx")
        rewrite(folder, labels=[*LABELS, "one more"])
        with pytest.raises(BundleError, match=r"output is probabilities: float32 \[n, 5\], and not .*\[n, 6\]"):
            sdk.Classifier(folder)
