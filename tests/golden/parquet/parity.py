#!/usr/bin/env python3
"""ns and pyarrow over a whole JSONL file: written by pyarrow in every codec, read back row for row by ns, and both timed.

    python parity.py BENCH_ROWS FILE.jsonl [--repeat N]     BENCH_ROWS: build/bench/bench_rows; N copies of the rows

Prints one line a file: the same or not, and MB/s of JSON text a core by CPU time (best call): ns to lines of JSON, pyarrow to Python
dicts (`to_pylist`, one thread). Exit 1 when a row differs. Nothing is committed.
"""
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq


def pyarrow_seconds(path):
    best = 1e9
    for _ in range(7):
        start = time.process_time()
        for batch in pq.ParquetFile(path).iter_batches(use_threads=False):
            batch.to_pylist()
        best = min(best, time.process_time() - start)
    return best


def main():
    bench, source = sys.argv[1], sys.argv[2]
    repeat = int(sys.argv[sys.argv.index("--repeat") + 1]) if "--repeat" in sys.argv else 1
    with open(source) as f:
        rows = [json.loads(x) for x in f] * repeat
    want = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()
    table = pa.Table.from_pylist(rows)
    pa.set_cpu_count(1)
    bad = 0
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "rows.parquet")
        for codec, page, dictionary in itertools.product(["none", "snappy", "gzip", "zstd", "lz4"], ["1.0", "2.0"],
                                                         [True, False]):
            pq.write_table(table, path, compression=codec, data_page_version=page, use_dictionary=dictionary,
                           row_group_size=50000, write_page_checksum=page == "2.0")
            got = subprocess.run([bench, "--print", path], capture_output=True, check=True).stdout
            same = got == want
            bad += not same
            figure = json.loads(subprocess.run([bench, path], capture_output=True, check=True).stdout)
            theirs = len(want) / pyarrow_seconds(path) / 1e6
            print(f"{codec:6} pages v{page} dictionary {str(dictionary):5} {len(rows)} rows "
                  f"{'the same' if same else 'DIFFERENT'}, ns {figure['rate']:.0f} MB/s, pyarrow {theirs:.0f} MB/s", flush=True)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
