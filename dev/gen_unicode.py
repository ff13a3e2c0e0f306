#!/usr/bin/env python3
"""Writes src/tok/unicode_tables.c from the Unicode Character Database.

    python3 dev/gen_unicode.py [--ucd /usr/share/unicode] [--out src/tok/unicode_tables.c]

Needs only the standard library and, on Debian, the package unicode-data (15.0.0, pinned: the script refuses another
version unless --any-version is given). The output is committed; the build does not run this.

The NFC tables hold only characters of Unicode 9.0 and older (NFC_AGE): the library whose ids we must reproduce
normalises with 9.0 data, and its choice was checked on every character with a class or a decomposition. Younger
characters pass unchanged there and here.

Tables (lookup code: src/tok/unicode.h and src/tok/nfc.c):
  class   two-level, 8 flag bits a code point (UC_* below must equal the NS_UC_* enum in unicode.h)
  ccc     two-level, canonical combining class
  qc      two-level, bit f set where form f can not copy the character blindly (Quick_Check not Yes, or ccc != 0);
          f = NS_NFC, NS_NFD, NS_NFKC, NS_NFKD of unicode.h
  decomp  sorted full canonical decompositions (Hangul is algorithmic and absent)
  compat  sorted full compatibility decompositions where they differ from the canonical ones
  comp    sorted primary composites (first, second) -> composite
"""
import argparse
import re
import sys

UC_L, UC_N, UC_S, UC_UPPER, UC_LOWER, UC_WORD, UC_CRLF = (1 << i for i in range(7))
MAX = 0x110000
NFC_AGE = (9, 0)


def rows(path):
    with open(path, encoding="utf-8") as f:
        for line in f:
            line = line.split("#")[0].strip()
            if line:
                yield [x.strip() for x in line.split(";")]


def span(text):
    a, _, b = text.partition("..")
    return range(int(a, 16), int(b or a, 16) + 1)


def prop(path, name):
    """Code points that have the binary property (or property=value row) `name`."""
    out = set()
    want = name.split("=")
    for r in rows(path):
        if r[1:len(want) + 1] == want:
            out.update(span(r[0]))
    return out


def read_unicode_data(path):
    cat, ccc, decomp, compat = ["Cn"] * MAX, [0] * MAX, {}, {}
    first = None
    for r in rows(path):
        cp = int(r[0], 16)
        if r[1].endswith("First>"):
            first = cp
            continue
        lo = first if r[1].endswith("Last>") else cp
        first = None
        for c in range(lo, cp + 1):
            cat[c], ccc[c] = r[2], int(r[3])
        if r[5]:
            (compat if r[5].startswith("<") else decomp)[cp] = [int(x, 16) for x in r[5].split() if x[0] != "<"]
    return cat, ccc, decomp, compat


def classes(ucd, cat):
    ws = prop(ucd + "/PropList.txt", "White_Space")
    join = prop(ucd + "/PropList.txt", "Join_Control")
    alpha = prop(ucd + "/DerivedCoreProperties.txt", "Alphabetic")
    out = [0] * MAX
    for c in range(MAX):
        g, v = cat[c], 0
        if g[0] == "L":
            v |= UC_L
        if g[0] == "N":
            v |= UC_N
        if c in ws:
            v |= UC_S
        if g in ("Lu", "Lt", "Lm", "Lo") or g[0] == "M":
            v |= UC_UPPER
        if g in ("Ll", "Lm", "Lo") or g[0] == "M":
            v |= UC_LOWER
        if c in alpha or g[0] == "M" or g in ("Nd", "Pc") or c in join:  # \w as Rust's regex crate has it
            v |= UC_WORD
        if c in (10, 13):
            v |= UC_CRLF
        out[c] = v
    return out


def full_decomposition(decomp):
    def expand(c):
        return [x for d in decomp[c] for x in expand(d)] if c in decomp else [c]

    return {c: expand(c) for c in decomp}


