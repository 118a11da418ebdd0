"""The documentation says nothing that the code does not, and leaves nothing out that it promises."""

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

import documents
import sdk.errors
import trainer.errors
from documents import PAGES, ROOT, blocks
from libkd_sdk.main import app
from runtimes.engines import ENGINES
from runtimes.errors import LibkdError
from trainer.recipe import RECIPES, Recipe, read_recipe

FROM_CODE = importlib.util.spec_from_file_location("from_code", ROOT / "docs" / "from_code.py")
assert FROM_CODE is not None
assert FROM_CODE.loader is not None
from_code: Any = importlib.util.module_from_spec(FROM_CODE)
FROM_CODE.loader.exec_module(from_code)

README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPE_PAGE = ROOT / "docs" / "recipes.md"
ERROR_PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_recipe_is_the_one_for_small_images_and_names_every_key():
    (recipe,) = (block.text for block in blocks(RECIPE_PAGE) if block.language == "toml")
    assert msgspec.toml.decode(recipe, type=Recipe) == read_recipe("small")
    keys = set(re.findall(r"\w+", recipe))
    for table in (Recipe, *(field.type for field in msgspec.structs.fields(Recipe) if isinstance(field.type, type))):
        if isinstance(table, type) and issubclass(table, msgspec.Struct):
            assert keys.issuperset(table.__struct_fields__), table
    for page in (README, RECIPE_PAGE.read_text(encoding="utf-8")):
        assert {path.stem for path in RECIPES.glob("*.toml")} <= set(re.findall(r"`(\w+)`", page))


def test_its_commands_exist_and_none_is_missing():
    known = {command.name for command in app.registered_commands}
    assert set(re.findall(r"libkd-sdk (\w+)", README)) <= known
    table = set(re.findall(r"^\| `(\w+)", README, re.MULTILINE)) | set(re.findall(r"`, `(\w+)` \|", README))
    assert known <= table


def test_the_readme_names_what_the_base_installs():
    (named,) = re.findall(r"^pip install \. +# predict with ONNX Runtime: (.*)$", README, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert named.split(", ") == [re.split(r"[<>=]", requirement)[0] for requirement in project["dependencies"]]


def test_the_readme_s_table_of_engines_is_the_list_of_engines():
    rows = re.findall(r"^\| ([\w ]+) \| (`model[^|]+) \| ([^|]+) \| ([^|]+) \|", README, re.MULTILINE)
    assert [title for title, *_ in rows] == [engine.title for engine in ENGINES.values()]
    for (_, files, precisions, extra), engine in zip(rows, ENGINES.values(), strict=True):
        assert tuple(re.findall(r"`([^`]+)`", files)) == engine.files
        assert tuple(precisions.split(", ")) == engine.precisions
        assert extra.strip("`") == (engine.run_extra.strip("[]") or "none")


def test_the_reference_has_every_command_and_option_and_explains_each():
    reference = from_code.commands()
    for command in app.registered_commands:
        assert f"## libkd-sdk {command.name}\n" in reference
    assert ": None" not in reference
    assert reference.count("Example:") == len(app.registered_commands)


@pytest.mark.parametrize("table", from_code.recipe_tables().values(), ids=lambda table: table.__name__)
def test_every_key_of_a_recipe_is_explained(table):
    explained = [name for names in from_code.documented(table) for name in names]
    assert sorted(explained) == sorted(table.__struct_fields__)


def test_names_that_share_an_entry_of_a_docstring_get_one_each():
    lines = ["Say it.", "", "Args:", "    a, b: two", "        numbers.", "    c: one.", "", "Raises:", "    E: no."]
    from_code._separate(None, "function", "", None, None, lines)
    both = ["    a: two", "        numbers.", "    b: two", "        numbers."]
    assert lines == [*("Say it.", "", "Args:"), *both, "    c: one.", "", "Raises:", "    E: no.", ""]


def errors_of(root: type[LibkdError]) -> list[type[LibkdError]]:
    """Return the errors of the project, the root and all below it."""
    below = [error for child in root.__subclasses__() for error in errors_of(child)]
    return [root, *(error for error in below if error.__module__.split(".")[0] in ("runtimes", "sdk", "trainer"))]


def test_each_error_code_has_its_own_paragraph_and_no_paragraph_is_without_code():
    assert issubclass(trainer.errors.DataError, sdk.errors.LibkdError)
    errors = errors_of(LibkdError)
    codes = [error.code for error in errors]
    assert len(codes) == len(set(codes)), "two errors share a code"
    sections = re.findall(r"^## (\S+)\n\n(.*?)(?=^## |\Z)", ERROR_PAGE, re.MULTILINE | re.DOTALL)
    assert sorted(code for code, _ in sections) == sorted(codes)
    texts = dict(sections)
    for error in errors:
        assert f"`{error.__name__}`" in texts[error.code]
        if error is not LibkdError:
            assert f"exit code {error.exit_code})" in texts[error.code]
            assert len(texts[error.code].split()) > 40, f"{error.code}: say what it means and what to check"


@pytest.mark.parametrize("page", PAGES, ids=documents.name)
def test_its_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize("page", PAGES, ids=documents.name)
def test_it_names_only_files_that_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:docs|examples|benchmarks|tools|spec|sdk|runtimes|trainer|tests)/[\w./-]+)`", text):
        if "NAME" not in path and not path.startswith("docs/_build"):
            assert (ROOT / path).exists() or (ROOT / Path(documents.name(page)).parent / path).exists(), path
