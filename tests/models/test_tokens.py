from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.models.boundary import stem, tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import (
    ContextTemplates,
    Sentence,
    collate,
    locate,
    pad_id,
)
from tests.tiny import BEGIN, SlowTokenizer, build_model, fast_tokenizer

FIRST, LAST_OF = FactToken.subject_first, FactToken.subject_last
AFTER, LAST = FactToken.subject_first_after_last, FactToken.last

PLACES = [
    ("{} plays the violin", "Boris Lund"),  # at the start
    ("The mother tongue of {} is", "Ada Marsh"),  # in the middle
    ("The capital is Rome in {}", "Norland"),  # at the end
    ("Clara Weiss said that {} plays", "Clara Weiss"),  # twice, the second one is meant
    ("{} said that Clara Weiss plays", "Clara Weiss"),  # twice, the first one is meant
    ("I think that {}, so people said, is", "Boris Lund"),  # before a comma
    ("The violin of {}.", "Ada Marsh"),  # before a full stop
    ('Today "{}" plays', "Boris Lund"),  # in quotes
    ("Boris Lund. {} is", "Ada Marsh"),  # after a context
    ("The tongue of {} is", "Zoë Müller"),  # letters of two bytes
    ("{} is a city", "北京"),  # letters of three bytes, which share a token with nothing
    ("The {} is", "The"),  # a subject that is the word before it
]


@pytest.mark.parametrize(("template", "subject"), PLACES)
def test_the_subject_is_what_lies_between_first_and_last(
    any_tokenizer: Any, template: str, subject: str
) -> None:
    prefix, suffix = template.split("{}")
    first, last = (locate(any_tokenizer, template, subject, kind) for kind in (FIRST, LAST_OF))
    assert list(first.ids) == tokenise(any_tokenizer, template.replace("{}", subject))
    assert first.ids == last.ids

    def words(ids: tuple[int, ...]) -> str:
        return any_tokenizer.decode(ids).replace(BEGIN, "").strip()

    assert words(first.ids[: first.position]) == prefix.strip()
    if subject != "北京":  # which only byte-level tokenizers can write down again
        assert words(first.ids[first.position : last.position + 1]) == subject
    assert words(first.ids[last.position + 1 :]) == suffix.strip()


@pytest.mark.parametrize(("template", "subject"), PLACES)
def test_the_other_two_fact_tokens(any_tokenizer: Any, template: str, subject: str) -> None:
    subject_last = locate(any_tokenizer, template, subject, LAST_OF)
    after = locate(any_tokenizer, template, subject, AFTER)
    end = len(subject_last.ids) - 1
    assert after.position == min(subject_last.position + 1, end)
    assert (after.position == subject_last.position) == template.endswith("{}")
    assert locate(any_tokenizer, template, subject, LAST).position == end


@pytest.mark.parametrize("kind", list(FactToken))
def test_a_token_in_front_moves_every_position_by_one(kind: FactToken) -> None:
    plain, bos = fast_tokenizer("byte_level"), fast_tokenizer("bos")
    for template, subject in PLACES:
        without, within = (locate(t, template, subject, kind) for t in (plain, bos))
        assert within.position == without.position + 1


@pytest.mark.parametrize("kind", list(FactToken))
def test_padding_side_moves_nothing(kind: FactToken) -> None:
    right, left = fast_tokenizer("byte_level"), fast_tokenizer("left")
    assert left.padding_side == "left"
    for template, subject in PLACES:
        assert locate(right, template, subject, kind) == locate(left, template, subject, kind)


BYTE_OF = {
    character: byte
    for byte, character in zip(
        # GPT-2's table: printable bytes stand for themselves, the others come after 255.
        [*range(33, 127), *range(161, 173), *range(174, 256)]
        + [b for b in range(256) if not (33 <= b < 127 or 161 <= b < 173 or b >= 174)],
        [chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]]
        + [chr(256 + n) for n in range(256 - 188)],
        strict=True,
    )
}


def test_the_byte_table_is_the_tokenizers() -> None:
    assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())


TOKENIZER = fast_tokenizer()
TEXT = st.text(
    st.one_of(
        st.sampled_from("Ada Marsh cats,.'- éüß北京 "),
        st.characters(exclude_categories=("Cs",), exclude_characters="{}<"),
    ),
    max_size=12,
)


