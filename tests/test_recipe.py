"""Recipes are frozen data; what is misspelt, unpinned or unexplained is an error."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest

from harness import paper
from harness import recipe as recipes
from harness.analysis.deviations import deviations
from harness.config import Strict, build, flatten
from harness.errors import RecipeError
from harness.recipe import Iteration, ModelRef, Recipe, load, replace
from tests import ROOT

STATED = {field: fact.value for field, fact in paper.SETTINGS.items()}


def test_misspelt_recipe_gets_a_suggestion() -> None:
    """A wrong name says which one was probably meant."""
    with pytest.raises(RecipeError, match="did you mean 'zephyr-7b'"):
        load("zephir-7b")


def test_misspelt_field_gets_a_suggestion() -> None:
    """An unknown field is an error that names the near one."""
    with pytest.raises(RecipeError, match="Iteration has no field 'learning_rat'; did you mean 'learning_rate'"):
        build(Iteration, beta=0.1, learning_rat=1e-7, pairs_from=(0,))


def test_misspelt_field_in_a_file_names_the_file(tmp_path: Path) -> None:
    """The same holds for a recipe file of the user's."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from harness.recipe import load, replace, Sampling\n"
        "recipe = replace(load('zephyr-7b'), name='mine', sampling=Sampling(temprature=1.0, max_new_tokens=3))\n"
    )
    with pytest.raises(RecipeError, match=r"mine\.py: Sampling has no field 'temprature'; did you mean 'temperature'"):
        load(str(file))


@pytest.mark.parametrize("revision", [None, "main", "ac6e600"])
def test_unpinned_revision_is_refused(revision: str | None) -> None:
    """A Hub model needs a 40-hex commit."""
    with pytest.raises(RecipeError, match="expected a 40-hex commit"):
        build(ModelRef, source="hub", name="alignment-handbook/zephyr-7b-sft-full", revision=revision)


def test_pairs_come_from_iterations_that_exist() -> None:
    """Iteration 0 cannot train on the responses of iteration 1."""
    with pytest.raises(RecipeError, match=r"iterations.0.pairs_from"):
        replace(load("zephyr-7b"), name="mine", iterations=(Iteration(beta=0.1, learning_rate=1e-7, pairs_from=(1,)),))


@pytest.mark.parametrize("name", sorted(recipes.available()))
def test_modern_pairs_are_trained_as_they_were_sampled(name: str) -> None:
    """A BOS that is sampled after and not trained after is refused with 'modern' tokenization; 'release' does it as the release did."""
    recipe = load(name)
    sampling = recipe.sampling.model_copy(update={"add_bos": True})
    assert replace(recipe, name="mine", sampling=sampling, tokenization="release").sampling.add_bos
    with pytest.raises(RecipeError, match=r"sampling\.add_bos .*'modern' trains without; expected add_bos=False"):
        replace(recipe, name="mine", sampling=sampling, tokenization="modern")


def test_changed_recipe_needs_its_own_name() -> None:
    """`replace` without a name is refused, since results are kept by name."""
    with pytest.raises(RecipeError, match="gives no name"):
        replace(load("zephyr-7b"), seed=1)


@pytest.mark.parametrize("name", sorted(recipes.available()))
def test_every_deviation_has_its_reason_and_every_reason_a_deviation(name: str) -> None:
    """Where a recipe differs from the paper's text it says why; a reason without a deviation is a leftover."""
    recipe = load(name)
    found = deviations(recipe, STATED, paper.NOT_STATED)
    assert [item.field for item in found if not item.reason] == []
    fields = {item.field for item in found}
    unused = [key for key in recipe.because if not any(field == key or field.startswith(key + ".") for field in fields)]
    assert unused == []


@pytest.mark.parametrize("name", sorted(recipes.available()))
def test_recipe_name_is_its_files_name(name: str) -> None:
    """`harness reproduce NAME` writes to results/NAME."""
    assert load(name).name == name


def test_recipe_survives_json() -> None:
    """What is written to RUN/recipe.json reads back equal."""
    recipe = load("zephyr-7b-release")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_flatten_reaches_every_leaf() -> None:
    """Nested models become dotted paths; tuples of numbers stay whole."""
    flat = flatten(load("zephyr-7b"))
    assert flat["iterations.3.beta"] == 5.0
    assert flat["iterations.3.pairs_from"] == (2, 3)


def test_a_suggestion_comes_from_the_class_itself() -> None:
    """Another class of the same name, and the class around a misspelt part, are not asked."""

    class Sampling(Strict):
        warmth: float

    with pytest.raises(RecipeError, match="Sampling has no field 'wramth'; did you mean 'warmth'"):
        build(Sampling, wramth=1.0)
    recipe = load("zephyr-7b")
    values = {**{name: getattr(recipe, name) for name in Recipe.model_fields}, "sampling": {"temprature": 1.0, "max_new_tokens": 3}}
    with pytest.raises(RecipeError, match=r"Recipe has no field 'sampling\.temprature'; did you mean 'temperature'"):
        build(Recipe, **values)


@pytest.mark.parametrize("module", ["recipe", "recipe_parts", "machine"])
def test_every_field_says_what_it_is(module: str) -> None:
    """A string follows each field of a recipe, its parts and a machine, so that no unit or default has to be guessed."""
    for node in ast.parse((ROOT / "harness" / f"{module}.py").read_text()).body:
        if isinstance(node, ast.ClassDef):
            for line, following in pairwise([*node.body, None]):
                assert not isinstance(line, ast.AnnAssign) or isinstance(following, ast.Expr), ast.unparse(line or node)


def test_a_reason_for_a_field_that_no_recipe_has(tmp_path: Path) -> None:
    """Promise: a misspelt key of `because` is one line with the field that was meant."""
    file = tmp_path / "mine.py"
    file.write_text("from harness.recipe import load, replace\nrecipe = replace(load('tiny'), name='mine', because={'obective': 'mine'})\n")
    with pytest.raises(RecipeError, match=r"mine.py: because gives a reason for 'obective', which no recipe has.*'objective'"):
        load(str(file))
