"""``alphaedit fit``: any text in, a projector file out, whatever happens in between."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.tensor_file import read_tensors
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.projector_file import load_projectors, read_projectors
from tests.data.test_corpus import fake_hub
from tests.saved import config_of, overrides_of
from tests.tiny import TEXTS, relative

Capture = pytest.CaptureFixture[str]
ENDLESS = "x" * 300
EVERY = 2000  # tokens between checkpoints where runs are killed


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def fit(saved: Path, *overrides: str) -> list[str]:
    return ["fit", *overrides_of(saved), "projector=rank", "projector.cut.value=9", *overrides]


def moments_in(cache: Path) -> list[tuple[torch.Tensor, int]]:
    found = [read_tensors(path) for path in sorted((cache / "moments").glob("*.safetensors"))]
    return [(tensors["total"], content["count"]) for tensors, content in found]


# ---------------------------------------------------------------------------------------------
# What it reads and writes


def test_fit_and_use(saved: Path, capsys: Capture) -> None:
    assert main(fit(saved, "fit.out=new/p.safetensors", "fit.dtype=float16")) == 0
    out = capsys.readouterr().out
    memory, *_, last = out.splitlines()
    assert memory == ("2 layers with keys of 128 dimensions: second moments take 0.4 MiB on cpu")
    assert re.fullmatch(r"new/p\.safetensors: 0\.\d MiB, from .*text\.txt", last)
    lm = load_model(config_of(saved).model)
    moments = collect_second_moments(lm, TEXTS, [1, 2])
    for layer, projector in load_projectors(lm, [1, 2], Path("new/p.safetensors")).items():
        assert projector.tokens == moments[layer].count
        assert projector.rank == 9
        assert f"{layer} {projector.tokens} rank=9 128 9 119 (93%)" in " ".join(out.split())


def write_ids(saved: Path) -> list[str]:
    lm = load_model(config_of(saved).model)
    rows = [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    lines = [f'{{"ids": {row}}}\n' for row in rows]
    (saved / "ids.jsonl").write_text("".join(lines))
    return ["corpus=ids.jsonl", "model.moments.corpus=ids.jsonl", "model.moments.text_field=ids"]


def write_array(saved: Path) -> list[str]:
    lm = load_model(config_of(saved).model)
    folder = saved / "arrays"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        np.save(folder / f"{number}.npy", np.array([lm.tokenizer(text)["input_ids"]]))
    return ["model.moments.corpus=arrays"]


def write_jsonl(saved: Path) -> list[str]:
    import json

    lines = [json.dumps({"body": text}) + "\n" for text in TEXTS]
    (saved / "x.jsonl").write_text("".join(lines))
    return ["model.moments.corpus=x.jsonl", "model.moments.text_field=body"]


def name_on_hub(saved: Path) -> list[str]:
    return [
        "model.moments.corpus=null", "model.moments.hub=some/set", "model.moments.hub_config=en",
        "model.moments.hub_split=train",
    ]  # fmt: skip


@pytest.mark.parametrize("write", [write_ids, write_array, write_jsonl, name_on_hub])
def test_any_text_is_the_same_text(
    saved: Path, write: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    fake_hub(monkeypatch, lambda *_, **__: [{"text": text} for text in TEXTS])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert main(fit(saved, "fit.out=a.safetensors")) == 0
    assert main(fit(saved, "fit.out=b.safetensors", *write(saved))) == 0
    one, other = (read_projectors(saved / f"{name}.safetensors") for name in "ab")
    for layer in (1, 2):
        assert torch.equal(one.projectors[layer].basis, other.projectors[layer].basis)
        assert one.projectors[layer].tokens == other.projectors[layer].tokens


def test_convergence_is_told_with_its_tokens(saved: Path, capsys: Capture) -> None:
    (saved / "text.txt").write_text("\n".join(TEXTS * 60))
    small = ["model.moments.checkpoint=500", "fit.converge=0.5"]
    assert main(fit(saved, *small)) == 0
    tokens = read_projectors(Path("projector.safetensors")).projectors[1].tokens
    out = capsys.readouterr().out
    assert f"converged after {tokens} tokens: its halves disagree by 0." in out
    assert main(fit(saved, *small, "model.moments.tokens=1000")) == 0
    assert "the corpus ended before the first look at 4096 tokens" in capsys.readouterr().out
    assert main(fit(saved, "fit.converge=1e-9", "model.moments.checkpoint=500")) == 0
    assert "not converged: after " in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------
# What it refuses


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fit.dtype=int8"], "fit.dtype is 'int8': it must be 'float32'"),
        (["fit.out=model"], "model is a folder"),
        (
            ["fit.out=text.txt/p"],
            "text.txt/p cannot be written: what should be its folder is a file",
        ),
        ([f"fit.out={ENDLESS}"], "cannot be written: File name too long"),
        ([f"model.moments.corpus={ENDLESS}"], "cannot be read: File name too long"),
        ([f"model.moments.stats_dir={ENDLESS}"], "cannot be read: File name too long"),
        (["fit.converge=1.5"], "fit.converge is 1.5"),
        (["fit.converge=0.5", "model.moments.stats_dir=x"], "remove one of them"),
        (["projector.cut.value=129"], "rank=129: needs a whole number from 0 to 128"),
        (["projector.cut.value=-1"], "rank=-1: needs a whole number"),
        (["model.moments.tokens=0"], "model.moments.tokens is 0: it must be at least 1"),
        (["model.moments.checkpoint=0"], "model.moments.checkpoint is 0: it must be at least 1"),
        (["model.moments.corpus=none.txt"], "no corpus at none.txt"),
        (["model.moments.corpus=empty.txt"], "the corpus holds no token"),
        (["model.moments.corpus=foreign.jsonl"], "text 1 of the corpus holds token 99999"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_refusals_are_one_line_and_write_nothing(
    saved: Path, capsys: Capture, overrides: list[str], message: str
) -> None:
    (saved / "empty.txt").touch()
    (saved / "foreign.jsonl").write_text('{"text": [99999]}\n')
    assert main(fit(saved, *overrides)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search("alphaedit: error: .*" + re.escape(message), error)
    assert not list(saved.rglob("*.part"))
    assert not (saved / "projector.safetensors").exists()


def test_damaged_weights_make_no_projector(saved: Path, capsys: Capture) -> None:
    lm = load_model(config_of(saved).model)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.fill_(torch.nan)
    lm.model.save_pretrained(saved / "model")
    assert main(fit(saved)) == 2
    assert "the keys of layer 1 are not finite" in capsys.readouterr().err
    assert moments_in(saved / "cache") == []


def test_an_interrupted_run_goes_on(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    small = ["model.moments.checkpoint=30", "model.moments.tokens=100"]
    from alphaedit_plugin.data import corpus

    original = corpus.read_lines

    def interrupted(*args: Any) -> Any:
        for number, text in enumerate(original(*args)):
            if number == 4:
                raise KeyboardInterrupt
            yield text

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "read_lines", interrupted)
        assert main(fit(saved, *small)) == 130
    assert "interrupted" in capsys.readouterr().err
    assert main(fit(saved, *small)) == 0
    assert "going on after" in caplog.text


# ---------------------------------------------------------------------------------------------
# Killed, and shared by two processes


def long_corpus(saved: Path) -> list[str]:
    lines = [f"{text} {number}" for number in range(1000) for text in TEXTS]
    (saved / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    return [
        f"model.moments.checkpoint={EVERY}", "model.moments.tokens=60000", "model.threads=1",
        f"fit.out={saved / 'killed.safetensors'}",
    ]  # fmt: skip


def start(command: list[str], cache: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"ALPHAEDIT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, start_new_session=True,
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def kill_at_checkpoint(process: subprocess.Popen[bytes], cache: Path, ranks: int = 1) -> None:
    """SIGKILL the process and its children, once each of these has kept something."""
    deadline = time.monotonic() + 120
    while not all(list(cache.glob(f"runs/*/*.{rank}of*.safetensors")) for rank in range(ranks)):
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    children = [pid for thread in threads for pid in (thread / "children").read_text().split()]
    for pid in (*children, process.pid):
        os.kill(int(pid), signal.SIGKILL)
    process.communicate()
    assert list(cache.glob("runs/*/*.safetensors")), "it had finished already"


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="finds children in /proc")


@on_linux
def test_a_killed_run_gives_the_same_bits(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    more = long_corpus(saved)
    assert main(fit(saved, *more)) == 0
    whole = (saved / "killed.safetensors").read_bytes()
    (saved / "killed.safetensors").unlink()
    process = start(["alphaedit_plugin", *fit(saved, *more)], saved / "other")
    kill_at_checkpoint(process, saved / "other")
    assert not (saved / "killed.safetensors").exists()
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(saved / "other"))
    assert main(fit(saved, *more)) == 0
    assert re.search(r"going on after \d{4,5} tokens", caplog.text)
    assert (saved / "killed.safetensors").read_bytes() == whole
    pairs = zip(moments_in(saved / "cache"), moments_in(saved / "other"), strict=True)
    for (one, count), (other, also) in pairs:
        assert torch.equal(one, other)
        assert count == also == 60000


@on_linux
def test_two_processes_are_one_even_when_killed(saved: Path) -> None:
    more = long_corpus(saved)
    assert main(fit(saved, *more)) == 0
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "alphaedit_plugin", *fit(saved, *more)]
    killed = start(command, saved / "other")
    kill_at_checkpoint(killed, saved / "other", ranks=2)
    (saved / "killed.safetensors").unlink()
    resumed = start(command, saved / "other")
    said = resumed.communicate(timeout=180)[0].decode()
    assert resumed.returncode == 0, said
    assert "going on after" in said
    assert said.count("second moments take") == 1  # only one process speaks
    pairs = zip(moments_in(saved / "cache"), moments_in(saved / "other"), strict=True)
    for (one, count), (other, also) in pairs:
        assert relative(other, one) < 1e-6
        assert count == also == 60000
    assert read_projectors(saved / "killed.safetensors").projectors[2].rank == 9
