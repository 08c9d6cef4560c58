"""A language model that judges texts, at any address that speaks OpenAI's protocol.

The prompt is the one published with WILD (Yang et al. 2025) and used by EasyEdit's ``LLM-judge``.
"""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alphaedit_plugin.common.cache import Cache, hash_of
from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, first_line
from alphaedit_plugin.common.files import replacing
from alphaedit_plugin.metrics.asking import JudgeSettings
from alphaedit_plugin.metrics.generated import GeneratedText

logger = logging.getLogger(__name__)

TRIES = 5
WAIT = 1.0  # seconds before the second try; doubled before each further one
TIMEOUT = 60.0  # seconds per call
BUSY = 429  # HTTP; like 5xx it is worth another try
PROMPT = """\
Your job is to look at a question, a gold target, and a predicted answer, and then assign a grade \
of either ["CORRECT", "INCORRECT"].

The following are examples of CORRECT predicted answers.
```
Question: What are the names of Barack Obama's children?
Gold target: Malia Obama and Sasha Obama
Predicted answer 1: sasha and malia obama
Predicted answer 2: Malia and Sasha Obama are the names of Barack Obama's children.
```
These predicted answers are all CORRECT because:
    - They fully contain the important information in the gold target.
    - They do not contain any information that contradicts the gold target.

The following are examples of INCORRECT predicted answers.
```
Question: What are the names of Barack Obama's children?
Gold target: Malia and Sasha
Predicted answer 1: Malia.
Predicted answer 2: Malia, Sasha, and Susan.
Predicted answer 3: Malia and Sasha, Malia and Sasha, Malia and Sasha, Malia and Sasha (repeated \
answer)
```
These predicted answers are all INCORRECT because:
    - A factual statement in the answer contradicts the gold target or contain repeated answer.


Here is a sample. Simply reply with either CORRECT or INCORRECT.

```
Question: {question}
Gold target: {target}
Predicted answer: {answer}
```

According to the gold target, please grade the predicted answer of this question as one of:
A: CORRECT
B: INCORRECT

Just return the letters "A" or "B", with no text around it."""
GRADES = {"A": True, "CORRECT": True, "B": False, "INCORRECT": False}


@dataclass
class Judge:
    """A judge, and what it was asked.

    Attributes:
        settings: its address and model, and where its key is.
        cache: keeps its grades; ``None`` for none.
        sleep: waits between tries.
        calls: that were answered.
        tokens: of prompts and grades, as the address counts them.
        unclear: replies that were no grade.
    """

    settings: JudgeSettings
    cache: Cache | None = None
    sleep: Callable[[float], None] = time.sleep
    calls: int = 0
    tokens: int = 0
    unclear: int = 0

    def key(self) -> str:
        """The secret, read when it is needed and kept nowhere.

        Raises:
            ConfigError: the environment variable is not set.
        """
        secret = os.environ.get(self.settings.key_variable, "")
        if not secret:
            raise ConfigError(
                f"compare.generate.judge needs a key: set the environment variable "
                f"{self.settings.key_variable} (to anything, where the address asks for none)"
            )
        return secret

    def judged(self, texts: Sequence[GeneratedText]) -> tuple[GeneratedText, ...]:
        """The texts with the judge's verdict; without one where its reply is no grade.

        Raises:
            ConfigError: no key.
            AlphaEditError: the address does not answer, or refuses.
        """
        graded = []
        for text in texts:
            grade = self.grade(text.prompt, text.answer, text.after)
            more = {} if grade is None else {"judge": grade}
            graded.append(replace(text, verdicts={**text.verdicts, **more}))
        logger.info(
            "judge %s: %d texts, %d calls, %d tokens, %d replies that were no grade",
            self.settings.model, len(texts), self.calls, self.tokens, self.unclear,
        )  # fmt: skip
        return tuple(graded)

    def grade(self, question: str, target: str, answer: str) -> bool | None:
        """Whether the answer is right; ``None`` where the reply is no grade."""
        content = PROMPT.format(question=question, target=target, answer=answer)
        path = self._path(content)
        if path is not None and self.cache is not None:
            stored = self.cache.stored(path, _stored)
            if stored is not None:
                return stored
        grade = GRADES.get(self._reply(content).strip(" \"'.\n").upper())
        if grade is None:
            self.unclear += 1
        elif path is not None:
            Cache.keep(lambda: _store(path, grade))
        return grade

    def _path(self, content: str) -> Path | None:
        if self.cache is None:
            return None
        asked = {"url": self.settings.url, "model": self.settings.model, "content": content}
        return self.cache.folder / "judge" / f"{hash_of(asked)}.json"

    def _reply(self, content: str) -> str:
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0.0,
        }
        document = self._post(json.dumps(body).encode())
        self.calls += 1
        try:
            self.tokens += int(document.get("usage", {}).get("total_tokens", 0))
            return str(document["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return ""

    def _post(self, body: bytes) -> Any:
        url = (self.settings.url or "").rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key()}"}
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                self.sleep(WAIT * 2 ** (attempt - 1))
            try:
                request = urllib.request.Request(url, body, headers)
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code != BUSY and error.code < 500:
                    break
            except (OSError, ValueError) as error:  # no connection, a timeout, or not JSON
                reason = f"{first_line(error)} ({type(error).__name__})"
        raise AlphaEditError(f"compare.generate.judge: {url} does not judge: {reason}")


def _stored(path: Path) -> bool:
    return bool(json.loads(path.read_text(encoding="utf-8"))["right"])


def _store(path: Path, grade: bool) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps({"right": grade}) + "\n", encoding="utf-8")
