"""Bin assignment by the original's own script, on the lengths of bench_pack. Called by bench/run.sh; one JSON object a line.

usage: pack_rival.py SCRIPT LENGTHS [PACK]
SCRIPT: NeMo-Skills' prepare_packed_ft_dataset.py (NS_BENCH_PACKER); only its functions run: what it imports of NeMo is stood in for.
It scans all packs for every sample, so each size is given NS_BENCH_PACKER_LIMIT seconds (60); one that takes longer is a
lower bound and says how far it came.
"""
import importlib.util
import json
import logging
import os
import signal
import sys
import time
import types

import numpy as np


def load(path):
    names = ["nemo", "nemo.collections", "nemo.collections.nlp", "nemo.collections.nlp.data",
             "nemo.collections.nlp.data.language_modeling", "nemo.collections.nlp.data.language_modeling.megatron",
             "nemo.collections.nlp.data.language_modeling.megatron.gpt_sft_dataset", "nemo.collections.nlp.modules",
             "nemo.collections.nlp.modules.common", "nemo.collections.nlp.modules.common.tokenizer_utils",
             "nemo.core", "nemo.core.config", "nemo.utils", "tqdm"]
    for name in names:
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[names[6]].GPTSFTDataset = object
    sys.modules[names[9]].get_nmt_tokenizer = None
    sys.modules["nemo.core.config"].hydra_runner = lambda **kw: lambda fn: fn
    sys.modules["nemo.utils"].logging = logging.getLogger("rival")
    sys.modules["tqdm"].tqdm = lambda it, **kw: it
    spec = importlib.util.spec_from_file_location("rival", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TooLong(Exception):
    pass


def main(script, lengths, pack=16384):
    rival, all_lengths = load(script), np.fromfile(lengths, dtype=np.int32)
    limit, placed = int(os.environ.get("NS_BENCH_PACKER_LIMIT", "60")), [0]
    find = rival.find_first_bin_that_fits

    def counted(bins, s, size):
        placed[0] += 1
        return find(bins, s, size)

    def stop(*_):
        raise TooLong

    rival.find_first_bin_that_fits = counted
    signal.signal(signal.SIGALRM, stop)
    for n in (2000, 5000, 10000, len(all_lengths)):
        histogram = np.bincount(all_lengths[:n], minlength=pack + 1).tolist()
        np.random.seed(0)
        placed[0] = 0
        out = {"bench": "pack.assign", "who": "original", "algorithm": "first_fit_shuffle", "samples": n, "pack": pack}
        signal.alarm(limit)
        t, cpu = time.perf_counter(), time.process_time()
        try:
            assignments, _ = rival.create_packing_strategy(histogram, pack, "first_fit_shuffle")
            out["packs"] = len(assignments)
            out["efficiency"] = round(float(sum(map(sum, assignments))) / len(assignments) / pack, 4)
            out["finished"] = True
        except TooLong:
            out["finished"] = False
            out["placed"] = placed[0]
        signal.alarm(0)
        seconds = time.perf_counter() - t
        out["cpu_s"] = round(time.process_time() - cpu, 3)
        print(json.dumps({**out, "rate": float(f"{placed[0] / seconds:.4g}"), "unit": "samples/s", "best_s": round(seconds, 3)}),
              flush=True)


main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
