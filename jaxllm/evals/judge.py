"""Answers in, scores by another model out, asked over HTTP.

The judge is any server that speaks OpenAI's chat completions: Ollama, vLLM, llama.cpp,
or OpenAI's own. What it has said is written down at once, so that nothing is asked
twice when a judgement is broken off and begun again.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import pathlib
import re
import statistics
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

from jaxllm.data import disk, records
from jaxllm.errors import ConfigError, DataError

# Answers of a server that another attempt may better.
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)

# What a line of ours begins with, and what it must have to be taken for one.
_BEGINNING = b'{"key": "'
_NEEDED = {"key", "reply", "score"}

# A whole number, and what must not follow one that is a grade by itself: the rest of a
# fraction, or of a range.
_NUMBER = r"(?<![\d.,/-])(\d{1,3})(?:\.0+)?"
_ALONE = rf"{_NUMBER}(?![.,]?\d|\s*(?:/|-|–|to\b|(?:out )?of\b)\s*\d)"

# How a grade is written, the surest first.
_GRADES = (
    rf"{_NUMBER}\s*(?:/|(?:out )?of)\s*100\b",
    rf"\b(?:score|grade|rating)\b(?:[^\w\n]|\b(?:is|of|it|would|be)\b)*{_ALONE}",
    rf"\A\W*{_ALONE}\W*\Z",
)

PROMPT = """\
Below are an instruction, a reference answer, and the answer of a student.

Instruction:
{instruction}

Reference answer:
{output}

Student's answer:
{response}

Grade the student's answer from 0 (useless or wrong) to 100 (as good as the reference).
Reply with the whole number only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """Who is asked, and how patiently.

    >>> Judge(url="localhost:11434/v1", model="llama3")
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: url must begin with http:// or https://, got
    'localhost:11434/v1'
    """

    url: str = "http://localhost:11434/v1"
    """Address of an OpenAI-compatible server, up to its /v1; by default Ollama's."""
    model: str = "llama3"
    """Name by which the server knows the model."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, where the server wants one."""
    timeout: float = 120.0
    """Seconds to wait for an answer."""
    retries: int = 4
    """Further attempts where the server is busy or gone, after 1, 2, 4, ... seconds."""
    temperature: float | None = 0.0
    """Temperature that the server is asked for; null leaves it to the server, where a
    model takes no other."""
    workers: int = 1
    """Answers that are asked about at once."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"url must begin with http:// or https://, got {self.url!r}"
            )
        try:
            address = urllib.parse.urlsplit(self.url)
            whole = address.hostname is not None and address.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise ConfigError(
                f"url must name a host, and a port in 1..65535 if any, got {self.url!r}"
            )
        if self.timeout <= 0:
            raise ConfigError(f"timeout must be > 0, got {self.timeout}")
        if self.retries < 0:
            raise ConfigError(f"retries must be >= 0, got {self.retries}")
        if self.temperature is not None and self.temperature < 0:
            raise ConfigError(f"temperature must be >= 0, got {self.temperature}")
        if self.workers < 1:
            raise ConfigError(f"workers must be >= 1, got {self.workers}")


def ask(
    judge: Judge, prompt: str, *, wait: Callable[[float], None] = time.sleep
) -> str | None:
    """Ask once and return what is said, with patience for what may pass.

    Returns:
      a text; None where there is none, as of a model that refuses, or that has spent
      its tokens on thoughts.

    Raises:
      DataError: the server refuses, answers with something else, or is not there after
        all attempts.
      ConfigError: the address can't be one.
    """
    body = {
        "model": judge.model,
        "messages": [{"role": "user", "content": prompt}],
        "seed": 0,
    }
    if judge.temperature is not None:
        body["temperature"] = judge.temperature
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(judge.key_variable):
        headers["Authorization"] = f"Bearer {key}"
    address = judge.url.rstrip("/") + "/chat/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    reason = ""
    for attempt in range(judge.retries + 1):
        if attempt:
            wait(2.0 ** (attempt - 1))
        try:
            with urllib.request.urlopen(request, timeout=judge.timeout) as reply:
                said = json.loads(reply.read())
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.reason} {_beginning(error)}".rstrip()
            if error.code not in _PASSING:
                break
        except http.client.InvalidURL as error:
            raise ConfigError(f"url must be an address, got {address!r}") from error
        # No server, a time-out, an answer that breaks off, or no JSON.
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error)
        else:
            return _content(said, address)
    raise DataError(f"{address} gives no answer: {reason}")


def _beginning(error: urllib.error.HTTPError) -> str:
    """Read why a server refuses, as far as it says so."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return error.read().decode(errors="replace")[:200]
    return ""


def _content(reply: Any, address: str) -> str | None:
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        raise DataError(
            f"{address} must answer with choices and a message, got {str(reply)[:80]}"
        ) from None
    return content if isinstance(content, str) and content.strip() else None


