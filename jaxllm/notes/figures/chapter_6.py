"""Chapter 6: a classifier."""

from jaxllm.notes.figure import Figure, LeftOut

_NO_CLASSIFIER = "needs finetuning to classify, which jaxllm does not have"
_NO_LABELLED = "needs labelled texts, which jaxllm does not read"

FIGURES = (
    Figure(
        "classifier-parameters",
        "E",
        "appendix E; two outputs on GPT-2",
        'gpt.count_params(gpt2_config("124M")) + 768 * 2 + 2',
        124_441_346,
    ),
    Figure(
        "classifier-trainable-parameters",
        "E",
        "ch06; last block, final norm and head",
        'cfg = gpt2_config("124M")\n'
        "params = jax.eval_shape(lambda: gpt.init_params(jax.random.key(0), cfg))\n"
        'blocks_and_norm = [params["blocks"], params["final_norm"]]\n'
        "size, norm = (sum(leaf.size for leaf in jax.tree.leaves(tree)) "
        "for tree in blocks_and_norm)\n"
        "size // cfg.n_layers + norm + 768 * 2 + 2",
        7_090_946,
    ),
)

LEFT_OUT = (
    LeftOut(
        "spam-rows",
        "E",
        "ch06: 5572 rows, 4825 ham, 747 spam, 1494 balanced, split 1045/149/300",
        _NO_LABELLED,
    ),
    LeftOut(
        "spam-batches",
        "E",
        "ch06: longest text 120 tokens; 130, 19 and 38 batches",
        _NO_LABELLED,
    ),
    LeftOut(
        "spam-sample",
        "E",
        "ch06: the balanced frame begins at rows 4307, 4138, 4831, 4461, 5440",
        _NO_LABELLED,
    ),
    LeftOut(
        "spam-before-training",
        "W",
        "ch06: a fresh head's logits -1.5854 0.9904 ...; 46.25, 45.00 and 48.75 %",
        _NO_CLASSIFIER,
    ),
    LeftOut(
        "spam-classification",
        "W",
        "ch06: losses 2.153/2.392 ... 0.083/0.074; 97.21, 97.32 and 95.67 %",
        _NO_CLASSIFIER,
    ),
    LeftOut(
        "spam-variants",
        "W",
        "ch06/02 and ch06/03: accuracies of 19 variants, and on film reviews",
        _NO_CLASSIFIER,
    ),
    LeftOut(
        "lora-parameters",
        "E",
        "appendix E: 2,666,528 parameters of rank 16",
        "needs low-rank adaptation, which jaxllm does not have",
    ),
    LeftOut(
        "lora-classification",
        "W",
        "appendix E: 99.81, 97.99 and 96.67 %",
        "needs low-rank adaptation, which jaxllm does not have",
    ),
)
