"""The command line as a user runs it: a folder of pictures to predictions, and what wrong input gets."""

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import sdk
from clothes import CLASSES
from libkd_sdk.commands.demo import run_demo, show
from libkd_sdk.main import run as run_command

COMMANDS = (
    "demo",
    "teach",
    "precompute",
    "distill",
    "compare",
    "plan",
    "eval",
    "export",
    "predict",
    "benchmark",
    "verify",
    "info",
)


def libkd(*arguments, stdin=None, cwd=None) -> subprocess.CompletedProcess:
    """The installed command, in a process of its own."""
    command = [str(Path(sys.executable).with_name("libkd-sdk")), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=cwd, check=False, timeout=300)


def succeeded(process) -> str:
    assert process.returncode == 0, process.stderr.decode()
    return process.stdout.decode()


@pytest.fixture(scope="module")
def distilled(clothes, tiny_recipe_file, tmp_path_factory) -> Path:
    """A run made by one command, exported by another."""
    run = tmp_path_factory.mktemp("cli") / "run"
    process = libkd("distill", "--data", clothes, "--out", run, "--recipe", tiny_recipe_file, "--json")
    stages = json.loads(succeeded(process))["stages"]
    assert list(stages) == ["teachers/conv", "teachers/involution", "student"]
    assert b"Traceback" not in process.stderr
    succeeded(libkd("export", run, "--target", "onnx"))
    return run


def test_a_finished_run_is_not_trained_again(distilled, clothes):
    before = (distilled / "metrics.jsonl").read_bytes()
    table = succeeded(libkd("distill", "--out", distilled))  # it remembers its data and its recipe
    assert "student" in table
    assert (distilled / "metrics.jsonl").read_bytes() == before


def test_predictions_of_pictures_folders_and_standard_input_agree(distilled, clothes):
    bundle, folder = distilled / "bundles/onnx", clothes / "test" / "Trouser"
    lines = succeeded(libkd("predict", bundle, folder, "--json")).splitlines()
    rows = {row["source"]: row for row in map(json.loads, lines)}
    assert list(rows) == sorted(str(path) for path in folder.iterdir())
    first = folder / "0.png"
    (line,) = succeeded(libkd("predict", bundle, "-", "--json", stdin=first.read_bytes())).splitlines()
    assert {**json.loads(line), "source": str(first)} == rows[str(first)]
    classifier = sdk.Classifier(bundle)
    assert rows[str(first)]["label"] == classifier.predict(first).label
    table = succeeded(libkd("predict", bundle, first, "--top-k", 1))
    assert rows[str(first)]["label"] in table


