"""Rankings of rank_bm25's BM25Okapi over made rows -> rows.jsonl, expected.jsonl (python make.py; rank_bm25 0.2.2, numpy).

A question whose first eleven rows have two equal scores is drawn again: numpy's sort does not say which comes first."""
import json
import random

import numpy
from rank_bm25 import BM25Okapi

r = random.Random(7)
words = "a the of two three seven apples pears boxes costs sells buys many how each day week Zoë № x² sum more less than".split()
weights = [20, 20, 12] + [4] * 10 + [1] * (len(words) - 13)


def text(n):
    s = " ".join(r.choices(words, weights, k=n))
    return s.replace(" two ", "  two ", 1)  # an empty word


rows = [{"id": i, "problem": text(r.randint(3, 40)), "reference_solution": "é" * r.randint(1, 60)} for i in range(60)]
rows[17]["problem"] = rows[16]["problem"] + " apples"
bm25 = BM25Okapi([x["problem"].split(" ") for x in rows])
out = []
while len(out) < 40:
    q = rows[len(out)]["problem"] if len(out) % 4 == 0 else text(r.randint(1, 25)) + (" unheard-of" if len(out) % 3 else "")
    scores = bm25.get_scores(q.split(" "))
    order = numpy.argsort(scores)[::-1][:11]
    if numpy.min(-numpy.diff(scores[order])) < 1e-9:
        if len(out) % 4 == 0:
            raise SystemExit("equal scores for a row of the corpus: change the seed")
        continue
    # the rules of the prompt: leading equal ones go, then solutions of 50 characters or more, five are kept, the best last
    best = [rows[i] for i in order[:10]]
    while best and best[0]["problem"] == q:
        best = best[1:]
    best = [x for x in best if len(x["reference_solution"]) < 50][:5][::-1]
    out.append({"problem": q, "best": [int(i) for i in order[:10]], "shown": [x["id"] for x in best]})
for name, items in (("rows", rows), ("expected", out)):
    with open(name + ".jsonl", "w", encoding="utf-8") as f:
        for x in items:
            f.write(json.dumps(x, ensure_ascii=False) + "\n")
