"""A judge behind a real server: right, wrong, busy, garbage; the key stays secret."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.cache import Cache
from alphaedit_plugin.common.errors import AlphaEditError, ConfigError
from alphaedit_plugin.metrics.asking import JudgeSettings
from alphaedit_plugin.metrics.generated import GeneratedText
from alphaedit_plugin.metrics.judge import TRIES, Judge

SECRET = "sk-very-secret"


class Server(HTTPServer):
    """Gives the replies it was told to, one per call."""

    replies: list[tuple[int, Any]]
    calls: list[tuple[str, str, dict[str, Any]]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, self.headers["Authorization"], body))
        status, reply = self.server.replies.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

    def log_message(self, *_: Any) -> None:
        pass


def says(text: str) -> tuple[int, Any]:
    return 200, {"choices": [{"message": {"content": text}}], "usage": {"total_tokens": 100}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MY_KEY", SECRET)
    one = Server(("127.0.0.1", 0), Handler)
    one.replies, one.calls = [], []
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


def judge_at(server: Server, cache: Cache | None = None) -> tuple[Judge, list[float]]:
    waits: list[float] = []
    url = f"http://127.0.0.1:{server.server_port}/v1/"
    return Judge(JudgeSettings(url, "a-judge", "MY_KEY"), cache, waits.append), waits


def test_right_wrong_and_garbage(server: Server) -> None:
    server.replies = [says("A"), says(' "B".'), says("I think so"), (200, {"choices": []})]
    judge, _ = judge_at(server)
    grades = [judge.grade(f"The capital of {n} {{is}}", "Rome", "Rome.") for n in range(4)]
    assert grades == [True, False, None, None]
    assert (judge.calls, judge.unclear, judge.tokens) == (4, 2, 300)
    path, authorization, body = server.calls[0]
    assert (path, authorization) == ("/v1/chat/completions", f"Bearer {SECRET}")
    assert (body["model"], body["temperature"]) == ("a-judge", 0)
    asked = body["messages"][-1]["content"]
    assert "Question: The capital of 0 {is}\nGold target: Rome\nPredicted answer: Rome.\n" in asked


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.replies = [(429, {}), (503, {}), (200, b"not json"), says("A")]
    judge, waits = judge_at(server)
    assert judge.grade("Who?", "Ada", "Ada") is True
    assert waits == [1.0, 2.0, 4.0]
    assert judge.calls == 1


def test_a_server_that_refuses_is_not(server: Server) -> None:
    server.replies = [(401, {})]
    judge, waits = judge_at(server)
    with pytest.raises(AlphaEditError, match="HTTP 401") as raised:
        judge.grade("Who?", "Ada", "Ada")
    assert (waits, len(server.calls)) == ([], 1)
    assert SECRET not in str(raised.value)
    server.replies = [(500, {})] * TRIES
    with pytest.raises(AlphaEditError, match="HTTP 500"):
        judge.grade("Who?", "Ada", "Ada")
    assert len(server.calls) == 1 + TRIES


def test_grades_are_cached_and_the_key_is_not(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.replies = [says("A"), says("B"), says("?"), says("A")]
    texts = [
        GeneratedText(
            "bare", "efficacy", f"Who is {n}?", "Ada", (), "", "Ada.", True, {"exact": True}
        )
        for n in range(3)
    ]
    judge, _ = judge_at(server, Cache(tmp_path))
    with caplog.at_level(logging.DEBUG):
        first = judge.judged(texts)
    assert [text.verdicts.get("judge") for text in first] == [True, False, None]
    assert first[0].verdicts["exact"] is True
    assert "3 texts, 3 calls, 300 tokens, 1 replies that were no grade" in caplog.text
    again, _ = judge_at(server, Cache(tmp_path))
    second = again.judged(texts)  # only what had no grade is asked
    assert [text.verdicts["judge"] for text in second] == [True, False, True]
    assert again.calls == 1
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not any(SECRET in text for text in [*files, caplog.text, repr(judge)])


def test_a_missing_key_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY")
    judge, _ = judge_at(server)
    with pytest.raises(ConfigError, match="MY_KEY"):
        judge.grade("Who?", "Ada", "Ada")
    assert server.calls == []
