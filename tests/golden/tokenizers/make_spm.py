#!/usr/bin/env python3
"""Small SentencePiece models of every supported kind and what the library makes of awkward texts: spm/NAME.model, spm.json.

    python make_spm.py [--out DIR]       (sentencepiece 0.2.3)

Trained on corpus.py. The character map of nmt_nfkc alone has 240 kB, so the committed map is a small one of our own;
parity.py checks the large ones.
"""
import argparse
import collections
import io
import json
import os

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb

from corpus import lines
from make_tokenizers import TEXTS

HERE = os.path.dirname(os.path.abspath(__file__))
MAP = {"ﬁ": "fi", "①": "1", "\u212b": "\u00c5", "\u00a0": " ", "\u3000": " ", "e\u0301": "\u00e9", "ab": "x", "abc": "yz", "\u200b": ""}
EXTRA = ["<user>", "x <user>y<usr2> <user>", "\u3000 a\u00a0\u00a0b\u3000", "abcab abc", "   ", "▁<user>▁ ▁", "q" * 30, "<unk><s></s>", "ẞ漢ẞ"]


def rules(path):
    with open(path, "w", encoding="utf-8") as f:
        for a, b in MAP.items():
            f.write(" ".join("%X" % ord(c) for c in a) + "\t" + " ".join("%X" % ord(c) for c in b) + "\n")


def training_lines():
    """Only lines of common characters: the vocabularies are small."""
    text = lines(6000, seed=11)
    count = collections.Counter("".join(text))
    return [t for t in text if t.strip() and all(count[c] >= 30 for c in t)]


def train(**options):
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(training_lines()), model_writer=out, num_threads=1,
                                   minloglevel=2, max_sentence_length=10000, **options)
    return out.getvalue()


def edited(model, change):
    m = pb.ModelProto.FromString(model)
    change(m)
    return m.SerializeToString()


def without_rare_characters(m):
    """Characters that only longer pieces hold, and pieces marked unused."""
    kinds = {p.piece: p for p in m.pieces}
    drop = [c for c in ("w", "é", "世") if c in kinds]
    kept = [p for p in m.pieces if p.piece not in drop]
    del m.pieces[:]
    m.pieces.extend(kept)
    unused = [p for p in m.pieces if p.type == 1 and len(p.piece) == 2][:6]
    for p in unused:
        p.type = 5


def models(tsv):
    base = dict(vocab_size=800, character_coverage=0.98, unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    llama = dict(base, model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                 split_digits=True, allow_whitespace_only_pieces=True)
    yield "bpe_llama2", train(**llama)
    yield "bpe_user", train(**dict(llama, user_defined_symbols=["<user>", "<usr2>", "<us", "▁▁▁"], control_symbols=["<ctl>"]))
    yield "bpe_plain", train(**dict(base, model_type="bpe", normalization_rule_tsv=tsv))
    yield "bpe_suffix", train(**dict(base, model_type="bpe", treat_whitespace_as_suffix=True, normalization_rule_name="identity"))
    yield "bpe_no_prefix", train(**dict(llama, add_dummy_prefix=False))
    yield "bpe_holes", edited(train(**dict(llama, byte_fallback=False)), without_rare_characters)
    yield "unigram", train(**dict(base, model_type="unigram", normalization_rule_tsv=tsv))
    yield "unigram_bytes", train(**dict(llama, model_type="unigram", user_defined_symbols=["<user>", "<usr2>"]))
    yield "unigram_holes", edited(train(**dict(base, model_type="unigram", normalization_rule_name="identity", remove_extra_whitespaces=False)),
                                  without_rare_characters)


def byte_at(text):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return at


def vectors(model):
    sp = spm.SentencePieceProcessor(model_proto=model)
    for text in TEXTS + EXTRA:
        ids = sp.encode(text)
        yield {"text": text, "ids": ids, "decoded": sp.decode(ids)}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", default=HERE)
    a = ap.parse_args()
    os.makedirs(a.out + "/spm", exist_ok=True)
    tsv = a.out + "/rules.tsv"
    rules(tsv)
    cases = []
    for name, model in models(tsv):
        m = pb.ModelProto.FromString(model)
        m.trainer_spec.ClearField("input")
        m.normalizer_spec.ClearField("normalization_rule_tsv")
        model = m.SerializeToString()
        with open("%s/spm/%s.model" % (a.out, name), "wb") as f:
            f.write(model)
        sp = spm.SentencePieceProcessor(model_proto=model)
        cases.append({"name": name, "vocab_size": sp.vocab_size(), "bos": sp.bos_id(), "eos": sp.eos_id(), "vectors": list(vectors(model))})
    os.remove(tsv)
    with open(a.out + "/spm.json", "w", encoding="ascii") as f:
        f.write("[" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]\n")
    print("spm.json: %d models of %d texts" % (len(cases), len(TEXTS + EXTRA)))


if __name__ == "__main__":
    main()
