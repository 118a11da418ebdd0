"""A bundle is whole, or it is refused with the name of what is wrong; and it proves itself where it stands."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdk
from bundle_edits import manifest, reseal, rewrite
from patterns import LABELS, SIZE
from runtimes.engines import ENGINES
from sdk import Bundle, BundleError, ProofError, UsageError, verify
from sdk.bundle.folder import check_replaceable, new_folder, seal
from sdk.bundle.golden import GOLDEN
from sdk.bundle.manifest import MANIFEST, embedded
from sdk.exporting.card import CARD


class TestWhatABundleSays:
    @pytest.mark.parametrize("target", ENGINES)
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
        assert verify(folder).golden == 8

    def test_files_may_be_links_within_the_folder(self, own_copy):
        folder = own_copy("onnx")
        (folder / "model.onnx").rename(folder / "weights")
        (folder / "model.onnx").symlink_to("weights")
        assert Bundle.open(folder).target == "onnx"


class TestVerify:
    @pytest.mark.parametrize("target", ENGINES)
    def test_a_good_bundle(self, bundles, target):
        found = verify(bundles[target], threads=1)
        assert found.files == len(bundles[target].manifest.files)
        assert found.golden == 8
        assert found.max_abs_difference < 1e-5
        assert found.tolerance == 1e-4

    @pytest.mark.parametrize("target", ENGINES)
    def test_the_model_file_of_another_export(self, bundles, own_copy, target):
        folder = own_copy(target)
        rewrite(folder, labels=[*LABELS[:-1], "jacket"])
        with pytest.raises(
            BundleError, match=rf"{folder}: model\.\w+ was made for another bundle.json; copy the whole"
        ):
            verify(folder)

    @pytest.mark.parametrize("target", ENGINES)
    def test_what_is_known_only_afterwards_does_not_ride_inside(self, bundles, target):
        from runtimes.engines import read_manifest

        carried = json.loads(read_manifest(target, bundles[target].path))
        outside = manifest(bundles[target].path)
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

    def test_weights_that_were_changed_and_hashed_again(self, own_copy):
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
            BundleError, match=r"model.bin has [\d,]+ bytes, not [\d,]+; copy or export the bundle again"
        ):
            Bundle.open(folder)

    def test_files_of_another_bundle_of_the_same_shape(self, bundles, own_copy):
        folder = own_copy("onnx")
        (folder / "model.onnx").write_bytes((bundles["executorch"].path / "model.pte").read_bytes())
        with pytest.raises(BundleError, match=r"model\.onnx is not a file of ONNX Runtime"):
            Bundle.open(folder)

    @pytest.mark.parametrize("name", ["model.onnx", GOLDEN])
    def test_a_missing_file(self, own_copy, name):
        folder = own_copy("onnx")
        (folder / name).unlink()
        with pytest.raises(BundleError, match=f"{name} is missing; copy or export the bundle again"):
            Bundle.open(folder)

    def test_no_bundle_at_all(self, tmp_path):
        with pytest.raises(BundleError, match=r"nowhere: not a bundle \(it has no bundle.json\)"):
            Bundle.open(tmp_path / "nowhere")
        with pytest.raises(BundleError, match="give the folder that export wrote"):
            Bundle.open(tmp_path)

    def test_the_graph_has_to_fit_the_manifest(self, own_copy):
        folder = own_copy("onnx")
        rewrite(folder, labels=[*LABELS, "one more"])
        with pytest.raises(BundleError, match=r"model\.onnx takes 32x32 pixels and knows 5 classes, not 32x32 and 6"):
            sdk.Classifier(folder)


class TestWriting:
    def everything_in(self, folder: Path) -> list[str]:
        return sorted(file.name for file in folder.iterdir())

    def test_a_folder_appears_whole(self, tmp_path):
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
            assert not (tmp_path / "out").exists()
        assert self.everything_in(tmp_path) == ["out"]
        assert self.everything_in(tmp_path / "out") == ["a"]

    @pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_or_not_at_all(self, tmp_path, fault):
        def interrupted() -> None:
            with new_folder(tmp_path / "deep" / "out") as folder:
                (folder / "a").write_text("a")
                raise fault

        with pytest.raises(fault):
            interrupted()
        assert self.everything_in(tmp_path) == []

    def test_the_folders_on_the_way_are_made(self, tmp_path):
        with new_folder(tmp_path / "deep" / "er" / "out") as folder:
            (folder / "a").write_text("a")
        assert self.everything_in(tmp_path / "deep" / "er" / "out") == ["a"]

    def test_an_old_bundle_stays_until_the_new_one_is_whole(self, own_copy):
        out = own_copy("onnx")

        def interrupted() -> None:
            with new_folder(out):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert Bundle.open(out).target == "onnx"
        with new_folder(out) as folder:
            (folder / "a").write_text("a")
        assert self.everything_in(out) == ["a"]
        assert self.everything_in(out.parent) == [out.name]

    def test_what_is_no_bundle_is_not_replaced(self, own_copy, tmp_path):
        own = own_copy("onnx")
        (own / "notes.txt").write_text("mine")
        strange = tmp_path / "strange"
        strange.mkdir()
        (strange / "thesis.tex").write_text("mine")
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        (foreign / MANIFEST).write_text("{}")
        for out, name in ((own, "notes.txt"), (strange, "thesis.tex"), (foreign, MANIFEST)):
            with pytest.raises(UsageError, match=f"holds {name}, which is not part of a bundle; choose another folder"):
                check_replaceable(out)
        with pytest.raises(UsageError, match="not a folder"):
            check_replaceable(strange / "thesis.tex")
        assert (strange / "thesis.tex").read_text() == "mine"

    def test_empty_folders_are_taken(self, tmp_path):
        (tmp_path / "out").mkdir()
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
        assert self.everything_in(tmp_path / "out") == ["a"]

    def test_the_same_manifest_is_the_same_bytes(self, bundles, tmp_path):
        written = bundles["onnx"].manifest
        turned = msgspec.structs.replace(written, versions=dict(reversed(written.versions.items())))
        for name, version in (("one", written), ("two", turned)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "model.onnx").write_bytes(b"\x08")
            seal(tmp_path / name, version)
        assert (tmp_path / "one" / MANIFEST).read_bytes() == (tmp_path / "two" / MANIFEST).read_bytes()

    def test_errors_of_the_file_system_are_ours(self):
        with pytest.raises(BundleError, match=r"can't be read \(File name too long\)"):
            Bundle.open("x" * 5000)
