#!/usr/bin/env python3
"""Small tokenizers of every supported kind and what the Hugging Face library makes of awkward texts: hf.json.

    python make_tokenizers.py            (tokenizers 0.23.3; the same bytes each time)

Models are trained here on corpus.py. Cases take a model and their own pipeline sections. Offsets are bytes of the text,
widened to whole characters (the library counts characters).
"""
import json
import os

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from corpus import lines

HERE = os.path.dirname(os.path.abspath(__file__))
META = "▁"
TEXTS = ["", " ", "a", "  two  blanks ", "Hello world", " the  and\tof\n\nanswer ", "it's we'll I'M DON'T", "naïve cafe\u0301 ﬁ ① ㎏ Å",
         "12345 1,234.5 ٣٤٥ Ⅳ½²", "你好，世界。 日本語カタカナ", "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪", "x<s>y</s> <s>", "<0x41> é\u0000b", "▁a ▁▁ b▁",
         "가각 \u1100\u1161\u11a8", "नमस्ते दुनिया", "for (i=0;i<n;i++) {\r\n\treturn x;\r\n}", "\u00a0\u2003x\u3000y\u200b", "!!! ... ?a,b",
         "<mask> two<mask>three <word>a<word> b", "HTTPServer CamelCase ABCdef", "a" * 40, "ſ K 'ſ 'S", "qœß źdźbło"]

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+")


def train(pre, normalizer, vocab, alphabet, byte_fallback):
    t = Tokenizer(models.BPE(byte_fallback=byte_fallback, fuse_unk=True, unk_token="<unk>" if byte_fallback else None))
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)] if byte_fallback else []
    t.train_from_iterator(lines(4000, seed=7), trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False,
        **({"limit_alphabet": 90} if byte_fallback else {})))
    return json.loads(t.to_str())["model"]


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def seq(key, *items):
    return {"type": "Sequence", key: list(items)}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
BYTE_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
TO_META = {"type": "Replace", "pattern": {"String": " "}, "content": META}
TO_BLANK = {"type": "Replace", "pattern": {"String": META}, "content": " "}
PREPEND = {"type": "Prepend", "prepend": META}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
SP_DECODER = seq("decoders", TO_BLANK, {"type": "ByteFallback"}, {"type": "Fuse"}, STRIP)
GEMMA_DECODER = seq("decoders", TO_BLANK, {"type": "ByteFallback"}, {"type": "Fuse"})


def meta(scheme, cut):
    return {"type": "Metaspace", "replacement": META, "prepend_scheme": scheme, "split": cut}


def added(base, texts, **flags):
    return [{"id": base + i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True, **flags} for i, c in enumerate(texts)]


def case(name, model, pre=None, norm=None, dec=BYTE_DECODER, post=None, tokens=(), **options):
    return {"name": name, "model": model, "options": options,
            "sections": {"added_tokens": list(tokens), "normalizer": norm, "pre_tokenizer": pre, "post_processor": post,
                         "decoder": dec}}


