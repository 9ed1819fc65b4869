"""llama.cpp generates text with a model of random weights, a few tokens at a time, each time from its cache of what was there before."""

import os
import time

import numpy
import xllamacpp
from gguf import GGUFWriter, TokenType

WIDTH, LAYERS, HEADS, STEPS = 64, 2, 4, 100
LETTERS = [chr(0x100 + number) for number in range(256)]
WORDS = ["<unk>", "<s>", "</s>", *LETTERS]


def write_model(path):
    """A llama whose tokens are letters."""
    made = numpy.random.default_rng(7)
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(WORDS)
    writer.add_token_scores([0.0] * len(WORDS))
    writer.add_token_types(
        [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.NORMAL] * len(LETTERS)]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd": (len(WORDS), WIDTH), "output": (len(WORDS), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{part}": (2 * WIDTH, WIDTH) for part in ("gate", "up")}
        shapes[f"blk.{layer}.ffn_down"] = (WIDTH, 2 * WIDTH)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", made.standard_normal(shape, dtype=numpy.float32) / 4)
    for name in ("output_norm", *(f"blk.{layer}.{part}_norm" for layer in range(LAYERS) for part in ("attn", "ffn"))):
        writer.add_tensor(f"{name}.weight", numpy.ones(WIDTH, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


write_model("/model.gguf")
params = xllamacpp.CommonParams()
params.model.path = "/model.gguf"
params.n_ctx = 2048
params.n_parallel = 1
params.cpuparams.n_threads = 2
server = xllamacpp.Server(params)
said = ""
with open("/out", "a", buffering=1) as out:
    for step in range(1, STEPS + 1):
        prompt = [1, *(WORDS.index(letter) for letter in said)]
        answer = server.handle_completions({"prompt": prompt, "n_predict": 4, "temperature": 0.0, "ignore_eos": True})
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached > len(prompt) - 8 or step == 1, f"{cached} of {len(prompt)} tokens were cached"
        said += answer["choices"][0]["text"].strip()
        print(step, said[-4:], file=out)
        time.sleep(0.2)
with open("/result.new", "w") as result:
    result.write(said)
os.rename("/result.new", "/result")
time.sleep(3600)
