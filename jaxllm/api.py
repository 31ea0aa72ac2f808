"""Everything that `import jaxllm` offers, in the order of the data's way."""

from jaxllm.config import (
    DataConfig,
    GPTConfig,
    LoopConfig,
    MeshConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
    gpt2_config,
    gpt3_config,
)
from jaxllm.errors import JaxllmError
from jaxllm.types import Batch

from jaxllm.data.tokenizers import (
    Tokenizer,
    add_special_tokens,
    learn as learn_tokenizer,
    load as load_tokenizer,
    save as save_tokenizer,
)
from jaxllm.data.corpora import documents
from jaxllm.data.token_store import open_store, prepare
from jaxllm.data.windows import sliding_windows
from jaxllm.data.batches import evaluation_batches, training_batches
from jaxllm.data.labelled import balanced_rows, encode_texts, read_labelled
from jaxllm.data.templates import ALPACA, CHAT, PHI_3, ChatTemplate, Template
from jaxllm.data.layouts import write_few_shot_prompt, write_prompt
from jaxllm.data.instructions import (
    collate,
    encode_conversation,
    encode_pair,
    encode_record,
)

from jaxllm.models.attention import (
    causal_attention,
    multi_head_attention,
    self_attention,
    simple_attention,
    stacked_heads,
)
from jaxllm.models.cache import init_cache
from jaxllm.models.gpt import (
    apply,
    check_tokens,
    count_params,
    hidden_states,
    init_params,
    trace,
    unembed,
)

from jaxllm.training.losses import cross_entropy, next_token_loss
from jaxllm.training.optimizers import learning_rate_schedule, make_optimizer
from jaxllm.training.state import TrainState, init_train_state
from jaxllm.training.steps import evaluation_step, train_step
from jaxllm.training.loop import train

from jaxllm.inference.settings import Sampling
from jaxllm.inference.sampling import sample
from jaxllm.inference.weights import decoding_params
from jaxllm.inference.generate import complete, generate, stream
from jaxllm.inference.text import stream_text
from jaxllm.inference.beam import beam_search

from jaxllm.pretrained.load import load_pretrained
from jaxllm.pretrained.save import save_classifier, save_pretrained
from jaxllm.pretrained.surgery import add_qkv_bias, resize_vocabulary

from jaxllm.finetuning.heads import attach_classifier, classify
from jaxllm.finetuning.trainable import (
    join as join_trained,
    last_blocks,
    split as split_trained,
)
from jaxllm.finetuning.lora import init_lora, merge_lora
from jaxllm.finetuning.peft import load_adapters, save_adapters
from jaxllm.finetuning.preference import preference_loss
from jaxllm.finetuning.run import finetune
from jaxllm.finetuning.opening import load_run

from jaxllm.vectors.config import Word2VecConfig
from jaxllm.vectors.training import train as train_word2vec
from jaxllm.vectors.files import (
    Embeddings,
    read as read_vectors,
    write as write_vectors,
)
from jaxllm.vectors.layers import (
    look_up,
    one_hot_product,
    text_vectors,
    token_and_position,
    token_embeddings,
)
from jaxllm.vectors.queries import analogy, doesnt_match, most_similar, similarity
from jaxllm.vectors.evaluation import evaluate_analogies, evaluate_similarities
from jaxllm.vectors.projection import pca, tsne
