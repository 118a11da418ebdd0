"""A recipe reads the same after it was written, and unknown keys and values are errors."""

import pytest
from msgspec.structs import replace

import sdk
from trainer.errors import RecipeError
from trainer.models import create_student, create_teacher
from trainer.recipe import RECIPES, DataRecipe, read_recipe, recipe_for, write_recipe


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_recipes_of_the_package_can_be_trained(name):
    recipe = read_recipe(name)
    preprocessing = sdk.Preprocessing.square(recipe.data.size or {"large": 96}.get(name, 28))
    assert len(recipe.teachers) >= 2
    for teacher in recipe.teachers.values():
        assert create_teacher(teacher.from_scratch(), 10, preprocessing).net.num_classes == 10
    student = create_student(recipe.student.from_scratch(), len(recipe.teachers), 10, preprocessing)
    assert len(student.heads) == 1 + len(recipe.teachers)


def test_small_and_large_images_have_their_own_recipes():
    assert recipe_for(32) == read_recipe("small")
    assert recipe_for(96) == read_recipe("large")


def test_a_written_recipe_reads_the_same(tiny_recipe, tmp_path):
    settled = replace(tiny_recipe, data=DataRecipe(size=28))
    path = tmp_path / "recipe.toml"
    path.write_text(write_recipe(settled))
    assert read_recipe(path) == settled
    assert "weight_decay" in path.read_text()  # written, although it has its default value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 3", "the recipe has no key 'epochs'; did you mean 'teachers.NAME.training.epochs'"),
        (
            "[teachers.a]\nmodel = 'resnet18'\nwigth = 2.0",
            r"\[teachers.a\] has no key 'wigth'; did you mean 'weight'\?",
        ),
        ("[views]\ncount = 0", "count is at least 1"),
        ("[views.spec]\nflip = 1.5", "flip is between 0 and 1"),
        ("[views]\ncount = 'many'", "Expected `int`, got `str`.*views.count"),
        ("[student]\npatch = 6", "power of two"),
        ("[student]\nwidth = 100\nheads = 3", "multiple of heads"),
        ("[student.training]\nbatch = 33", "batch is even"),
        ("[student.training]\nlr = -1.0", "lr and clip are above 0"),
        ("[student.training]\nlr = nan", "all are finite"),
        ("[data]\nholdout = 0.9", "holdout is above 0"),
        ("[data]\nlabels = 0.0", "labels is above 0"),
        ("[views]\nmode = 'sometimes'", "Invalid enum value 'sometimes'"),
        ("[views]\ntop_k = -1", "top_k is not negative"),
        ("[views.extra]\nerase = 2.0", "erase is between 0 and 1"),
        ("[views.spec]\noperations = -1", "operations is not negative"),
        ("[student]\nloss_args = { gamma = 1.0 }", "the loss kl has no argument 'gamma'; it has none"),
        ("[student]\nloss = 'dkd'\nloss_args = { gamma = 1.0 }", "has no argument 'gamma'; it has alpha and beta"),
        ("[student]\ntokens = 'stems'\npatch = 5", "with tokens = 'stems', patch is even"),
        ("[student.training]\nepochs = 0", "the student's epochs are at least 1"),
        ("[teachers.a]\nmodel = 'resnet18'\ntraining = { epochs = 0 }", "needs pretrained = true or weights"),
        ("[teachers.a]\nmodel = 'resnet18'\npretrained = true\nweights = 'x'", "exclude each other"),
        ("[teachers]", "at least one"),
        ("[teachers.'a/b']\nmodel = 'resnet18'", "letters, digits"),
        ("[student]\npretrained = true", "published weights need student.model"),
        ("[student]\nmodel = 'test_vit'\nwidth = 64\ndepth = 2", "model decides the shape; leave width, depth out"),
        ("[student]\nmodel = 'test_vit'\npretrained = true\nweights = 'x'", "exclude each other"),
        ("[student.training]\nlr_scale = 0.1", "lr_scale and frozen are for published weights"),
        ("[teachers.a]\nmodel = 'resnet18'\ntraining = { frozen = 1 }", "lr_scale and frozen are for published"),
        ("[student.training]\nlr_scale = 0.0", "lr_scale is above 0 and at most 1"),
        ("[views", "not TOML"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_key(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text if "teachers" in text else f"{text}\n[teachers.a]\nmodel = 'resnet18'")
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_recipe_is_read_as_editors_save_it(tiny_recipe, tmp_path):
    path, text = tmp_path / "recipe.toml", write_recipe(tiny_recipe)
    for saved in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode()):
        path.write_bytes(saved)
        assert read_recipe(path) == tiny_recipe
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(RecipeError, match="UTF-16, or no text; save it as UTF-8"):
        read_recipe(path)


def test_keys_that_came_later_leave_the_hashes_of_earlier_runs(tiny_recipe):
    assert tiny_recipe.hash() == "318027c0a059c086"
    assert replace(tiny_recipe, student=replace(tiny_recipe.student, mean=(0.5, 0.5, 0.5))).hash() != "318027c0a059c086"


def test_a_missing_recipe_names_those_of_the_package(tmp_path):
    with pytest.raises(RecipeError, match=r"no such recipe; name a TOML file or one of demo, large, photos, small"):
        read_recipe(tmp_path / "none.toml")


def test_an_unknown_model_is_named_with_a_similar_one(tiny_recipe):
    teacher = tiny_recipe.teachers["conv"]
    with pytest.raises(RecipeError, match=r"timm has no model 'rednet_26'; did you mean 'rednet26'\?"):
        create_teacher(replace(teacher, model="rednet_26"), 10, sdk.Preprocessing.square(28))
    with pytest.raises(RecipeError, match="unexpected keyword argument 'deepness'"):
        create_teacher(replace(teacher, args={"deepness": 3}), 10, sdk.Preprocessing.square(28))


def test_images_that_do_not_divide_into_patches_are_refused(tiny_recipe):
    shape = replace(tiny_recipe.student, stem="patch", patch=5)
    with pytest.raises(RecipeError, match=r"set data.size \(--size\) to 30 or change student.patch"):
        create_student(shape, 2, 10, sdk.Preprocessing.square(28))


def test_stems_need_two_teachers(tiny_recipe):
    shape = replace(tiny_recipe.student, tokens="stems")
    with pytest.raises(RecipeError, match="2 teachers or more, not 1; name more teachers"):
        create_student(shape, 1, 10, sdk.Preprocessing.square(28))