def two_level(out, name, values, comment):
    blocks, index = [], []
    seen = {}
    for i in range(0, MAX, 128):
        b = tuple(values[i:i + 128])
        if b not in seen:
            seen[b] = len(blocks)
            blocks.append(b)
        index.append(seen[b])
    while len(index) > 1 and index[-1] == index[-2]:
        index.pop()  # the lookup clamps to the last entry
    assert len(blocks) < 256, name
    out.append("/* %s */\nconst uint32_t ns_uni_%s_last = %d;" % (comment, name, len(index) - 1))
    emit(out, "const uint8_t ns_uni_%s_index[%d]" % (name, len(index)), index)
    emit(out, "const uint8_t ns_uni_%s_block[%d]" % (name, len(blocks) * 128), [x for b in blocks for x in b])
    return len(index) + len(blocks) * 128


def emit(out, head, values, fmt="%d"):
    out.append(head + " = {")
    line = "   "
    for v in values:
        s = fmt % v + ","
        if len(line) + 1 + len(s) > 119:
            out.append(line)
            line = "   "
        line += " " + s
    out.append(line + "};")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--ucd", default="/usr/share/unicode")
    ap.add_argument("--out", default="src/tok/unicode_tables.c")
    ap.add_argument("--any-version", action="store_true")
    a = ap.parse_args()
    version = re.search(r"-(\d+\.\d+\.\d+)\.txt", open(a.ucd + "/PropList.txt", encoding="utf-8").readline()).group(1)
    if version != "15.0.0" and not a.any_version:
        sys.exit("gen_unicode: %s holds Unicode %s, the tables are pinned to 15.0.0 (--any-version to override)"
                 % (a.ucd, version))
    cat, ccc, decomp, compat = read_unicode_data(a.ucd + "/UnicodeData.txt")
    old = set()
    for r in rows(a.ucd + "/DerivedAge.txt"):
        if tuple(int(x) for x in r[1].split(".")) <= NFC_AGE:
            old.update(span(r[0]))
    ccc = [v if c in old else 0 for c, v in enumerate(ccc)]
    decomp = {c: d for c, d in decomp.items() if c in old}
    full = full_decomposition(decomp)
    both = full_decomposition({**decomp, **{c: d for c, d in compat.items() if c in old}})
    norm = a.ucd + "/DerivedNormalizationProps.txt"
    excluded = prop(norm, "Full_Composition_Exclusion")
    qc = [15 if v else 0 for v in ccc]
    for bit, form in enumerate(("NFC", "NFD", "NFKC", "NFKD")):
        for c in (prop(norm, form + "_QC=N") | prop(norm, form + "_QC=M")) & old:
            qc[c] |= 1 << bit

    out = ["/* Generated by dev/gen_unicode.py from Unicode %s. Do not edit. Layout: unicode.h, nfc.c. */" % version,
           "/* clang-format off */", "#include \"tok/unicode.h\"\n",
           "const char ns_uni_version[] = \"%s\";" % version]
    size = two_level(out, "class", classes(a.ucd, cat), "NS_UC_* flags")
    size += two_level(out, "ccc", ccc, "canonical combining class")
    size += two_level(out, "qc", qc, "bit f: form f must look at this character")
    pool, lists = [], {"decomp": [], "compat": []}
    for name, table in (("decomp", full), ("compat", {c: d for c, d in both.items() if d != full.get(c)})):
        for c, d in sorted(table.items()):
            lists[name].append((c, len(pool) * 32 + len(d)))
            pool += d
    emit(out, "const uint32_t ns_uni_decomp_pool[%d]" % len(pool), pool, "0x%x")
    for name, dec in lists.items():
        out.append("/* code point, offset into the pool * 32 + length */\nconst uint32_t ns_uni_n_%s = %d;"
                   % (name, len(dec)))
        emit(out, "const ns_uni_decomp ns_uni_%ss[%d]" % (name, len(dec)), dec, "{0x%x,%d}")
    comp = sorted((d[0], d[1], c) for c, d in decomp.items() if len(d) == 2 and c not in excluded)
    out.append("const uint32_t ns_uni_n_comp = %d;" % len(comp))
    emit(out, "const ns_uni_comp ns_uni_comps[%d]" % len(comp), comp, "{0x%x,0x%x,0x%x}")
    size += 4 * len(pool) + 8 * sum(map(len, lists.values())) + 12 * len(comp)
    with open(a.out, "w", encoding="ascii") as f:
        f.write("\n".join(out) + "\n")
    print("%s: Unicode %s, %d bytes of tables" % (a.out, version, size))


if __name__ == "__main__":
    main()
