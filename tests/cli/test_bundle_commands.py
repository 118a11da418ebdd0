"""The commands that make and use bundles: export, predict, benchmark, eval, verify and info."""

from __future__ import annotations

import json
import shutil

import pytest

import sdk
from shell import libkd, succeeded

pytestmark = pytest.mark.slow


def test_predictions_of_images_folders_and_standard_input_agree(bundle, clothes, shell):
    folder = clothes / "test" / "Trouser"
    lines = succeeded(libkd("predict", bundle, folder, "--json")).splitlines()
    rows = {row["source"]: row for row in map(json.loads, lines)}
    assert list(rows) == sorted(str(path) for path in folder.iterdir())
    first = folder / "0.png"
    (line,) = succeeded(libkd("predict", bundle, "-", "--json", stdin=first.read_bytes())).splitlines()
    assert {**json.loads(line), "source": str(first)} == rows[str(first)]
    classifier = sdk.Classifier(bundle)
    assert rows[str(first)]["label"] == classifier.predict(first).label
    table = shell.succeeded("predict", bundle, first, "--top-k", 1)
    assert rows[str(first)]["label"] in table


def test_one_unreadable_image_does_not_stop_the_others(bundle, clothes, tmp_path, shell):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no more")
    good = clothes / "test/Bag/0.png"
    process = libkd("predict", bundle, broken, good, "--json")
    assert process.returncode == 2
    first, second = map(json.loads, process.stdout.splitlines())
    assert "not a readable image" in first["error"]
    assert first["code"] == "image-unreadable"
    assert second["label"]
    done = shell.run("predict", bundle, broken, good)
    assert done.code == 2
    assert done.err.startswith(f"libkd-sdk: {broken}: not a readable image")
    assert done.err.endswith("[image-unreadable]\n")
    assert second["label"] in done.out


def test_bundles_are_measured_beside_their_engine_and_judged(bundle, clothes, tmp_path, shell):
    page = tmp_path / "speed.html"
    options = ("--rounds", 2, "--calls", 3, "--threads", 1, "--validation", clothes)
    found = json.loads(shell.succeeded("benchmark", bundle, bundle, *options, "--report", page, "--json"))
    judged = json.loads(shell.succeeded("eval", bundle, "--data", clothes, "--json"))
    assert [row["bundle"] for row in found] == [str(bundle)] * 2
    for row in found:
        assert row["top1"] == pytest.approx(judged["top1"])
        assert row["speed"]["calls"] == row["bare"]["calls"] == 6
    html = page.read_text(encoding="utf-8")
    assert html.count("the engine alone") >= 2
    assert html.count("<svg") + html.count('class="strips"') == 4
    assert "<script" not in html
    assert 'src="http' not in html


def test_a_page_that_cannot_be_written_is_told_before_anything_is_measured(bundle, tmp_path, shell):
    done = shell.run("benchmark", bundle, "--report", tmp_path / "none" / "speed.html")
    assert done.code == 2
    assert "name a file in a folder that exists" in done.err
    assert "measuring" not in done.err


def test_a_benchmark_of_an_unproved_bundle_says_no_accuracy(own_copy, tmp_path, shell):
    page, unproved = tmp_path / "speed.html", own_copy("openvino")
    manifest = json.loads((unproved / "bundle.json").read_text())
    (unproved / "bundle.json").write_text(json.dumps({**manifest, "proof": None}))
    table = shell.succeeded("benchmark", unproved, "--rounds", 1, "--calls", 1, "--report", page)
    assert "the engine alone" in table
    assert "Top-1 by latency" not in page.read_text(encoding="utf-8")


def test_a_run_and_its_bundle_are_judged_alike(distilled, bundle, clothes, shell):
    run = json.loads(shell.succeeded("eval", distilled, "--json"))
    own = json.loads(shell.succeeded("eval", bundle, "--data", clothes, "--json"))
    assert run["images"] == own["images"] == 24
    assert run["confusion"] == own["confusion"]
    assert run["nll"] == pytest.approx(own["nll"], abs=1e-3)
    assert "most often taken for" in shell.succeeded("eval", distilled)


def test_info_verify_and_their_json_tell_what_the_manifest_says(bundle, shell):
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert json.loads(succeeded(libkd("info", bundle, "--json"))) == {
        **manifest,
        "signed": None,
        "unverified_on_device": False,
    }
    assert manifest["model"]["teachers"] == ["conv", "involution"]
    assert manifest["proof"]["images"] == 24
    assert manifest["proof"]["max_abs_difference"] <= 1e-4
    text = shell.succeeded("info", bundle)
    assert "Bag, Sneaker, Trouser" in text
    verified = json.loads(succeeded(libkd("verify", bundle, "--json")))
    assert verified["ok"]
    assert verified["max_abs_difference"] <= verified["tolerance"]
    assert f"{bundle}: ok" in shell.succeeded("verify", bundle)


def test_8_bits_are_calibrated_on_the_run_s_own_images_or_on_others(distilled, clothes, tmp_path, shell):
    def exported(out, *options):
        options = ("--precision", "int8", "--max-drop", 50, "--out", tmp_path / out, *options)
        return json.loads(shell.succeeded("export", distilled, "--target", "onnx", "--json", *options))

    own = exported("own")
    assert 40 < own["quantized"]["calibration_images"] < 72  # all that it was trained on
    assert "training images, clothes" in shell.succeeded("info", own["bundle"])
    others = exported("others", "--calibrate", clothes / "test/Bag")
    assert others["quantized"]["calibration_images"] == 8
    assert "8 images, Bag" in shell.succeeded("info", others["bundle"])


def test_a_changed_byte_is_found_by_every_command(bundle, clothes, tmp_path, shell):
    copy = shutil.copytree(bundle, tmp_path / "changed")
    model = bytearray((copy / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (copy / "model.onnx").write_bytes(model)
    for arguments in (["verify", copy], ["info", copy], ["predict", copy, clothes / "test/Bag/0.png"]):
        line = shell.refused(*arguments)
        assert "model.onnx was changed since its export" in line
        assert line.endswith("[bundle-invalid]")
