"""The same work by the usual tools, where they are installed. Called by bench/run.sh; one JSON object a line.

usage: rivals.py ROWS.jsonl TOKENIZER_DIR TEXT [json] [tok] [torch]      (default: all)
Same timing rule as bench.h: one warm-up, then at least 7 calls and 0.5 s; best and median. Tokenizers, which take seconds a
call: the warm-up and at least 2.
"""
import json
import os
import sys
import time


def measure(fn, clock=time.perf_counter, least=7):
    fn()
    times, start = [], time.perf_counter()
    while len(times) < least or time.perf_counter() - start < 0.5:
        t = clock()
        fn()
        times.append(clock() - t)
    times.sort()
    return times[0], times[len(times) // 2]


def line(bench, who, rate, unit, best, median, **more):
    print(json.dumps({"bench": bench, "who": who, **more, "rate": float(f"{rate:.4g}"), "unit": unit,
                      "best_s": float(f"{best:.4g}"), "median_s": float(f"{median:.4g}")}), flush=True)


def skip(bench, who, why):
    print(json.dumps({"bench": bench, "who": who, "skipped": why}), flush=True)


def bench_json(path):
    if not os.path.exists(path):
        return skip("json.parse", "python json", "no test data")
    rows = open(path, encoding="utf-8").read().splitlines()
    size = os.path.getsize(path)
    trees = [json.loads(r) for r in rows]
    best, median = measure(lambda: [json.loads(r) for r in rows])
    line("json.parse", "python json", size / best / 1e6, "MB/s", best, median, rows=len(rows), bytes=size, threads=1)
    best, median = measure(lambda: [json.dumps(t, ensure_ascii=False) for t in trees])
    line("json.write", "python json", size / best / 1e6, "MB/s", best, median, rows=len(rows), bytes=size, threads=1)


def bench_tok(folder, text, rows_file):
    try:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one thread, as ours
        import tokenizers
    except ImportError:
        return skip("tok.encode", "hf tokenizers", "not installed")
    for name in ("llama2/tokenizer.json", "qwen2.5/tokenizer.assembled.json", "llama3/tokenizer.assembled.json"):
        path = os.path.join(folder, name)
        if not (os.path.exists(path) and os.path.exists(text)):
            skip("tok.encode", "hf tokenizers", "no test data")
            continue
        t = time.perf_counter()
        tok = tokenizers.Tokenizer.from_file(path)
        load = time.perf_counter() - t
        for what, file in (("war-and-peace, by lines", text), ("gsm8k rows", rows_file)):
            rows = open(file, encoding="utf-8", newline="").read().splitlines(keepends=True)
            size = os.path.getsize(file)
            encode = getattr(tok, "encode_batch_fast", tok.encode_batch)  # without offsets, which we do not make either
            count = sum(len(e.ids) for e in encode(rows, add_special_tokens=False))
            ways = (("encode_batch_fast", lambda: encode(rows, add_special_tokens=False)),
                    ("encode, row by row", lambda: [tok.encode(r, add_special_tokens=False) for r in rows]))
            for way, fn in ways:
                best, median = measure(fn, time.process_time, 2)
                line("tok.encode", "hf tokenizers " + tokenizers.__version__, size / best / 1e6, "MB/s", best, median,
                     tokenizer=name.split("/")[0], text=what, way=way, bytes=size, tokens=count, threads=1, clock="cpu",
                     load_s=round(load, 3))


def bench_ranks_and_pieces(folder, text, rows_file):
    """sentencepiece and tiktoken, row by row and as a list of rows."""
    rivals = []
    try:
        import sentencepiece
        for name in ("llama2/tokenizer.model", "mistral/tokenizer.model.v3"):
            if os.path.exists(os.path.join(folder, name)):
                p = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, name))
                rivals.append(("sentencepiece " + sentencepiece.__version__, name, p.encode, lambda r, p=p: p.encode(r, num_threads=1)))
    except ImportError:
        skip("tok.encode", "sentencepiece", "not installed")
    try:
        import tiktoken
        import tiktoken.load
        path = os.path.join(folder, "llama3/tokenizer.model")
        if os.path.exists(path):
            pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
                       r"\s*[\r\n]+|\s+(?!\S)|\s+")
            t = tiktoken.Encoding("llama3", pat_str=pattern, mergeable_ranks=tiktoken.load.load_tiktoken_bpe(path), special_tokens={})
            rivals.append(("tiktoken " + tiktoken.__version__, "llama3/tokenizer.model", t.encode_ordinary,
                           lambda r, t=t: t.encode_ordinary_batch(r, num_threads=1)))
    except ImportError:
        skip("tok.encode", "tiktoken", "not installed")
    for who, name, one, batch in rivals:
        for what, file in (("war-and-peace, by lines", text), ("gsm8k rows", rows_file)):
            rows = open(file, encoding="utf-8", newline="").read().splitlines(keepends=True)
            size, count = os.path.getsize(file), sum(len(one(r)) for r in rows)
            for way, fn in (("batch", lambda: batch(rows)), ("row by row", lambda: [one(r) for r in rows])):
                best, median = measure(fn, time.process_time, 2)
                line("tok.encode", who, size / best / 1e6, "MB/s", best, median, tokenizer=name, text=what, way=way, bytes=size,
                     tokens=count, threads=1, clock="cpu")


def bench_torch():
    try:
        import torch
    except ImportError:
        return skip("ops.linear_fwd", "torch", "not installed")
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        for dtype, name in ((torch.float32, "F32"), (torch.bfloat16, "BF16")):
            for m, n, k in ((1024, 1024, 1024), (1024, 2816, 1024)):
                x, w = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
                with torch.no_grad():
                    best, median = measure(lambda: torch.nn.functional.linear(x, w))
                line("ops.linear_fwd", "torch " + torch.__version__, 2 * m * n * k / best / 1e9, "GFLOP/s", best, median,
                     dtype=name, M=m, N=n, K=k, threads=threads)


what = sys.argv[4:] or ["json", "tok", "torch"]
if "json" in what:
    bench_json(sys.argv[1])
if "tok" in what:
    bench_tok(sys.argv[2], sys.argv[3], sys.argv[1])
    bench_ranks_and_pieces(sys.argv[2], sys.argv[3], sys.argv[1])
if "torch" in what:
    bench_torch()