def cases(n_bytes, n_chars):
    sp = added(0, ["<unk>", "<s>", "</s>"])
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    yield case("llama2", "chars", None, seq("normalizers", PREPEND, TO_META), SP_DECODER, template, sp)
    yield case("mistral", "chars", meta("first", False), None, SP_DECODER, None, sp)
    yield case("mistral_norm", "chars", meta("first", False), {"type": "NFC"}, SP_DECODER, None, sp)
    yield case("metaspace_always", "chars", meta("always", True), None, {"type": "Metaspace", "replacement": META, "prepend_scheme": "always", "split": True}, None, sp)
    yield case("metaspace_never", "chars", meta("never", True), None, {"type": "Metaspace", "replacement": META, "prepend_scheme": "never", "split": True}, None, sp)
    yield case("metaspace_after_split", "chars", seq("pretokenizers", split("[0-9]+"), meta("first", True)), None, SP_DECODER, None, sp)
    yield case("gemma", "chars", split(" ", "MergedWithPrevious", kind="String"), TO_META, GEMMA_DECODER, None,
               sp + added(n_chars, ["<mask>", "\n\n", META * 2], special=False))
    yield case("nemotron", "chars", None, seq("normalizers", {"type": "NFKC"}, PREPEND, TO_META), SP_DECODER, None, sp + added(n_chars, ["<extra_id_0>", "<extra_id_1>"]))
    for i, form in enumerate(("NFC", "NFD", "NFKC", "NFKD")):
        yield case(form.lower(), "bytes", seq("pretokenizers", split(QWEN2), BYTES), {"type": form})
    yield case("strip_replace", "bytes", seq("pretokenizers", split(LLAMA3), BYTES),
               seq("normalizers", {"type": "Strip", "strip_left": True, "strip_right": True},
                   {"type": "Replace", "pattern": {"Regex": r"[ \t]{2,}"}, "content": " "}, {"type": "Replace", "pattern": {"String": "a"}, "content": "bb"}))
    yield case("llama3", "bytes", seq("pretokenizers", split(LLAMA3), BYTES), ignore_merges=True)
    yield case("qwen2", "bytes", seq("pretokenizers", split(QWEN2), BYTES), {"type": "NFC"})
    yield case("tekken", "bytes", seq("pretokenizers", split(TEKKEN), BYTES), ignore_merges=True)
    yield case("o200k", "bytes", seq("pretokenizers", split(O200K), BYTES))
    yield case("deepseek_v3", "bytes", seq("pretokenizers", split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), BYTES))
    yield case("classes", "bytes", seq("pretokenizers", split(r"\w+|[^\w\s]+"), split(r"\d|\p{Han}+|(?<=e)l|\S(?=\s)"), BYTES))
    yield case("digits", "bytes", seq("pretokenizers", {"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}))
    yield case("digits_runs", "bytes", seq("pretokenizers", {"type": "Digits", "individual_digits": False}, BYTES | {"add_prefix_space": True, "use_regex": True}))
    for b in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield case("split_%s_%d" % (b, invert), "bytes", seq("pretokenizers", split(r"[ae]| ", b, invert), BYTES))
    yield case("added_flags", "bytes", seq("pretokenizers", split(LLAMA3), BYTES), {"type": "NFC"}, BYTE_DECODER, None,
               added(n_bytes, ["<mask>"], lstrip=True, rstrip=True) + added(n_bytes + 1, ["<word>"], single_word=True, special=False) +
               added(n_bytes + 2, ["cafe\u0301", "two"], normalized=True, special=False))
    yield case("unk_fused", "chars", meta("always", True), None, GEMMA_DECODER, None, sp, byte_fallback=False)
    yield case("unk_single", "chars", meta("always", True), None, GEMMA_DECODER, None, sp, byte_fallback=False, fuse_unk=False)


def byte_offsets(text, spans):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [[at[a], at[b]] for a, b in spans]


def main():
    level = pre_tokenizers.Sequence([pre_tokenizers.Split(__import__("tokenizers").Regex(LLAMA3), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trained = {"bytes": train(level, None, 700, pre_tokenizers.ByteLevel.alphabet(), False),
               "chars": train(pre_tokenizers.Metaspace(), None, 259 + 560, [META], True)}
    out = {"models": trained, "cases": []}
    n = {k: len(m["vocab"]) for k, m in trained.items()}
    for c in cases(n["bytes"], n["chars"]):
        whole = {"version": "1.0", "truncation": None, "padding": None, **c["sections"], "model": {**trained[c["model"]], **c["options"]}}
        t = Tokenizer.from_str(json.dumps(whole))
        c["vectors"] = []
        for text in TEXTS:
            e = t.encode(text, add_special_tokens=False)
            c["vectors"].append({"text": text, "ids": e.ids, "spans": byte_offsets(text, e.offsets),
                                 "decoded": t.decode(e.ids, skip_special_tokens=False)})
        special = t.encode("a", add_special_tokens=True).ids
        c["with_special"] = special
        out["cases"].append(c)
    with open(os.path.join(HERE, "hf.json"), "w", encoding="ascii") as f:
        f.write('{"models": ' + json.dumps(out["models"], separators=(",", ":")) + ',\n"cases": [\n')
        f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in out["cases"]))
        f.write("\n]}\n")
    print("hf.json: %d cases of %d texts" % (len(out["cases"]), len(TEXTS)))


if __name__ == "__main__":
    main()
