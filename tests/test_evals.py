"""Likelihoods are the model's alone; a judge is asked once, and with patience."""

import dataclasses
import http.server
import importlib.util
import json
import math
import pathlib
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CFG, logits_of, random_params

from jaxllm.data import bpe, tokenizers
from jaxllm.errors import ConfigError, DataError
from jaxllm.evals import choices, judge, scoring
from jaxllm.inference import generate
from jaxllm.models import gpt
from jaxllm.pretrained import load

GOLDEN = pathlib.Path(__file__).parent / "golden" / "huggingface"
ANSWERS = [
    {"instruction": "Add.", "input": "1 + 1", "output": "2", "response": response}
    for response in ("2", "two", "11")
]


def log_likelihood(params, context, continuation):
    """The definition: one pass over one text, one log-softmax at a time."""
    ids = [*context, *continuation][-CFG.context_length - 1 :]
    rows = np.asarray(logits_of(params, ids[:-1]))[-len(continuation) :]
    scored = zip(rows, continuation, strict=True)
    return sum(row[token] - np.log(np.exp(row).sum()) for row, token in scored)


def test_a_pair_scores_as_it_does_alone_whatever_is_beside_it():
    params, draw = random_params(), np.random.default_rng(0)
    pairs = [
        (draw.integers(0, 16, n).tolist(), draw.integers(0, 16, m).tolist())
        for n, m in ((1, 1), (3, 2), (7, 1), (2, 6), (12, 3), (1, 8), (8, 1))
    ]
    expected = [log_likelihood(params, *pair) for pair in pairs]
    for batch_size in (1, 3, 8):
        scores = scoring.score_continuations(params, pairs, CFG, batch_size=batch_size)
        got = [score.log_likelihood for score in scores]
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_continuation_is_greedy_if_each_token_is_the_likeliest():
    params = random_params()
    ids = [3, 1]
    for _ in range(3):
        ids.append(int(logits_of(params, ids)[-1].argmax()))
    other = [*ids[:-1], (ids[-1] + 1) % 16]
    first, second = scoring.score_continuations(
        params, [(ids[:2], ids[2:]), (ids[:2], other[2:])], CFG
    )
    assert (first.greedy, second.greedy) == (True, False)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 30])
def test_every_token_of_a_text_is_predicted_once_from_as_many_as_fit(n):
    ids = list(range(1, n + 1))
    windows = scoring.windows_of(ids, 0, 8)
    assert [token for _, scored in windows for token in scored] == ids
    for context, scored in windows:
        assert len(context) + len(scored) - 1 == min(8, scored[-1])


def test_a_part_that_is_empty_or_too_long_is_refused():
    params = random_params()
    for pair, message in (
        (([], [1]), "at least one token"),
        (([1], []), "at least one token"),
        (([1], [2] * 9), "at most 8 tokens"),
        (([1], [99]), "must be in"),
    ):
        with pytest.raises(DataError, match=message):
            scoring.score_continuations(params, [pair], CFG)


def test_a_continuation_is_cut_as_the_whole_text_is():
    tokenizer = tokenizers.load("gpt2")
    context, continuation = scoring.encode_pair("Do you like ", "tea?", tokenizer)
    assert tokenizer.decode(continuation) == " tea?"
    assert context + continuation == tokenizer.encode("Do you like tea?").tolist()
    assert scoring.encode_pair("", "tea", tokenizer)[0] == [50256]
    with pytest.raises(DataError, match="must have a token"):
        scoring.encode_pair("a", "", tokenizer)


def test_a_long_choice_is_not_at_a_loss_per_byte():
    questions = [choices.Question("Q:", (" no", " certainly"), 1)]
    tokenizer = tokenizers.CharTokenizer(
        characters="".join(sorted(set("Q: no certainly")))
    )
    cfg = gpt.GPTConfig(
        vocab_size=tokenizer.vocab_size, emb_dim=2, n_heads=1, n_layers=1
    )
    shapes = jax.eval_shape(lambda: gpt.init_params(jax.random.key(0), cfg))
    uniform = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    # Every character is as likely as another, so the choices are equal per byte.
    (chosen,) = choices.choose(uniform, questions, cfg, tokenizer)
    nats = math.log(tokenizer.vocab_size)
    np.testing.assert_allclose(
        chosen.log_likelihoods, [-3 * nats, -10 * nats], rtol=1e-5
    )
    assert chosen.likeliest == 0
    per_byte = np.array(chosen.log_likelihoods) / [3, 10]
    np.testing.assert_allclose(per_byte, per_byte[0])


