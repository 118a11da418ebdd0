"""Every command and snippet of the documentation works, or is marked with what it needs."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from PIL import Image

import documents
import sdk
from documents import PAGES, ROOT, Block, blocks
from libkd_sdk.main import app
from libkd_sdk.main import run as run_command
from trainer.arms import Change
from trainer.recipe import Recipe

BLOCKS = [block for page in PAGES for block in blocks(page)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNNABLE = ("bash", "python")
MARK = re.compile(
    r"needs: (?:gpu|network|hours)(?:, (?:gpu|network|hours))*"
    r"|slow: run by (?P<file>\S+)"
    r"|by hand: \w.*"
)


def place(block: Block) -> str:
    return f"{documents.name(block.page)}:{block.line}"


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=place(block)) for block in BLOCKS if block.language in languages]


def test_there_are_many_and_each_says_its_language():
    assert len(of("bash")) > 25
    assert {block.language for block in BLOCKS} <= {"bash", "python", "javascript", "cpp", "toml", "text", "json"}


@pytest.mark.parametrize("block", [pytest.param(block, id=place(block)) for block in BLOCKS if block.mark])
def test_a_mark_says_what_is_needed_or_which_file_runs_it(block):
    mark = MARK.fullmatch(block.mark)
    assert mark, block.mark
    assert block.language in RUNNABLE
    if mark["file"]:
        assert (ROOT / mark["file"]).is_file(), mark["file"]


def check_command(words: list[str]) -> None:
    """Assert that a command of the documentation exists, with each of its options."""
    program, *arguments = words
    if program == "libkd-sdk":
        group: Any = typer.main.get_command(app)
        known = {option for parameter in group.params for option in parameter.opts}
        if not arguments[0].startswith("-"):
            command = group.commands[arguments[0]]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= known, words
    elif program == "make":
        targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in arguments if word.isalpha()} <= targets, words
    elif program == "pip":
        extras = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
        assert {extra for names in extras for extra in names.split(",")} <= set(PROJECT["optional-dependencies"]), words
    elif program == "python":
        script = arguments[0].removeprefix("../before/")
        assert (ROOT / script).is_file(), words
        options = set(re.findall(r"\"(--[\w-]+)\"", (ROOT / script).read_text(encoding="utf-8")))
        assert {word for word in arguments if word.startswith("--")} <= options, words
    elif program == "cmake":
        listed = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("examples/*/CMakeLists.txt"))
        assert {word[2:].split("=")[0] for word in arguments if word.startswith("-D")} <= set(
            re.findall(r"\w+", listed)
        ), words
    elif program.startswith("build/"):
        source = ROOT / "examples" / program.split("/")[1] / "main.cpp"
        options = set(re.findall(r"\"(--[\w-]+)\"", source.read_text(encoding="utf-8")))
        assert {word for word in arguments if word.startswith("--")} <= options, words
    elif program in ("node", "sh"):
        assert (ROOT / arguments[0]).is_file(), words
    elif program == "torchrun":
        module = arguments.index("-m") + 1
        assert arguments[module] == "libkd_sdk", words
        check_command(["libkd-sdk", *arguments[module + 1 :]])
    elif program == "npm":
        assert (ROOT / arguments[arguments.index("--prefix") + 1] / "package.json").is_file(), words
    else:
        assert program in ("git", "diff", "tensorboard", "apt-get"), words


@pytest.mark.parametrize("block", of("bash"))
def test_its_commands_and_their_options_exist(block):
    assert block.commands
    for command in block.commands:
        words = shlex.split(command)
        while "=" in words[0]:
            words.pop(0)
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=documents.name)
def test_a_command_in_the_text_exists(page):
    for command in re.findall(r"`((?:libkd-sdk|make|python) [^`]+)`", page.read_text(encoding="utf-8")):
        if command.startswith("python -m"):
            continue
        check_command(shlex.split(command))


@pytest.mark.parametrize("block", of("python"))
def test_its_python_compiles_and_names_what_there_is(block):
    compile(block.text, place(block), "exec")
    for name in re.findall(r"\bsdk\.(\w+)", block.text):
        assert name == "testing" or hasattr(sdk, name), name


@pytest.mark.parametrize("block", of("toml"))
def test_its_toml_is_a_recipe_or_arms(block):
    kind: Any = Recipe if "teachers" in tomllib.loads(block.text) else dict[str, Change]
    assert msgspec.toml.decode(block.text, type=kind)


@pytest.fixture(scope="module")
def workspace(clothes, distilled, tmp_path_factory) -> Path:
    """A folder with what the documentation talks about: images, a run that is finished, and its bundles."""
    folder = tmp_path_factory.mktemp("documentation")
    images = Path(shutil.copytree(clothes, folder / "images"))
    run = Path(shutil.copytree(distilled, folder / "run"))
    shutil.copytree(run / "bundles", folder / "libkd-demo" / "bundles")
    first = images / "test" / "Bag" / "0.png"
    for copy in ("libkd-demo/images/T-shirt.png", "holiday/1.png", "holiday/2.png", "photo.jpg"):
        (folder / copy).parent.mkdir(exist_ok=True)
        Image.open(first).convert("RGB").save(folder / copy)
    return folder


def expanded(word: str) -> list[str]:
    """Return the paths that a shell would make of a word."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.language in RUNNABLE and not block.mark for block in blocks(page))],
    ids=documents.name,
)
def test_what_is_not_marked_runs_in_the_order_of_its_page(page, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(workspace, tmp_path / "here"))
    names: dict[str, Any] = {"__name__": "snippet"}
    for block in blocks(page):
        if block.mark or block.language not in RUNNABLE:
            continue
        if block.language == "python":
            exec(compile(block.text, place(block), "exec"), names)
            continue
        for command in block.commands:
            program, *words = shlex.split(command)
            assert program == "libkd-sdk", f"{place(block)}: mark it, or teach this test to run {program}"
            arguments = [found for word in words for found in expanded(word)]
            assert run_command(arguments) == 0, f"{place(block)}: {command}"
    for classifier in names.values():
        if isinstance(classifier, sdk.Classifier):
            classifier.close()
    sys.stdout.flush()
