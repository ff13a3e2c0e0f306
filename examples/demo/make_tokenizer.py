#!/usr/bin/env python3
"""Trains the demo's tokenizer on the text of the demo's problems. Needed only to make tokenizer/ again.

    make_problems demo-data && python3 make_tokenizer.py demo-data tokenizer

In: the JSONL files of make_problems. Out: tokenizer.json and the two files that Hugging Face keeps beside it.
The layout is Llama 3's (byte-level BPE, special tokens after the vocabulary, a BOS by the post-processor), the
splitting is Qwen 2.5's (one token a digit). Training on the whole output is no leak: it sees words, not answers,
and digits never merge.
"""
import json
import pathlib
import sys

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB = 640  # in total: 256 bytes, merges, the special tokens; every word of the problems is one token
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def texts(folder):
    for path in sorted(pathlib.Path(folder).rglob("*.jsonl")):
        for line in path.open(encoding="utf-8"):
            row = json.loads(line)
            yield row["problem"]
            yield row["reference_solution"]
    yield "user assistant system"


def main(source, target):
    target = pathlib.Path(target)
    target.mkdir(parents=True, exist_ok=True)
    byte_level = dict(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok = Tokenizer(models.BPE(ignore_merges=False))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(texts(source), trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL), show_progress=False, min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_special_tokens(SPECIAL)
    if tok.get_vocab_size() != VOCAB:
        sys.exit(f"make_tokenizer: {tok.get_vocab_size()} tokens, expected {VOCAB}: too little text in {source}")
    bos = tok.token_to_id(SPECIAL[0])
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(**byte_level),
        processors.TemplateProcessing(single=f"{SPECIAL[0]} $A", pair=f"{SPECIAL[0]} $A {SPECIAL[0]}:1 $B:1",
                                      special_tokens=[(SPECIAL[0], bos)])])
    tok.save(str(target / "tokenizer.json"))
    named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    added = {str(tok.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                       "single_word": False, "special": True} for t in SPECIAL}
    config = {"added_tokens_decoder": added, **named, "clean_up_tokenization_spaces": False,
              "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 256,
              "tokenizer_class": "PreTrainedTokenizerFast"}
    for name, value in (("tokenizer_config.json", config), ("special_tokens_map.json", named)):
        (target / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
