#!/usr/bin/env python3
"""ns beside the libraries, id for id: tokenizers, sentencepiece and tiktoken over whole corpora.

    python parity.py build/ns ../shared/data          (tokenizers 0.23.3, sentencepiece 0.2.3, tiktoken 0.14.0)

Corpora: GSM8K train, MATH-500, War and Peace by lines, and corpus.py's 20,000 multilingual and emoji lines. Tokenizers: the
real files of the test data; the small ones of hf.json and spm/; Unigram and BPE models with the large maps nmt_nfkc and
nmt_nfkc_cf, trained here. Prints one line a tokenizer and corpus; exit 1 if a line has other ids, or decodes differently.
"""
import argparse
import io
import json
import os
import subprocess
import sys
import tempfile

import sentencepiece as spm
import tiktoken
import tiktoken.load
from tokenizers import Tokenizer

from corpus import lines
from make_spm import training_lines
from make_tokenizers import LLAMA3, QWEN2

HERE = os.path.dirname(os.path.abspath(__file__))


def corpora(data):
    def rows(path, keys):
        with open(os.path.join(data, path), encoding="utf-8") as f:
            return [json.loads(row)[k].replace("\n", " \t") for row in f for k in keys]

    with open(data + "/tokenizers/corpus/war-and-peace.txt", encoding="utf-8", newline="") as f:
        novel = f.read().split("\n")
    yield "gsm8k", rows("gsm8k/train.jsonl", ["question", "answer"])
    yield "math500", rows("math500/test.jsonl", ["problem", "solution"])
    yield "novel", novel
    yield "multilingual", lines(20000)


def ns_lines(ns, verb, tokenizer, text, *flags):
    r = subprocess.run([ns, verb, "-t", tokenizer, "--lines", *flags], input=text, stdout=subprocess.PIPE, check=True)
    return r.stdout.decode().split("\n")[:-1]


def compare(ns, name, path, encode, decode, sets, flags=()):
    bad = 0
    for corpus, texts in sets:
        got = ns_lines(ns, "tokenize", path, "".join(t + "\n" for t in texts).encode(), *flags)
        ids = [[int(x) for x in row.split()] for row in got]
        want = encode(texts)
        back = [json.loads(x) for x in ns_lines(ns, "detokenize", path, "".join(r + "\n" for r in got).encode(), "--json")]
        wrong = [i for i in range(len(texts)) if ids[i] != want[i]]
        decoded = decode(want)
        lost = [i for i in range(len(texts)) if decoded[i] != back[i]]
        print("%-34s %-13s %7d lines %9d tokens  %d with other ids, %d decoded differently"
              % (name, corpus, len(texts), sum(map(len, ids)), len(wrong), len(lost)), flush=True)
        for i in wrong[:3]:
            print("    %r\n      want %s\n      got  %s" % (texts[i], want[i], ids[i]))
        for i in [i for i in lost if i not in wrong][:3]:
            print("    %r\n      want %r\n      got  %r" % (texts[i], decoded[i], back[i]))
        bad += len(wrong) + len(lost)
    return bad


def hugging_face(ns, name, path, sets):
    t = Tokenizer.from_file(path)
    return compare(ns, name, path, lambda x: [e.ids for e in t.encode_batch(x, add_special_tokens=False)],
                   lambda x: t.decode_batch(x, skip_special_tokens=False), sets)


def sentencepiece(ns, name, path, sets):
    t = spm.SentencePieceProcessor(model_file=path)
    return compare(ns, name, path, t.encode, lambda x: [t.decode(i) for i in x], sets)


def ranks(ns, name, path, pattern, sets):
    t = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=tiktoken.load.load_tiktoken_bpe(path.split("#")[0]), special_tokens={})
    return compare(ns, name, path, lambda x: [t.encode_ordinary(i) for i in x], lambda x: [t.decode(i) for i in x], sets, ["--plain"])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("ns")
    ap.add_argument("data")
    ap.add_argument("--lines", type=int, default=None, help="of each corpus, the first N")
    ap.add_argument("--only", default="", help="names that contain this")
    a = ap.parse_args()
    sets = [(name, texts[:a.lines]) for name, texts in corpora(a.data)]
    real = a.data + "/tokenizers/"
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        jobs = [(hugging_face, "llama2", real + "llama2/tokenizer.json"), (hugging_face, "llama3", real + "llama3/tokenizer.assembled.json"),
                (hugging_face, "qwen2.5", real + "qwen2.5/tokenizer.assembled.json"), (sentencepiece, "llama2.model", real + "llama2/tokenizer.model"),
                (sentencepiece, "mistral v1", real + "mistral/tokenizer.model.v1"), (sentencepiece, "mistral v3", real + "mistral/tokenizer.model.v3")]
        jobs += [(sentencepiece, "spm/" + f, "%s/spm/%s" % (HERE, f)) for f in sorted(os.listdir(HERE + "/spm"))]
        for kind in ("bpe", "unigram"):
            for rule in ("nmt_nfkc", "nmt_nfkc_cf"):
                path = "%s/%s_%s.model" % (tmp, kind, rule)
                out = io.BytesIO()
                spm.SentencePieceTrainer.train(sentence_iterator=iter(training_lines()), model_writer=out, model_type=kind, vocab_size=1200,
                                               character_coverage=0.9995, normalization_rule_name=rule, num_threads=1, minloglevel=2)
                with open(path, "wb") as f:
                    f.write(out.getvalue())
                jobs.append((sentencepiece, "%s %s" % (kind, rule), path))
        with open(HERE + "/hf.json", encoding="ascii") as f:
            golden = json.load(f)
        for c in golden["cases"]:
            path = "%s/%s.json" % (tmp, c["name"])
            with open(path, "w", encoding="utf-8") as f:
                json.dump({"version": "1.0", "truncation": None, "padding": None, **c["sections"],
                           "model": {**golden["models"][c["model"]], **c["options"]}}, f)
            jobs.append((hugging_face, "hf/" + c["name"], path))
        for run, name, path in jobs:
            if a.only in name:
                bad += run(a.ns, name, path, sets)
        for name, path, pattern in (("llama3 ranks", real + "llama3/tokenizer.model#llama3.1", LLAMA3),):
            if a.only in name:
                bad += ranks(a.ns, name, path, pattern, sets)
    print("%d differences" % bad)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
