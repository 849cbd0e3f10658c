"""`roster attack` beyond its examples."""

import json

from cli.conftest import refuse, succeed

QUICK = ("--victims", 2, "--attempts", 2, "--mates", 3)


def test_json_says_what_the_table_says():
    shown = json.loads(succeed("attack", "pocket", "--recipe", "expert-choice", *QUICK, "--json"))
    assert shown["vulnerable"]
    assert shown["flip_rate"] == shown["flipped"] / shown["victims"]
    text = succeed("attack", "pocket", "--recipe", "expert-choice", *QUICK)
    assert f"{shown['flip_rate']:.0%}" in text
    assert "change each other's output" in text


def test_a_plain_model_is_safe():
    assert "No batch-mate changed" in succeed("attack", "pocket", *QUICK, "--victim", "reverse: abcd =")


def test_bad_input(here):
    assert "--recipe" in refuse("attack", "pocket", "--option", "k=2")
    assert "nowhere" in refuse("attack", "./nowhere")
    assert "expert-choice" in refuse("attack", "pocket", "--recipe", "expert-choise")
    assert "drops every token" in refuse(
        "attack", "pocket", "--recipe", "switch-transformer", "--option", "capacity=-1"
    )
    assert "kind 'mixture'" in refuse("attack", "pocket", "--recipe", "arrow-mbc")
    assert "no tokens" in refuse("attack", "pocket", "--victim", "")
