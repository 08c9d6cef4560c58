"""What people and programs might hand us: texts, records, settings; mostly nearly right."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# Emoji of several code points, right-to-left, combining marks, one character spelt in two ways,
# invisible characters, things that mean something to a tokenizer, a shell, Hydra or a terminal.
ODD = (
    "👩‍🚀", "🏳️‍🌈", "القاهرة", "ירושלים", "e\u0301", "\u00e9", "a\u0300\u0323", "नमस्ते",
    "北京", "ﬁ", "ẞ", "İ",
    "\u200b", "\u202e", "\ufeff", "\x00", "\x1b[31m", "\ud800", "<end>", "<|endoftext|>",
    "{}", "{", "}",
    "$HOME", "${seed}", "[red]", "\\", "'", '"', "\n", "\t", "=", "%s", "/", "..", "null", "~",
)  # fmt: skip
RARE = 32
WORDS = ("The", "capital", "of", "Ada Marsh", "Norland", "is", "plays", "Rome", "French", "cat")

any_text = st.one_of(st.sampled_from(ODD), st.text(max_size=12))
nearly_text = st.lists(st.one_of(st.sampled_from(WORDS), any_text), max_size=5).map(" ".join)
long_text = st.sampled_from(["long ", "🙂", "é" * 40, "x"]).map(lambda part: part * 400)
text = st.one_of(st.sampled_from(WORDS), nearly_text, nearly_text, long_text)
said = nearly_text.filter(str.strip)
wrong = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.lists(nearly_text, max_size=2),
    st.dictionaries(st.sampled_from(("prompt", "x")), nearly_text, max_size=2),
)  # fmt: skip


def mostly(
    good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any], of: int = 8
) -> st.SearchStrategy[Any]:
    """``bad``, one time of so many; else ``good``."""
    return st.integers(1, of).flatmap(lambda number: bad if number == of else good)


@st.composite
def records(draw: st.DrawFn) -> Any:
    """A record as EasyEdit has them; now and then something of it is wrong or missing."""
    subject = draw(mostly(st.sampled_from(WORDS[3:5]), said, 4))
    before, after = draw(st.sampled_from(("The capital of ", "", "I say "))), draw(nearly_text)
    prompt = draw(st.sampled_from((f"{before}{subject} is {after}", before + "{} is")))
    record = {
        "prompt": draw(mostly(st.just(prompt), st.one_of(text, wrong), RARE)),
        "subject": draw(mostly(st.just(subject), st.one_of(text, wrong), RARE)),
        "target_new": draw(mostly(st.one_of(st.sampled_from(WORDS), said), wrong, RARE)),
    }
    extra = ("ground_truth", "rephrase_prompt", "locality_prompt", "locality_ground_truth")
    for name in draw(st.sets(st.sampled_from(extra))):
        record[name] = draw(mostly(st.sampled_from(WORDS), st.one_of(nearly_text, wrong), RARE))
    if draw(st.integers(1, RARE)) == RARE:
        record.pop(draw(st.sampled_from(sorted(record))))
    return record


documents = mostly(st.lists(mostly(records(), wrong, RARE), min_size=1, max_size=4), wrong, RARE)

number = mostly(
    st.sampled_from(("0.5", "1", "2", "1e-3", "30")),
    st.sampled_from(("-1", "nan", "inf", "-inf", "1e38", "1e-300", "0", "1e400")),
    4,
)
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "base": st.sampled_from(("rome", "memit", "prune", "rect")),
    "null_space": st.booleans(),
    "batch_size": st.integers(0, 3),
    "seed": number,
    "on_conflict": st.sampled_from(("last", "refuse")),
    "model.target.on_failure": st.sampled_from(("skip", "refuse")),
    "model.target.lr": number,
    "model.target.stop_loss": number,
    "model.target.weight_decay": number,
    "model.target.kl_factor": number,
    "model.target.clamp_norm_factor": number,
    "model.target.budget": st.integers(0, 300),
    "model.dtype": st.sampled_from(("float32", "bfloat16", "float16", "int8")),
    "model.layers": st.sampled_from(("[1]", "[0,2]", "[2,1]", "[]", "[4]", "[-1]", "[3]", "1")),
    "model.fact_token": st.sampled_from(("subject_last", "subject_first", "last", "first")),
    "model.moment_weight": number,
    "model.contexts.templates": st.sampled_from(("[]", "['He said. {}']", "['no slot']", "null")),
    "model.moments.tokens": st.integers(0, 400),
    "projector.mode": st.sampled_from(("auto", "solve", "post")),
    "projector.l2": number,
    "projector.cut.rule": st.sampled_from(("absolute", "energy", "rank")),
    "projector.cut.value": number,
    "data.limit": st.integers(0, 3),
}


@st.composite
def overrides(draw: st.DrawFn, most: int = 4) -> list[str]:
    """Settings that exist, some of whose values make no sense, and now and then other words."""
    keys = draw(st.lists(st.sampled_from(sorted(SETTINGS)), max_size=most, unique=True))
    words = [f"{key}={draw(mostly(SETTINGS[key], any_text, RARE))}" for key in keys]
    if draw(st.integers(0, 7)) == 0:
        words.append(draw(nearly_text))
    return words
