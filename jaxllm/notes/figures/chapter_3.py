"""Chapter 3: attention."""

from jaxllm.notes.figure import Figure, LeftOut, Printed

_RANDOM = (
    "source = stream.seed(123)\n"
    "w_query, w_key, w_value = (source.uniform((3, 2)) for _ in range(3))\n"
)
_BATCH = "batch = np.stack([book.INPUTS, book.INPUTS])\n"

FIGURES = (
    Figure(
        "scores-of-one-query",
        "E",
        "ch03",
        "book.INPUTS @ book.INPUTS[1]",
        Printed("0.9544 1.4950 1.4754 0.8434 0.7070 1.0865"),
        "Seed 001 uses `inputs` without ever setting it; these are the book's.",
    ),
    Figure(
        "scores-normalised-by-their-sum",
        "E",
        "ch03",
        "scores = book.INPUTS @ book.INPUTS[1]\nscores / scores.sum()",
        Printed("0.1455 0.2278 0.2249 0.1285 0.1077 0.1656"),
    ),
    Figure(
        "weights-of-one-query",
        "E",
        "ch03",
        "attention.simple_attention(book.INPUTS)[1][1]",
        Printed("0.1385 0.2379 0.2333 0.1240 0.1082 0.1581"),
    ),
    Figure(
        "context-of-one-query",
        "E",
        "ch03",
        "attention.simple_attention(book.INPUTS)[0][1]",
        Printed("0.4419 0.6515 0.5683"),
    ),
    Figure(
        "scores-of-all",
        "E",
        "ch03; seed 001",
        "book.INPUTS @ book.INPUTS.T",
        Printed(
            "[0.9995 0.9544 0.9422 0.4753 0.4576 0.6310]\n"
            "[0.9544 1.4950 1.4754 0.8434 0.7070 1.0865]\n"
            "[0.9422 1.4754 1.4570 0.8296 0.7154 1.0605]\n"
            "[0.4753 0.8434 0.8296 0.4937 0.3474 0.6565]\n"
            "[0.4576 0.7070 0.7154 0.3474 0.6654 0.2935]\n"
            "[0.6310 1.0865 1.0605 0.6565 0.2935 0.9450]"
        ),
    ),
    Figure(
        "weights-of-the-first",
        "E",
        "ch03; seed 001",
        "attention.simple_attention(book.INPUTS)[1][0]",
        Printed("0.2098 0.2006 0.1981 0.1242 0.1220 0.1452"),
    ),
    Figure(
        "contexts-of-all",
        "E",
        "ch03; seed 001",
        "attention.simple_attention(book.INPUTS)[0]",
        Printed(
            "[0.4421 0.5931 0.5790]\n[0.4419 0.6515 0.5683]\n[0.4431 0.6496 0.5671]\n"
            "[0.4304 0.6298 0.5510]\n[0.4671 0.5910 0.5266]\n[0.4177 0.6503 0.5645]"
        ),
    ),
    Figure(
        "trained-query",
        "R",
        "ch03",
        _RANDOM + "book.INPUTS[1] @ w_query",
        Printed("0.4306 1.4551"),
    ),
    Figure(
        "trained-score",
        "R",
        "ch03",
        _RANDOM + "(book.INPUTS[1] @ w_query) @ (book.INPUTS[1] @ w_key)",
        Printed("1.8524"),
    ),
    Figure(
        "trained-scores",
        "R",
        "ch03",
        _RANDOM + "(book.INPUTS @ w_key) @ (book.INPUTS[1] @ w_query)",
        Printed("1.2705 1.8524 1.8111 1.0795 0.5577 1.5440"),
    ),
    Figure(
        "trained-weights",
        "R",
        "ch03",
        _RANDOM
        + "attention.self_attention(book.INPUTS, w_query, w_key, w_value)[1][1]",
        Printed("0.1500 0.2264 0.2199 0.1311 0.0906 0.1820"),
    ),
    Figure(
        "trained-context",
        "R",
        "ch03",
        _RANDOM
        + "attention.self_attention(book.INPUTS, w_query, w_key, w_value)[0][1]",
        Printed("0.3061 0.8210"),
    ),
    Figure(
        "self-attention-v1",
        "R",
        "ch03",
        _RANDOM + "attention.self_attention(book.INPUTS, w_query, w_key, w_value)[0]",
        Printed(
            "[0.2996 0.8053]\n[0.3061 0.8210]\n[0.3058 0.8203]\n"
            "[0.2948 0.7939]\n[0.2927 0.7891]\n[0.2990 0.8040]"
        ),
    ),
    Figure(
        "self-attention-v2",
        "R",
        "ch03",
        "attention.self_attention(book.INPUTS, *book.attention_weights(789))[0]",
        Printed(
            "[-0.0739 0.0713]\n[-0.0748 0.0703]\n[-0.0749 0.0702]\n"
            "[-0.0760 0.0685]\n[-0.0763 0.0679]\n[-0.0754 0.0693]"
        ),
    ),
    Figure(
        "causal-weights",
        "R",
        "ch03 cells 98-110, rows 2 and 6",
        "attention.causal_attention(book.INPUTS, *book.attention_weights(789))[1]"
        "[np.array([1, 5])]",
        Printed("[0.5517 0.4483 0 0 0 0]\n[0.1935 0.1663 0.1666 0.1542 0.1666 0.1529]"),
        "The book's three ways of masking give these weights: zero and divide by the "
        "sum, or -inf in front of the softmax.",
    ),
    Figure(
        "dropout-of-ones",
        "R",
        "ch03",
        "keep = stream.seed(123).keep_mask((6, 6), 0.5)\n"
        "dropout.dropout(jnp.ones((6, 6)), 0.5, keep)",
        Printed(
            "[2 2 0 2 2 0]\n[0 0 0 2 0 2]\n[2 2 2 2 0 2]\n"
            "[0 2 2 0 0 2]\n[0 2 0 2 0 2]\n[0 2 2 2 2 0]"
        ),
        "PyTorch's dropout has another stream where it is built with MKL: the notes' "
        "masks come from Apple CPUs.",
    ),
    Figure(
        "causal-attention",
        "R",
        "ch03",
        _BATCH
        + "attention.causal_attention(batch, *book.attention_weights(123))[0][1]",
        Printed(
            "[-0.4519  0.2216]\n[-0.5874  0.0058]\n[-0.6300 -0.0632]\n"
            "[-0.5675 -0.0843]\n[-0.5526 -0.0981]\n[-0.5299 -0.1081]"
        ),
    ),
    Figure(
        "causal-attention-shape",
        "E",
        "ch03",
        _BATCH
        + "attention.causal_attention(batch, *book.attention_weights(123))[0].shape",
        [2, 6, 2],
    ),
    Figure(
        "two-heads-stacked",
        "R",
        "ch03",
        _BATCH + "weights = book.attention_weights(123, heads=2)\n"
        "attention.stacked_heads(batch, [weights[:3], weights[3:]])[0][0]",
        Printed(
            "[-0.4519  0.2216 0.4772 0.1063]\n[-0.5874  0.0058 0.5891 0.3257]\n"
            "[-0.6300 -0.0632 0.6202 0.3860]\n[-0.5675 -0.0843 0.5478 0.3589]\n"
            "[-0.5526 -0.0981 0.5321 0.3428]\n[-0.5299 -0.1081 0.5077 0.3493]"
        ),
    ),
    Figure(
        "two-heads-stacked-shape",
        "E",
        "ch03",
        _BATCH + "weights = book.attention_weights(123, heads=2)\n"
        "attention.stacked_heads(batch, [weights[:3], weights[3:]])[0].shape",
        [2, 6, 4],
    ),
    Figure(
        "multi-head-attention",
        "R",
        "ch03",
        _BATCH + "source = stream.seed(123)\n"
        "projections = [source.linear(3, 2, bias=False)[0].T for _ in range(3)]\n"
        "w_out, b_out = source.linear(2, 2)\n"
        "attention.multi_head_attention(\n"
        "    batch, *projections, n_heads=2, w_out=w_out.T, b_out=b_out\n"
        ")[0][0]",
        Printed(
            "[0.3190 0.4858]\n[0.2943 0.3897]\n[0.2856 0.3593]\n"
            "[0.2693 0.3873]\n[0.2639 0.3928]\n[0.2575 0.4028]"
        ),
    ),
    Figure(
        "batched-product",
        "E",
        "ch03 cell 138",
        "jnp.einsum('nth,nsh->nts', book.TWO_HEADS, book.TWO_HEADS)",
        Printed(
            "[1.3208 1.1631 1.2879]\n[1.1631 2.2150 1.8424]\n[1.2879 1.8424 2.0402]\n\n"
            "[0.4391 0.7003 0.5903]\n[0.7003 1.3737 1.0620]\n[0.5903 1.0620 0.9912]"
        ),
    ),
)

LEFT_OUT = (
    LeftOut(
        "multi-head-timings",
        "H",
        "ch03/02: milliseconds on a CPU and an A100",
        "a timing of other programs on other machines",
    ),
)