@given(prefix=TEXT, subject=TEXT, suffix=TEXT)
@example(prefix="The ", subject="cat", suffix="s are")
@example(prefix="The c", subject="ats", suffix=" are")
@example(prefix="é", subject="ü", suffix="é")
@example(prefix="", subject="🙂", suffix="🙂")
@example(prefix="a\n\n", subject="b", suffix="\n\n")
def test_positions_are_right_by_the_bytes_of_the_tokens(
    prefix: str, subject: str, suffix: str
) -> None:
    """Ground truth without offsets: which token holds the subject's first and last byte."""
    subject = subject.strip()
    assume(subject)
    template = prefix + "{}" + suffix
    ids = tokenise(TOKENIZER, stem(prefix + subject + suffix))
    tokens = [bytes(BYTE_OF[c] for c in t) for t in TOKENIZER.convert_ids_to_tokens(ids)]
    ends = torch.tensor([len(token) for token in tokens]).cumsum(0).tolist()
    start, end = len(prefix.encode()), len((prefix + subject).encode())
    first = next(i for i, stop in enumerate(ends) if stop > start)
    last = next(i for i, stop in enumerate(ends) if stop >= end)
    before = tokens[first][: start - (ends[first] - len(tokens[first]))]
    after = tokens[last][len(tokens[last]) - (ends[last] - end) :]
    found = [locate(TOKENIZER, template, subject, kind) for kind in (FIRST, LAST_OF)]
    assert [sentence.position for sentence in found] == [first, last]
    merged = bool(after.strip() or (first == last and before.strip()))
    assert bool(found[1].beside) == merged


@pytest.mark.parametrize("kind", ["byte_level", "metaspace"])
@pytest.mark.parametrize("suffix", ["s are", "s"])
def test_a_subject_merged_with_its_neighbour_is_edited_at_the_token_of_both(
    kind: str, suffix: str
) -> None:
    tokenizer = fast_tokenizer(kind)
    assert len(tokenise(tokenizer, " cats")) - len(tokenise(tokenizer, "")) == 1
    found = locate(tokenizer, "The {}" + suffix, "cat", LAST_OF)
    assert tokenizer.decode(found.ids[found.position]).strip() == "cats"
    assert found.beside == "s"
    assert locate(tokenizer, "The {} are", "cat", LAST_OF).beside == ""


def test_a_slow_tokenizer_refuses_what_it_cannot_place() -> None:
    class Merging(SlowTokenizer):
        def _tokenize(self, text: str, **_: Any) -> list[str]:
            return re.findall(r"ts| ?\S", text)

    assert locate(Merging(), "The {} are", "cat", LAST_OF).position == 5
    with pytest.raises(RequestError, match="fast version"):
        locate(Merging(), "The {}s are", "cat", LAST_OF)


def test_a_merged_subject_does_not_matter_for_the_last_token() -> None:
    found = locate(TOKENIZER, "The {}s are", "cat", LAST)
    assert found.position == len(found.ids) - 1


@pytest.mark.parametrize("kind", ["byte_level", "bos", "left"])
def test_collate_pads_on_the_right_under_the_mask(kind: str) -> None:
    tokenizer = fast_tokenizer(kind)
    lm = EditableModel.wrap(build_model("gpt2", len(tokenizer)), tokenizer)
    batch = collate(lm, [Sentence((7, 8, 9), 2), Sentence((5,), 0)])
    assert batch.input_ids.tolist() == [[7, 8, 9], [5, pad_id(lm), pad_id(lm)]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.positions.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("pad", "end", "expected"),
    [(3, 4, 3), (None, 4, 4), (None, None, 0), (10, 4, 4), (10, 10, 0)],  # of ten embeddings
)
def test_pad_id_is_one_that_the_model_can_embed(
    pad: int | None, end: int | None, expected: int
) -> None:
    """A tokenizer's padding token may be outside the embedding."""
    tokenizer = SimpleNamespace(pad_token_id=pad, eos_token_id=end)
    lm = EditableModel.wrap(build_model("gpt2", 10), tokenizer)
    assert pad_id(lm) == expected


def test_the_bare_prompt_has_half_of_the_weight_when_apart() -> None:
    contexts = ContextTemplates.of(["A. {}", "B. {}", "{}"])
    assert contexts.flat == ("{}", "A. {}", "B. {}")
    assert contexts.weights.tolist() == [0.5, 0.25, 0.25]


def test_the_bare_prompt_is_one_among_others_when_not_apart() -> None:
    contexts = ContextTemplates.of(["A. {}", "{}", "B. {}", "C. {}"], bare_apart=False)
    assert contexts.flat == ("{}", "A. {}", "B. {}", "C. {}")
    assert contexts.weights.tolist() == [0.25] * 4


@pytest.mark.parametrize("apart", [True, False])
def test_no_context_is_the_bare_prompt(apart: bool) -> None:
    contexts = ContextTemplates.of([], apart)
    assert (contexts.flat, contexts.weights.tolist()) == (("{}",), [1.0])


@pytest.mark.parametrize("template", ["no slot", "{} and {}"])
def test_a_context_needs_one_slot(template: str) -> None:
    with pytest.raises(RequestError, match="exactly one"):
        ContextTemplates.of([template])
