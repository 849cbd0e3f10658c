"""Tokens as text: pieces that join to the whole, and nothing invisible."""

from roster.analyze.texts import token_texts, visible, visible_parts


class Bytes:
    """Ids are UTF-8 bytes; like sentencepiece, a leading space of what is decoded is dropped."""

    def decode(self, ids, **_):
        return bytes(ids).decode("utf-8", errors="replace").removeprefix(" ")


def test_pieces_join_to_the_text_over_many_windows():
    text = "x = 1; and some more words, " * 4
    pieces = token_texts(list(text.encode()), Bytes())
    assert "".join(pieces) == text
    assert len(pieces) == len(text)


def test_a_character_of_several_tokens_goes_to_the_last():
    assert token_texts(list("aé€b".encode()), Bytes()) == ["a", "\ufffd", "é", "\ufffd", "\ufffd", "€", "b"]


def test_a_text_that_ends_within_a_character():
    assert token_texts(list("a€".encode())[:-1], Bytes()) == ["a", "\ufffd", "\ufffd"]


def test_without_a_tokenizer_or_ids():
    assert token_texts([5, 6]) == ["#5", "#6"]
    assert token_texts([5, -1], Bytes()) == ["#5", "?"]


def test_white_space_and_control_characters_become_visible():
    assert visible(" a\n\tb") == "␣a⏎⇥b"
    assert visible("\u202eevil\x00") == "\\u202eevil\\x00"
    assert visible("") == "∅"
    assert visible("é<&") == "é<&"
    assert visible_parts("a b") == [("a", False), ("␣", True), ("b", False)]
