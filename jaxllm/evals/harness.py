"""Our models in EleutherAI's lm-evaluation-harness: the only file that knows it.

https://github.com/EleutherAI/lm-evaluation-harness
"""

# lm_eval is an extra, and need not be there.
# pyright: reportMissingImports=false

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import LM

from jaxllm.config import GPTConfig
from jaxllm.data import conversations, tokenizers
from jaxllm.errors import DataError
from jaxllm.evals import scoring
from jaxllm.inference import generate, sampling, text
from jaxllm.types import Params

# Tokens that a task gets which does not say how many it wants, as in the harness's own
# models.
_MAX_NEW_TOKENS = 256


class HarnessModel(LM):
    """A GPT as the harness asks it: likelihoods of continuations and texts, answers."""

    def __init__(
        self,
        params: Params,
        cfg: GPTConfig,
        tokenizer: tokenizers.Tokenizer,
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        if tokenizer.end_of_text is None:
            raise DataError(
                "the harness needs a tokenizer with a token that ends a text"
            )
        self._model = params, cfg, tokenizer
        self._batch_size = batch_size
        self._greedy = sampling.Sampling(
            temperature=0, ban=tokenizers.ids_without_token(tokenizer, cfg.vocab_size)
        )

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Score continuations behind contexts."""
        params, cfg, tokenizer = self._model
        pairs = [
            scoring.encode_pair(context, continuation, tokenizer)
            for context, continuation in (request.args for request in requests)
        ]
        scores = scoring.score_continuations(
            params, pairs, cfg, batch_size=self._batch_size
        )
        return [(score.log_likelihood, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Score whole texts."""
        params, cfg, tokenizer = self._model
        start = tokenizer.end_of_text
        assert start is not None
        sums = []
        for request in requests:
            ids = tokenizer.encode_ordinary(request.args[0]).tolist()
            sums.append(
                scoring.score_text(
                    params, ids, cfg, start=start, batch_size=self._batch_size
                )
            )
        return sums

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer prompts greedily, each up to the first of its stop strings."""
        return [self._answer(*request.args) for request in requests]

    def _answer(self, prompt: str, how: dict[str, Any]) -> str:
        params, cfg, tokenizer = self._model
        if how.get("do_sample") or how.get("temperature"):
            raise DataError("answers are greedy here: a task must not ask for sampling")
        wanted = int(how.get("max_gen_toks", _MAX_NEW_TOKENS))
        end = tokenizer.end_of_text
        assert end is not None
        ids = tokenizer.encode(prompt, allow_special=True).tolist() or [end]
        ids = ids[-conversations.split_context(cfg.context_length, wanted) :]
        pieces = generate.stream(
            params,
            [ids],
            cfg,
            max_new_tokens=min(wanted, cfg.context_length - len(ids)),
            sampling=self._greedy,
            stop_tokens=(end,),
        )
        tokens = (token for (row,) in pieces for token in row.tolist())
        until = how.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(filter(None, until))
        return "".join(text.text_of(tokens, tokenizer, stops=stops))
