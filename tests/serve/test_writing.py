"""Text of answers as it grows: never half a character, never the beginning of a stop word that comes."""

import pytest

import tiny
from roster.serve.writing import Writing

TOKENIZER = tiny.chat_tokenizer()  # a byte is a token


@pytest.mark.parametrize("text", ["plain text", "naïve – 漢字 🙂", "a\n\nb"])
def test_pieces_are_whole_characters_and_make_the_text(text):
    writing = Writing(TOKENIZER)
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    pieces = [writing.add(id) for id in ids]
    assert "".join(pieces) + writing.end() == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert all(pieces) or len(ids) > len(text)


def test_a_stop_word_is_never_seen_not_even_its_beginning():
    writing = Writing(TOKENIZER, ["STOP", "halt"])
    seen = ""
    for id in TOKENIZER("go STOCK, then STOP and on", add_special_tokens=False)["input_ids"]:
        seen += writing.add(id)
        assert "STOP".startswith(seen[-1:]) is False or "STOCK" in seen or seen[-1:] not in "S"
        if writing.stopped:
            break
    assert (seen, writing.end()) == ("go STOCK, then ", "")


def test_what_only_began_like_a_stop_word_is_told_at_the_end():
    writing = Writing(TOKENIZER, ["STOP"])
    pieces = [writing.add(id) for id in TOKENIZER("a STO", add_special_tokens=False)["input_ids"]]
    assert ("".join(pieces), writing.end(), writing.stopped) == ("a ", "STO", False)


def test_special_tokens_are_no_text():
    writing = Writing(TOKENIZER)
    ids = [TOKENIZER.bos_token_id, *TOKENIZER("ab", add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]
    assert "".join(writing.add(id) for id in ids) + writing.end() == "ab"
