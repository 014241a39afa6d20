"""Configurations as plain data: when a class must be named, and when the annotation names it already."""

from dataclasses import dataclass

from toy_models.canonical import plain


@dataclass(frozen=True)
class Depth:
    n: int = 1


@dataclass(frozen=True)
class Width:
    n: int = 1


@dataclass(frozen=True)
class Options:
    alone: Depth = Depth()
    or_a_name: Depth | str = Depth()
    either: Depth | Width = Depth()
    anything: object = Depth()


def test_a_class_is_named_where_its_annotation_leaves_a_choice_of_classes():
    named = {"kind": "Depth", "n": 1}
    assert plain(Options(), annotation=Options) == {
        **{"alone": {"n": 1}, "or_a_name": {"n": 1}, "either": named, "anything": named}
    }
    assert plain(Options(either=Width()))["either"] == {"kind": "Width", "n": 1}


def test_a_name_in_place_of_a_class_stays_a_name():
    assert plain(Options(or_a_name="there"))["or_a_name"] == "there"