def harness_model():
    pytest.importorskip("lm_eval", reason="the harness is an extra: jaxllm[eval]")
    from jaxllm.evals import harness

    return harness.HarnessModel(*load.load_pretrained(GOLDEN), batch_size=3)


def requests(*args):
    return [types.SimpleNamespace(args=each) for each in args]


def test_the_harness_gets_likelihoods_of_continuations_and_texts():
    model = harness_model()
    (score,) = model.loglikelihood(requests(("", "The cat sat")))
    (rolled,) = model.loglikelihood_rolling(requests(("The cat sat",)))
    assert score[0] == pytest.approx(rolled, rel=1e-5)


def test_the_harness_gets_answers_up_to_a_stop_string():
    model = harness_model()
    how = {"max_gen_toks": 8, "until": []}
    (whole,) = model.generate_until(requests(("The cat", how)))
    stop = whole[3:5]
    (cut,) = model.generate_until(requests(("The cat", how | {"until": [stop]})))
    assert cut == whole[: whole.index(stop)]


@pytest.fixture
def stand_in(monkeypatch):
    """What of the harness our model is made of, where the harness is not there."""
    if importlib.util.find_spec("lm_eval") is None:
        for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["lm_eval.api.model"].LM = object


@pytest.mark.parametrize(
    ("prompt", "how", "read", "new"),
    [
        ("a" * 100, {}, 32, 32),
        ("a" * 10, {}, 10, 54),
        ("a" * 100, {"max_gen_toks": 8}, 56, 8),
        ("", {"max_gen_toks": 8, "until": None}, 1, 8),
    ],
)
def test_the_harness_gets_answers_to_prompts_that_are_read(
    stand_in, monkeypatch, prompt, how, read, new
):
    """A task that does not say how much it wants leaves the prompt half of the room."""
    from jaxllm.evals import harness

    asked = []

    def stream(params, prompts, cfg, *, max_new_tokens, **_):
        asked.append((len(prompts[0]), max_new_tokens))
        return iter(())

    monkeypatch.setattr(generate, "stream", stream)
    tokenizer = tokenizers.BPETokenizer(
        ranks=bpe.learn_ranks({}, 256), special_tokens={"<|endoftext|>": 256}
    )
    cfg = dataclasses.replace(CFG, vocab_size=257, context_length=64)
    model = harness.HarnessModel({}, cfg, tokenizer)
    assert model.generate_until(requests((prompt, how))) == [""]
    assert asked == [(read, new)]


@pytest.mark.long
def test_the_harness_runs_a_task_of_local_data(run, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the harness is an extra: jaxllm[eval]")
    monkeypatch.setattr(sys, "argv", ["jaxllm"])
    questions = [{"q": f"{n} plus 1 is", "a": n % 2} for n in range(6)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    (tmp_path / "local_sums.yaml").write_text(
        f"""
task: local_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_target: a
doc_to_choice: [" even", " odd"]
metric_list: [{{metric: acc}}]
"""
    )
    words = ("--model_args", f"run={GOLDEN}", "--tasks", "local_sums")
    status, said = run("lm_eval", *words, "--include_path", tmp_path)
    assert status == 0
    assert "local_sums" in said


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "choices": ["b", "c"]}, "not answer"),
        ({"prompt": "a", "choices": ["b"], "answer": 0}, "two choices or more"),
        ({"prompt": "a", "choices": None, "answer": 0}, "must be a list, got None"),
        ({"prompt": "a", "choices": "ABCD", "answer": "A"}, "be a list, got 'ABCD'"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": 2}, "its index in [0, 2)"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": "d"}, "got 'd'"),
    ],
)
def test_a_question_that_is_none_is_named(tmp_path, record, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError) as error:
        choices.read_questions(path)
    assert "record 1 of" in str(error.value)
    assert message in str(error.value)


def test_questions_are_answered_from_the_command_line(run, tmp_path, monkeypatch):
    path = tmp_path / "questions.json"
    record = {"prompt": "The cat", "choices": [" sat", " ate"], "answer": " ate"}
    path.write_text(json.dumps([record, record | {"answer": 0}]))
    asked, choose = [], choices.choose

    def seen(params, *rest, **how):
        asked.append(params["blocks"]["mlp"]["up"]["kernel"])
        return choose(params, *rest, **how)

    monkeypatch.setattr(choices, "choose", seen)
    status, said = run("evaluate", GOLDEN, "--choices", path, "--weights", "bfloat16")
    assert status == 0
    assert "50.00% of 2 questions" in said
    # In float32 these are numbers that bfloat16 holds.
    np.testing.assert_array_equal(asked[0], asked[0].astype(jnp.bfloat16))
    status, said = run("evaluate", GOLDEN, "--choices", path, "--text", path)
    assert status == 2
    assert "give a text or choices, got both" in said


