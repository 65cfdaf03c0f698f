"""The layout of inputs as short texts: sent by sites, compared by who uses a model."""

from __future__ import annotations

from consilia.data.preprocessing import MAX_TEXT, Preprocessing, common, from_lines, lines, unlike


def made(**layout: object) -> Preprocessing:
    return Preprocessing({"format": "tabular", **layout}, {}, (3,))


def test_lines_are_short_and_come_back_whole() -> None:
    names = [f"column {i} é, with ': ' and +1: in it" for i in range(60)]
    described = made(numeric=names, missing=["NA"], indicators=False).described()
    told = lines(described)
    assert max(map(len, told)) <= 200
    assert all(line.isascii() for line in told)
    assert from_lines(told) == described
    assert sorted(described) == ["indicators", "inputs", "numeric"]


def test_only_what_all_have_in_common_is_left() -> None:
    first, second = (lines(made(size=[8, 8], window=w).described()) for w in ([0, 1], [0, 2]))
    assert common([first, second]) == {"inputs": "[3]", "size": "[8, 8]"}
    assert common([]) == {}


def test_keys_with_other_values_are_named() -> None:
    wanted = made(size=[8, 8], normalise="train", other=1).described()
    assert unlike(wanted, made(size=[16, 16], normalise="train")) == ["size"]


def test_what_is_too_long_is_told_by_its_digest() -> None:
    described = made(numeric=["x" * MAX_TEXT]).described()
    assert described["numeric"].startswith("1 value(s), SHA-256 ")