def score_in(reply: str) -> int | None:
    """Find the grade, a whole number of 0 to 100, in what a judge says.

    That is a number of 100; or else one behind "score", "grade" or "rating"; or else
    the whole reply. None where there is no such number, or several that differ. What a
    judge thinks aloud before, between tags, is no grade.

    >>> score_in("85"), score_in("Score: 40. It has 2 mistakes."), score_in("7/10")
    (85, 40, None)
    >>> score_in("<think>Is it 100?</think> 20/100")
    20
    """
    said = reply.rpartition("</think>")[2]
    if "<think>" in said:
        return None
    for form in _GRADES:
        if found := {int(n) for n in re.findall(form, said, re.IGNORECASE)}:
            return max(found) if len(found) == 1 and max(found) <= 100 else None
    return None


def judge_answers(
    judge: Judge,
    answers: Sequence[records.Record],
    out: str | os.PathLike[str],
    *,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """Let a judge grade answers that have no grade yet.

    Args:
      answers: records of instruction, input (may lack), output, which is the reference,
        and response, which is graded.
      out: JSON lines, one for each reply, in the order in which they come: what was
        asked and said, and the score, null where none was found. What is there already
        is not asked again.

    Yields:
      the line of each answer in turn, also of those that were there; and of those that
      got no reply, which are asked about again the next time.
    """
    path = pathlib.Path(out)
    known = {line["key"]: line for line in _lines(path)}
    prompts = [_prompt(answer, number) for number, answer in enumerate(answers, 1)]
    keys = [
        hashlib.sha256(f"{judge.model}\n{prompt}".encode()).hexdigest()[:16]
        for prompt in prompts
    ]
    with disk.explain_refusal("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    writing = threading.Lock()

    def grade(place: int) -> dict[str, Any]:
        reply = ask(judge, prompts[place], wait=wait)
        line = {
            "key": keys[place],
            "number": place + 1,
            "model": judge.model,
            "response": answers[place]["response"],
            "reply": reply,
            "score": None if reply is None else score_in(reply),
        }
        if reply is not None:
            with writing, disk.explain_refusal("write", path), open(path, "a") as file:
                file.write(json.dumps(line) + "\n")
        return line

    # Of equal answers the first one is asked about.
    places = [keys.index(key) for key in dict.fromkeys(keys) if key not in known]
    # The threads of this pool are daemons: Ctrl-C does not wait for what they ask.
    with ThreadPool(judge.workers) as pool:
        # One at a time, nothing is asked before it is wanted, or after a refusal.
        ask_all = map if judge.workers == 1 else pool.imap
        graded = ask_all(grade, places)
        for key in keys:
            if key not in known:
                known[key] = next(graded)
            yield known[key]


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read what was judged before; a last line that was cut short by a kill is none.

    Raises DataError where the file holds anything else, and leaves it as it is.
    """
    if not path.exists():
        return []
    with disk.explain_refusal("read", path):
        data = path.read_bytes()
    *whole, cut = data.split(b"\n")
    lines = [_parsed(line) for line in whole]
    for number, line in enumerate(lines, 1):
        _require_grade(_is_grade(line), path, number)
    if cut:
        begun = cut[: len(_BEGINNING)] == _BEGINNING[: len(cut)]
        last = _parsed(cut)
        ours = begun if last is None else _is_grade(last)
        _require_grade(ours, path, len(lines) + 1)
        with disk.explain_refusal("write", path):
            os.truncate(path, len(data) - len(cut))
    return lines


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _is_grade(line: Any) -> bool:
    return isinstance(line, dict) and line.keys() >= _NEEDED


def _require_grade(ours: bool, path: pathlib.Path, number: int) -> None:
    if not ours:
        raise DataError(
            f"out must be a file of grades alone, line {number} of {path} is none; "
            "name another file"
        )


def _prompt(answer: records.Record, number: int) -> str:
    for name in ("instruction", "output", "response"):
        if not isinstance(answer.get(name), str):
            raise DataError(f"answer {number} must have a text {name!r}")
    instruction = answer["instruction"]
    if answer.get("input"):
        instruction += f"\n\n{answer['input']}"
    return PROMPT.format(
        instruction=instruction, output=answer["output"], response=answer["response"]
    )


def report(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Sum up grades: their number, mean, median, spread, and how many are missing.

    >>> report([{"score": 50}, {"score": 100}, {"score": None}])
    {'graded': 2, 'missing': 1, 'mean': 75.0, 'median': 75.0, 'deviation': 35.355...}
    """
    scores = [line["score"] for line in lines if line["score"] is not None]
    return {
        "graded": len(scores),
        "missing": len(lines) - len(scores),
        "mean": statistics.fmean(scores) if scores else float("nan"),
        "median": statistics.median(scores) if scores else float("nan"),
        "deviation": statistics.stdev(scores) if len(scores) > 1 else 0.0,
    }