@pytest.mark.parametrize("words", [(), ("--choices", "questions.json")])
def test_a_batch_of_nothing_is_refused(run, words):
    status, said = run("evaluate", GOLDEN, "--batch_size", 0, *words)
    assert status == 2
    assert "batch_size must be >= 1, got 0" in said
    with pytest.raises(ConfigError, match="batch_size must be >= 1, got -1"):
        scoring.score_continuations({}, [([1], [2])], CFG, batch_size=-1)


class Server(http.server.BaseHTTPRequestHandler):
    """Says what it is told to, and keeps what it is asked."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, json.loads(body), dict(self.headers)))
        status, content = self.server.answers.pop(0)
        reply = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(reply if status == 200 else content.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        server.asked, server.answers = [], []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def judge_at(server, **settings):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return judge.Judge(url=url, model="m", **settings)


def test_a_judge_is_asked_for_each_answer_once_also_after_a_break(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    out = tmp_path / "grades.jsonl"
    server.answers = [(200, "90"), (400, "")]
    with pytest.raises(DataError, match=r"400 Bad Request$"):
        list(judge.judge_answers(judge_at(server), ANSWERS, out))
    with open(out, "a") as file:
        file.write('{"key": "cut sh')
    server.answers = [(200, "I'd say 70/100"), (200, "no idea")]
    lines = list(judge.judge_answers(judge_at(server), ANSWERS, out))
    assert [line["score"] for line in lines] == [90, 70, None]
    assert out.read_text().count("\n") == 3
    assert len(server.asked) == 4
    path, body, headers = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body["temperature"] == 0
    assert headers["Authorization"] == "Bearer secret"
    assert "1 + 1" in body["messages"][0]["content"]
    figures = judge.report(lines)
    assert (figures["graded"], figures["missing"], figures["mean"]) == (2, 1, 80)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("85", 85),
        ("85.0", 85),
        ("**85** %", 85),
        ("I'd say 40 of 100: **40**", 40),
        ("I grade it 90/100 because it has 3 errors.", 90),
        ("Score: 85. The student missed 2 points.", 85),
        ("**Score:** 85\n\n1. correct\n2. short", 85),
        ("The grade would be 70, not 100.", 70),
        ('{"rating": 0}', 0),
        ("<think>50 or 100?</think>\n\n85", 85),
        ("50 or 100?</think>85", 85),
        # What is not of 100, not whole, not one, or not said.
        ("7/10", None),
        ("5/5", None),
        ("9 out of 10", None),
        ("Score: 4/5", None),
        ("Score (0-100): good", None),
        ("Score: 1,000", None),
        ("85.5", None),
        ("-5", None),
        ("150/100", None),
        ("9" * 5000, None),
        ("style 90/100, matter 70/100", None),
        ("The student missed 2 points.", None),
        ("<think>I would say 50 or 100", None),
    ],
)
def test_a_grade_is_a_number_of_100_and_never_guessed(reply, score):
    assert judge.score_in(reply) == score


@pytest.mark.parametrize("content", [None, " \n", [{"type": "text", "text": "5"}]])
def test_an_empty_reply_is_not_written_down_and_asked_for_again(
    server, tmp_path, content
):
    out = tmp_path / "new" / "grades.jsonl"
    server.answers = [(200, "10"), (200, content), (200, "20")]
    lines = list(judge.judge_answers(judge_at(server), ANSWERS, out))
    assert [line["score"] for line in lines] == [10, None, 20]
    assert lines[1]["reply"] is None
    server.answers = [(200, "30")]
    lines = list(judge.judge_answers(judge_at(server), ANSWERS, out))
    assert [line["score"] for line in lines] == [10, 30, 20]


def test_answers_are_asked_about_at_once_and_each_once(tmp_path, monkeypatch):
    out, together = tmp_path / "grades.jsonl", threading.Barrier(3, timeout=10)
    asked = []

    def ask(judge, prompt, *, wait):
        asked.append(prompt)
        together.wait()
        if "11" in prompt:
            raise DataError("the server has gone")
        return "20" if "two" in prompt else "10"

    monkeypatch.setattr(judge, "ask", ask)
    answers = [*ANSWERS[:2], ANSWERS[0], ANSWERS[2]]
    with pytest.raises(DataError, match="has gone"):
        list(judge.judge_answers(judge.Judge(workers=3), answers, out))
    assert len(asked) == 3
    monkeypatch.setattr(judge, "ask", lambda *_, **__: "30")
    lines = list(judge.judge_answers(judge.Judge(workers=3), answers, out))
    assert [line["score"] for line in lines] == [10, 20, 10, 30]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(line["number"] for line in written) == [1, 2, 4]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ANSWERS),
        json.dumps(ANSWERS[0]),
        json.dumps({"key": "a"} | ANSWERS[0]),
        json.dumps(ANSWERS, indent=1),
        json.dumps(ANSWERS[0]) + "\n",
        "caf\xe9\n",
    ],
)
def test_a_file_that_holds_no_grades_is_left_as_it_is(server, tmp_path, content):
    out = tmp_path / "answers.json"
    out.write_text(content, "latin-1")
    with pytest.raises(DataError, match="out must be a file of grades alone, line 1"):
        list(judge.judge_answers(judge_at(server), ANSWERS, out))
    assert out.read_text("latin-1") == content
    assert not server.asked


def test_a_busy_judge_is_asked_again_and_again(server):
    server.answers = [(503, ""), (429, ""), (200, "5")]
    waits = []
    assert judge.ask(judge_at(server), "?", wait=waits.append) == "5"
    assert waits == [1, 2]
    server.answers = 3 * [(503, "")]
    with pytest.raises(DataError, match="503"):
        judge.ask(judge_at(server, retries=2), "?", wait=waits.append)


def test_a_server_that_refuses_says_why(server):
    why = '{"error": "temperature must be 1"}'
    server.answers = [(400, why + "." * 500), (200, "5")]
    with pytest.raises(DataError, match=r"400 Bad Request .*must be 1") as caught:
        judge.ask(judge_at(server), "?")
    assert len(str(caught.value)) < 300
    assert judge.ask(judge_at(server, temperature=None), "?") == "5"
    assert "temperature" not in server.asked[-1][1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"workers": 0}, "workers must be >= 1"), ({"temperature": -1}, "must be >= 0")],
)
def test_a_judge_that_cannot_be_asked_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        judge.Judge(**setting)


def test_an_answer_that_is_no_chat_completion_is_shown(server, monkeypatch):
    monkeypatch.setattr(Server, "do_POST", answer_nonsense)
    waits = []
    with pytest.raises(DataError, match=r"^\S+ must answer with choices"):
        judge.ask(judge_at(server), "?", wait=waits.append)
    assert not waits


def test_an_answer_that_breaks_off_is_asked_for_again(server, monkeypatch):
    answer = Server.do_POST

    def break_off(handler):
        monkeypatch.setattr(Server, "do_POST", answer)
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"{")

    monkeypatch.setattr(Server, "do_POST", break_off)
    server.answers = [(200, "7")]
    waits = []
    assert judge.ask(judge_at(server), "?", wait=waits.append) == "7"
    assert waits == [1]


@pytest.mark.parametrize(
    "url", ["http://localhost:much/v1", "http://localhost:0/v1", "http:///v1"]
)
def test_an_address_without_host_or_port_is_refused(url):
    with pytest.raises(ConfigError, match="url must name a host"):
        judge.Judge(url=url)


def test_an_address_that_http_cannot_send_is_refused_at_once():
    asked = judge.Judge(url="http://local host/v1")
    with pytest.raises(ConfigError, match="url must be an address"):
        judge.ask(asked, "?", wait=lambda seconds: pytest.fail("waited"))


def answer_nonsense(handler):
    handler.rfile.read(int(handler.headers["Content-Length"]))
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b'{"error": "model not found"}')


def test_grades_come_from_the_command_line(run, server, tmp_path):
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(ANSWERS))
    server.answers = [(200, "10"), (200, None), (200, "x")]
    url = f"http://127.0.0.1:{server.server_port}/v1"
    words = ("--url", url, "--model", "m", "--out", tmp_path / "g.jsonl")
    status, said = run("judge", answers, *words)
    assert status == 0
    assert "mean       10.00 of 100" in said
    assert "1 replies had no grade" in said
    assert "1 replies were empty" in said
    answers.write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    status, said = run("judge", answers, *words)
    assert status == 2
    assert "answer 1 must have a text 'response'" in said


def test_answers_are_not_written_without_a_template_records_or_over_a_file(
    run, tmp_path
):
    out = tmp_path / "answers.jsonl"
    for words, message in (
        ((), "answers need a template"),
        (("--template", "phi_3"), "records must be given"),
        (("--batch_size", 0), "batch_size must be >= 1"),
    ):
        status, said = run("answer", GOLDEN, "--out", out, *words)
        assert status == 2
        assert message in said
    assert not out.exists()
    out.write_text("mine")
    assert "out must not be there yet" in run("answer", GOLDEN, "--out", out)[1]
