"""Settings that are typed once: the keywords of a verb, what a file of settings may say, and how a run is repeated."""

from __future__ import annotations

import inspect
import tomllib
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

import nas
from nas.errors import RunError, UsageError
from nas.runs.settings import Given, RunSettings, Setting, check_unchanged, declared, read_given, verb
from nas.runs.settings_file import read_settings, toml_text
from nas.searching.settings import SearchSettings


@dataclass(frozen=True)
class Baking(RunSettings):
    """Settings of a small verb."""

    dough: Annotated[str, Setting("What is baked.", "Dough")] = "rye"
    _: KW_ONLY
    minutes: Annotated[float | None, Setting("Time in the oven.", "Oven", "until it is done", may_change=True)] = None
    seeds: Annotated[list[str], Setting("What is strewn on it.", "Dough")] = field(default_factory=list)
    heat: Annotated[dict[str, float], Setting("Heat by element.", "Oven")] = field(default_factory=dict)


@dataclass(frozen=True)
class Slicing:
    """Settings of a verb without a run folder, one of which has to be given."""

    loaf: Annotated[str, Setting("What is sliced.", "Bread")]
    slices: Annotated[int, Setting("Number of slices.", "Bread", least=1)] = 8


@verb(Slicing)
def cut(given: Given) -> Slicing:
    """Slice a loaf."""
    return Slicing(**given)


@verb(Baking)
def bake(given: Given) -> dict[str, Any]:
    """Bake a loaf.

    Returns:
        What was given.
    """
    return given


def test_a_verb_has_the_keywords_of_its_class() -> None:
    assert bake("spelt", minutes=40.0, seeds=["poppy"]) == {"dough": "spelt", "minutes": 40.0, "seeds": ["poppy"]}
    assert bake(output=Path("oven")) == {"output": "oven"}
    assert str(inspect.signature(bake)).startswith("(dough: str = 'rye', *, minutes: float | None = None, seeds:")
    documentation = inspect.getdoc(bake) or ""
    assert documentation.startswith(
        "Bake a loaf.\n\nArgs:\n    dough: What is baked. Default: rye.\n    minutes: Time in"
    )
    assert documentation.endswith("Returns:\n    What was given.")
    with pytest.raises(UsageError, match=r"nas\.bake: setting `minute` is not known") as caught:
        bake(minute=3)  # type: ignore[call-arg]
    assert caught.value.hint == "did you mean `minutes`?"
    with pytest.raises(TypeError, match="`dough` is given twice"):
        bake("rye", dough="spelt")  # type: ignore[misc]
    with pytest.raises(TypeError, match="2 positional arguments, expected 1"):
        bake("rye", 40.0)  # type: ignore[misc]


def test_what_has_to_be_given_is_asked_for() -> None:
    assert cut("rye", slices=3) == Slicing("rye", 3)
    assert str(inspect.signature(cut)).startswith("(loaf: str, slices: int = 8)")
    assert "loaf: What is sliced.\n" in (inspect.getdoc(cut) or "")
    with pytest.raises(TypeError, match=r"nas\.cut: `loaf` is missing"):
        cut(slices=3)  # type: ignore[call-arg]


def test_search_is_documented_by_its_settings() -> None:
    documentation = inspect.getdoc(nas.search) or ""
    for name, entry in declared(SearchSettings).items():
        assert f"    {name}: {entry.setting.doc.split()[0]}" in documentation
    with pytest.raises(UsageError) as caught:
        nas.search(spaces="elastic")  # type: ignore[call-arg]
    assert caught.value.hint == "did you mean `space`?"


def test_toml_holds_what_it_was_given(tmp_path: Path) -> None:
    texts = ["plain", 'with "quotes"', "back\\slash", "line\nbreak", "grün", "tab\t\x7f\x01"]
    settings = {"dough": texts[1], "minutes": 1e-7, "seeds": texts, "heat": {"top=1 °C": 2.5, "bottom": 3.0}}
    assert tomllib.loads(toml_text(settings)) == settings
    (tmp_path / "run.toml").write_text(toml_text(settings), encoding="utf-8")
    assert read_settings(tmp_path / "run.toml", Baking) == settings
    assert tomllib.loads(toml_text({"a": None, "b": True, "c": 3, "d": {}, "e": {"ema": None}})) == {
        "b": True,
        "c": 3,
        "e": {"ema": "none"},
    }


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("doug = 'rye'", UsageError, "run.toml`: setting `doug` is not known"),
        ("minutes = 'long'", UsageError, "run.toml`: `minutes` is 'long', expected a number"),
        ("minutes = true", UsageError, "`minutes` is True, expected a number"),
        ("dough = [1]", UsageError, r"`dough` is \[1\], expected a text or a path"),
        ("progress = 1", UsageError, "`progress` is 1, expected something that can be called"),
        ("dough", RunError, "run.toml` cannot be read"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(error, match=message):
        read_settings(tmp_path / "run.toml", Baking)


def test_only_budgets_may_change() -> None:
    recorded = {"dough": "rye", "minutes": 10.0}
    check_unchanged(Baking, {"dough": "rye", "minutes": 20.0, "output": "elsewhere"}, recorded, Path("run"))
    with pytest.raises(RunError, match="`dough` was 'rye' when the run was started, found 'spelt'") as caught:
        check_unchanged(Baking, {"dough": "spelt"}, recorded, Path("run"))
    assert caught.value.hint == "only `minutes` may change when a run is resumed; start a new run for another value"
    assert read_given(Baking, {"dough": None}, "here") == {}
