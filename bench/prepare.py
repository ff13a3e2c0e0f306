"""prepare.py NS GSM8K.jsonl [MB]: `ns prepare` on made generations, and the Python original on the same rows.

NS_BENCH_NEMO_SKILLS: a folder with `nemo_skills` (NVIDIA/NeMo-Skills at a718f1d2) and `sdp` (NVIDIA/NeMo-speech-data-processor
at 29b9b1ec), run by NS_BENCH_PYTHON, which has what they import (hydra-core, tqdm, rich, transformers; `__init__` files that
import more than the processors need may be emptied). NS_BENCH_TOKENIZER: a folder with tokenizer.json for the length filter.
Prints a JSON object a line: CPU seconds (user + system, children included), seconds by the clock, MB of input per CPU second, peak
memory; whether the bytes written are equal. Without a rival or a tokenizer it says so.
"""
import json
import os
import random
import subprocess
import sys
import tempfile
import time


def make_rows(path, source, size):
    """Four answers a question, a fifth of them wrong, until the file has that many bytes."""
    with open(source, encoding="utf-8") as f:
        questions = [json.loads(line) for line in f]
    rng, n, k = random.Random(1), 0, 0
    with open(path, "w", encoding="utf-8") as out:
        while n < size:
            q, turn = questions[k % len(questions)], k // len(questions)
            k += 1
            text, answer = q["answer"].split("#### ")
            for attempt in range(4):
                n += out.write(json.dumps({
                    "problem": q["question"] + (f" (variant {turn})" if turn else ""),
                    "generation": f"{text}Let us check attempt {attempt}. So the answer is \\boxed{{{answer}}}.\nDone.",
                    "expected_answer": answer, "predicted_answer": answer, "is_correct": rng.random() < 0.8,
                    "generation_time": 1.25, "num_tokens": 200}) + "\n")


def run(argv, **more):
    """(CPU seconds, seconds, peak MB) of a command and its children."""
    begin = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(said.decode(errors="replace")[-400:])
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - begin, usage.ru_maxrss / 1e3


def show(bench, who, mb, best, **more):
    cpu, clock, peak = best
    print(json.dumps({"bench": bench, "who": who, "mb": round(mb, 1), "cpu_s": round(cpu, 3), "clock_s": round(clock, 3),
                      "mb_per_cpu_s": round(mb / cpu, 1), "peak_mb": round(peak), **more}), flush=True)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def compare(bench, ns, folder, rows, words):
    mb = os.path.getsize(rows) / 1e6
    ours, theirs = os.path.join(folder, "ours.jsonl"), os.path.join(folder, "theirs.jsonl")
    words = ["++prompt_config=generic/math", "++prompt_template=llama3-instruct", "++filters.remove_contaminated=false",
             "++input_files=" + rows, *words]
    cpu = None
    for threads in (1, 2):
        runs = [run([ns, "prepare", "--quiet", "++output_path=" + ours, *words], env={**os.environ, "NS_THREADS": str(threads)})
                for _ in range(5)]
        best = (min(r[0] for r in runs), min(r[1] for r in runs), max(r[2] for r in runs))
        cpu = cpu or best[0]
        show(bench, "ns", mb, best, threads=threads)
    rival = os.environ.get("NS_BENCH_NEMO_SKILLS")
    if not rival:
        print(json.dumps({"bench": bench, "who": "NeMo-Skills", "skipped": "NS_BENCH_NEMO_SKILLS is not set"}))
        return
    python = os.environ.get("NS_BENCH_PYTHON", sys.executable)
    best = run([python, "-m", "nemo_skills.training.prepare_data", "++output_path=" + theirs, *words], cwd=rival,
               env={**os.environ, "PYTHONPATH": rival})
    # the original's own wording of the prompt, so that the bytes can be compared
    again = [w for w in words if not w.startswith("++prompt_config")]
    run([ns, "prepare", "--quiet", "++output_path=" + ours, *again,
         f"++prompt_config={rival}/nemo_skills/prompt/config/generic/math.yaml"])
    show(bench, "NeMo-Skills", mb, best, times_cpu_of_ns=round(best[0] / cpu, 1), same_bytes=read(ours) == read(theirs))


def main():
    ns, source, mb = sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 100
    tokenizer = os.environ.get("NS_BENCH_TOKENIZER")
    with tempfile.TemporaryDirectory() as folder:
        rows = os.path.join(folder, "rows.jsonl")
        make_rows(rows, source, mb * 1e6)
        compare("prepare.no_length_filter", ns, folder, rows, ["++filters.remove_len_outlier_problems=false"])
        if tokenizer:
            compare("prepare.default_filters", ns, folder, rows, ["++hf_model_name=" + tokenizer])
        else:
            print(json.dumps({"bench": "prepare.default_filters", "who": "ns", "skipped": "NS_BENCH_TOKENIZER is not set"}))


main()