def test_one_unreadable_picture_does_not_stop_the_others(distilled, clothes, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no more")
    good = clothes / "test/Bag/0.png"
    process = libkd("predict", distilled / "bundles/onnx", broken, good, "--json")
    assert process.returncode == 2
    first, second = map(json.loads, process.stdout.splitlines())
    assert "not a readable picture" in first["error"]
    assert second["label"]


def test_bundles_are_measured_beside_their_engine_and_judged(distilled, clothes, tmp_path):
    bundle, page = distilled / "bundles/onnx", tmp_path / "speed.html"
    options = ("--rounds", 2, "--calls", 3, "--threads", 1, "--validation", clothes)
    found = json.loads(succeeded(libkd("benchmark", bundle, bundle, *options, "--report", page, "--json")))
    judged = json.loads(succeeded(libkd("eval", bundle, "--data", clothes, "--json")))
    assert [row["bundle"] for row in found] == [str(bundle)] * 2
    for row in found:
        assert row["top1"] == pytest.approx(judged["top1"])
        assert row["speed"]["calls"] == row["bare"]["calls"] == 6
    html = page.read_text(encoding="utf-8")
    assert html.count("the engine alone") >= 2
    assert html.count("<svg") == 4
    assert "<script" not in html
    assert 'src="http' not in html


def test_a_page_that_cannot_be_written_is_told_before_anything_is_measured(bundles, tmp_path):
    process = libkd("benchmark", bundles["onnx"].path, "--report", tmp_path / "none" / "speed.html")
    assert process.returncode == 2
    assert b"name a file in a folder that exists" in process.stderr
    assert b"measuring" not in process.stderr


def test_a_benchmark_of_an_unproved_bundle_says_no_accuracy(bundles, tmp_path):
    page = tmp_path / "speed.html"
    table = succeeded(libkd("benchmark", bundles["openvino"].path, "--rounds", 1, "--calls", 1, "--report", page))
    assert "the engine alone" in table
    assert page.exists()


def test_a_run_and_its_bundle_are_judged_alike(distilled, clothes):
    run = json.loads(succeeded(libkd("eval", distilled, "--json")))
    bundle = json.loads(succeeded(libkd("eval", distilled / "bundles/onnx", "--data", clothes, "--json")))
    assert run["images"] == bundle["images"] == 24
    assert run["confusion"] == bundle["confusion"]
    assert run["nll"] == pytest.approx(bundle["nll"], abs=1e-3)
    assert "most often taken for" in succeeded(libkd("eval", distilled))


def test_info_verify_and_their_json_tell_what_the_manifest_says(distilled):
    bundle = distilled / "bundles/onnx"
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert json.loads(succeeded(libkd("info", bundle, "--json"))) == manifest
    assert manifest["model"]["teachers"] == ["conv", "involution"]
    assert manifest["proof"]["images"] == 24
    assert manifest["proof"]["max_abs_difference"] <= 1e-4
    text = succeeded(libkd("info", bundle))
    assert "Bag, Sneaker, Trouser" in text
    verified = json.loads(succeeded(libkd("verify", bundle, "--json")))
    assert verified["ok"]
    assert verified["max_abs_difference"] <= verified["tolerance"]


def test_8_bits_are_calibrated_on_the_run_s_own_pictures_or_on_others(distilled, clothes, tmp_path):
    def exported(out, *options):
        options = ("--precision", "int8", "--max-drop", 50, "--out", tmp_path / out, *options)
        return json.loads(succeeded(libkd("export", distilled, "--target", "onnx", "--json", *options)))

    own = exported("own")
    assert 40 < own["quantized"]["calibration_images"] < 72  # all that it was trained on
    assert "training pictures, clothes" in succeeded(libkd("info", own["bundle"]))
    others = exported("others", "--calibrate", clothes / "test/Bag")
    assert others["quantized"]["calibration_images"] == 8
    assert "8 pictures, Bag" in succeeded(libkd("info", others["bundle"]))


def test_a_changed_byte_is_found_by_every_command(distilled, clothes, tmp_path):
    copy = shutil.copytree(distilled / "bundles/onnx", tmp_path / "changed")
    model = bytearray((copy / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (copy / "model.onnx").write_bytes(model)
    for arguments in (["verify", copy], ["info", copy], ["predict", copy, clothes / "test/Bag/0.png"]):
        process = libkd(*arguments)
        assert process.returncode == 2
        assert b"model.onnx was changed since its export" in process.stderr
        assert process.stderr.count(b"\n") == 1


def test_the_store_is_checked_and_refilled(distilled, tmp_path):
    run = shutil.copytree(distilled, tmp_path / "run")
    checked = json.loads(succeeded(libkd("precompute", "--out", run, "--check", "--json")))
    assert checked["top1_agreement"] > 0.98
    unit = next((run / "logits").glob("view-*.safetensors"))
    content = unit.read_bytes()
    unit.unlink()
    assert json.loads(succeeded(libkd("precompute", "--out", run, "--json")))["units_computed"] == 1
    assert unit.read_bytes() == content
    process = libkd("precompute", "--out", run, "--check")
    assert "max. abs. error" in succeeded(process)
    first, second = sorted((run / "logits").glob("view-*.safetensors"))
    shutil.copy(first, second)
    process = libkd("precompute", "--out", run, "--check")
    assert process.returncode == 2
    assert b"logits: not what the teachers answer; remove the folder and precompute again" in process.stderr


def test_a_run_is_cut_to_the_time_it_is_given_and_goes_on_as_it_was_cut(clothes, tiny_recipe_file, tmp_path):
    arguments = ["distill", "--data", clothes, "--recipe", tiny_recipe_file, "--out", tmp_path / "run"]
    for within, line in (
        ("1ms", b"--within: '1ms' is not a time; write it as 90s, 30m or 1h30m"),
        ("0.5s", b"too little time: "),
    ):
        process = libkd(*arguments, "--within", within)
        assert process.returncode == 2
        assert line in process.stderr
        assert b"Traceback" not in process.stderr
        assert not (tmp_path / "run").exists()
    first = libkd(*arguments, "--within", "1h")
    assert b"all of the recipe fits" in first.stderr
    assert json.loads(succeeded(libkd(*arguments, "--within", "1h", "--json")))["stages"]["student"]
    again = libkd(*arguments, "--within", "1h")
    succeeded(again)
    assert b"goes on with the epochs and views that it began with" in again.stderr


def test_a_comparison_with_unlabelled_pictures_and_an_arm_of_ones_own(clothes, tiny_recipe_file, tmp_path):
    arms, out = tmp_path / "arms.toml", tmp_path / "comparison"
    arms.write_text('["hard labels".student]\nloss = "hard"\n')
    more = tmp_path / "more"
    shutil.copytree(clothes / "train/Bag", more)
    arguments = ["compare", "--data", clothes, "--unlabelled", more, "--recipe", tiny_recipe_file, "--out", out]
    process = libkd(*arguments, "--arms", arms, "--seeds", "1", "--labels", 0.5, "--json")
    results = json.loads(succeeded(process))
    assert json.loads((out / "results.json").read_text()) == results
    assert results["pictures"] == {"train": 33, "unlabelled": 33 + 24, "validation": 6, "test": 24}
    assert list(results["arms"]) == [
        "without teachers",
        "conv alone",
        "involution alone",
        "all teachers",
        "all teachers, labelled pictures only",
        "hard labels",
    ]
    assert b"pays from student" in process.stderr
    table = succeeded(libkd(*arguments, "--arms", arms, "--seeds", "1", "--labels", 0.5))
    assert "student, hard labels" in table
    assert "33 training pictures and 57 without labels" in table


def test_a_plan_is_reckoned_without_data_and_writes_nothing(tiny_recipe_file, tmp_path):
    arguments = ["plan", "--pictures", 50_000, "--classes", 3, "--size", 28, "--recipe", tiny_recipe_file]
    found = json.loads(succeeded(libkd(*arguments, "--json", cwd=tmp_path)))
    assert found["store"]["bytes"] == 2 * 50_000 * 2 * 3 * 2  # views, pictures, teachers, classes, float16
    assert found["store"]["pays_from_student"] == 1
    assert 0 < found["store"]["fill_seconds"] < found["store"]["online_seconds"] < found["seconds"]
    assert "logit store" in succeeded(libkd(*arguments, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_one_teacher_alone(clothes, tiny_recipe_file, tmp_path):
    arguments = ["teach", "conv", "--data", clothes, "--out", tmp_path / "run", "--recipe", tiny_recipe_file]
    assert "parameters" in succeeded(libkd(*arguments))
    assert sorted(path.name for path in (tmp_path / "run/teachers").iterdir()) == ["conv"]
    other = tmp_path / "other"
    process = libkd("teach", "transformer", "--data", clothes, "--out", other, "--recipe", tiny_recipe_file)
    assert process.returncode == 2
    assert not other.exists()
    assert b"has no teacher 'transformer'; it has conv, involution" in process.stderr


def test_ctrl_c_is_one_line_and_the_run_goes_on(clothes, tiny_recipe_file, tmp_path):
    arguments = ["distill", "--data", clothes, "--out", tmp_path / "run", "--recipe", tiny_recipe_file]
    command = [str(Path(sys.executable).with_name("libkd-sdk")), *map(str, arguments)]
    # A shell starts its background jobs with Ctrl-C ignored, and a child would inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        for line in process.stderr:
            if line.startswith("training teachers/involution"):
                process.send_signal(signal.SIGINT)
                break
        assert process.stderr.read().splitlines()[-1] == "libkd-sdk: interrupted"
    assert process.returncode == 130
    assert (tmp_path / "run/teachers/conv/config.json").exists()
    assert not (tmp_path / "run/student/config.json").exists()
    assert "student" in succeeded(libkd("distill", "--out", tmp_path / "run"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_loads_nothing_heavy(command, monkeypatch):
    code = (
        "import sys; from libkd_sdk.main import run; run(sys.argv[1:]); print(sorted({'torch', 'timm', 'onnxruntime', "
        "'openvino', 'executorch', 'matplotlib'} & set(sys.modules)))"
    )
    env = {**os.environ, "COLUMNS": "200"}
    process = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, env=env, check=True)
    *_, last = process.stdout.decode().splitlines()
    assert last == "[]"
    assert "Usage: libkd-sdk" in process.stdout.decode()
    assert f"Example: libkd-sdk {command}" in process.stdout.decode()


def fails(capfd, *arguments) -> str:
    """What a command says that exits with 2: one line on stderr, after its progress, and nothing on stdout."""
    assert run_command([str(argument) for argument in arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    *progress, line = err.splitlines()
    assert line.startswith("libkd-sdk: ")
    assert all(before.startswith("reading images") for before in progress)
    return line


def test_wrong_input_gets_one_line_and_leaves_nothing(capfd, clothes, tiny_recipe_file, tmp_path, distilled):
    run = tmp_path / "run"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images in it" in fails(capfd, "distill", "--data", empty, "--out", run)
    assert "no such folder or archive" in fails(capfd, "distill", "--data", tmp_path / "nowhere", "--out", run)
    assert "name the images by --data" in fails(capfd, "distill", "--out", run)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(tiny_recipe_file.read_text() + "\n[student.traning]\nepochs = 3\n")
    assert "unknown field `traning`" in fails(capfd, "distill", "--data", clothes, "--out", run, "--recipe", wrong)
    assert "no device 'gpu9'" in fails(capfd, "distill", "--data", clothes, "--out", run, "--device", "gpu9")
    assert "No such option" in fails(capfd, "distill", "--dta", clothes)
    assert "no run there" in fails(capfd, "export", run, "--target", "onnx")
    compare = ("compare", "--data", clothes, "--out", run, "--recipe", tiny_recipe_file)
    assert "whole numbers" in fails(capfd, *compare, "--seeds", "a")
    assert "names a seed twice" in fails(capfd, *compare, "--seeds", "1,1")
    assert "no arms" in fails(capfd, *compare, "--arms", empty / "none.toml")
    assert "labels is above 0" in fails(capfd, *compare, "--labels", 0)
    assert "name the images by --data" in fails(capfd, "compare", "--out", run)
    assert "no such folder" in fails(capfd, "distill", "--data", clothes, "--unlabelled", tmp_path / "no", "--out", run)
    assert "--unlabelled goes with --data" in fails(capfd, "distill", "--unlabelled", clothes, "--out", distilled)
    assert "--pictures" in fails(capfd, "plan", "--pictures", 0, "--classes", 2, "--size", 28)
    assert not run.exists()

    other = tmp_path / "other"
    shutil.copytree(clothes, other)
    (other / "train/Bag/0.png").unlink()
    before = sorted(distilled.rglob("*"))
    assert "belongs to other data" in fails(capfd, "distill", "--data", other, "--out", distilled)
    assert "another recipe (it differs in seed)" in fails(capfd, "distill", "--out", distilled, "--seed", 8)
    assert "did you mean" in fails(capfd, "export", distilled, "--target", "onxx")
    assert "is lowered at fp32, fp16, int8" in fails(
        capfd, "export", distilled, "--target", "onnx", "--precision", "int3"
    )
    assert "no bundle" in fails(capfd, "predict", distilled, clothes / "test/Bag/0.png")
    assert "name some by --data" in fails(capfd, "eval", distilled / "bundles/onnx")
    assert "no pictures in this folder" in fails(capfd, "predict", distilled / "bundles/onnx", empty)
    assert sorted(distilled.rglob("*")) == before


def test_a_missing_extra_is_named_with_its_command(distilled, clothes):
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "timm", "openvino"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from libkd_sdk.main import run
sys.exit(run(sys.argv[1:]))
"""

    def without(*arguments):
        return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, check=False)

    process = without("distill", "--data", clothes)
    assert process.returncode == 2
    assert process.stderr.decode() == "libkd-sdk: training needs torch; pip install 'libkd-sdk[train]'\n"
    picture = clothes / "test/Bag/0.png"
    bundle = distilled / "bundles/onnx"
    same = libkd("predict", bundle, picture, "--json")
    assert json.loads(succeeded(without("predict", bundle, picture, "--json"))) == json.loads(succeeded(same))
    assert without("verify", bundle).returncode == 0
    assert without("info", bundle).returncode == 0


def test_what_nobody_expected_is_one_line_too(capfd, monkeypatch, distilled):
    def breaks(*args, **kwargs):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("libkd_sdk.commands.verify.verify_bundle", breaks)
    assert run_command(["verify", str(distilled)]) == 1
    assert "unexpected ZeroDivisionError: division by zero; LIBKD_DEBUG=1 shows where" in capfd.readouterr().err
    monkeypatch.setenv("LIBKD_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run_command(["verify", str(distilled)])


def test_the_demo_does_the_whole_job(clothes, tiny_recipe_file, tmp_path, capfd):
    result = run_demo(tmp_path, str(clothes), str(tiny_recipe_file))
    assert json.loads((tmp_path / "demo.json").read_text()) == result
    assert list(result["accuracy"]) == [
        "teacher conv",
        "teacher involution",
        "student, without teachers",
        "student, distilled",
    ]
    assert list(result["bundles"]) == ["onnx", "openvino", "executorch"]
    for bundle in result["bundles"].values():
        assert sdk.Bundle.open(bundle["path"]).proved
        assert bundle["proof"]["images"] == 24
        assert bundle["proof"]["max_abs_difference"] <= 1e-4
        assert bundle["proof"]["top1"] == bundle["proof"]["reference_top1"]
        assert 0 < bundle["p50_ms"] <= bundle["p95_ms"]
    by_engine = list(result["predictions"].values())
    assert by_engine[0].keys() == {path.stem for path in (tmp_path / "pictures").iterdir()} == set(CLASSES)
    for answers in by_engine[1:]:
        assert {name: answer["label"] for name, answer in answers.items()} == {
            name: answer["label"] for name, answer in by_engine[0].items()
        }
    show(result, tmp_path)
    shown = capfd.readouterr().out
    for word in ("teacher involution", "student, distilled", "executorch fp32", "latency p50", *CLASSES):
        assert word in shown
