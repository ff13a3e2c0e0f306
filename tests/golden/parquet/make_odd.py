#!/usr/bin/env python3
"""Writes Parquet files that no common writer makes any more, or should ever make (needs no packages).

    python make_odd.py      into odd/: files, lines of those that are read (.jsonl), and index.txt: name, tab, "=" or a part of the refusal

Old forms: lists of two levels, repeated fields outside of lists, MAP_KEY_VALUE, converted types. Lies: counts, sizes, offsets, levels, indices,
checksums and types that contradict each other. The bytes are put together by hand, from parquet.thrift and Encodings.md.
"""
import json
import os
import struct

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "odd")
BOOL, I32, I64, I96, F32, F64, BYTES, FIXED = range(8)
REQ, OPT, REP = range(3)


# ---- Thrift, compact protocol ----
def varint(n):
    out = b""
    n &= 2**64 - 1
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def zigzag(n):
    return varint(n << 1 ^ n >> 63)


class Long(int):
    """i64; other numbers are i32"""


def value(v):
    """type, bytes"""
    if isinstance(v, bool):
        return (1 if v else 2), b""
    if isinstance(v, int):
        return (6 if isinstance(v, Long) or abs(v) >= 2**31 else 5), zigzag(v)
    if isinstance(v, (str, bytes)):
        v = v.encode() if isinstance(v, str) else v
        return 8, varint(len(v)) + v
    if isinstance(v, list):
        items = [value(x) for x in v]
        t = items[0][0] if items else 12
        head = bytes([len(v) << 4 | t]) if len(v) < 15 else bytes([0xF0 | t]) + varint(len(v))
        return 9, head + b"".join(b for _, b in items)
    out, last = b"", 0
    for k, x in sorted(v.items()):
        if x is None:
            continue
        t, b = value(x)
        out += (bytes([(k - last) << 4 | t]) if k - last < 16 else bytes([t]) + zigzag(k)) + b
        last = k
    return 12, out + b"\0"


def thrift(v):
    return value(v)[1]


# ---- pages ----
def runs(values, width):
    """The hybrid encoding, as bit-packed groups of eight."""
    if not values:
        return b""
    groups = (len(values) + 7) // 8
    bits = 0
    for i, v in enumerate(values):
        bits |= v << (i * width)
    return varint(groups << 1 | 1) + bits.to_bytes(groups * width, "little")


def levels(values, most):
    if most == 0:
        return b""
    b = runs(values, most.bit_length())
    return struct.pack("<I", len(b)) + b


def plain(t, values):
    if t == BYTES:
        vs = [v.encode() if isinstance(v, str) else v for v in values]
        return b"".join(struct.pack("<I", len(v)) + v for v in vs)
    if t in (I96, FIXED):
        return b"".join(values)
    return b"".join(struct.pack({I32: "<i", I64: "<q", F32: "<f", F64: "<d"}[t], v) for v in values)


def page(body, n, encoding=0, raw=None, packed=None, crc=None, kind=0, n_said=None):
    part = {1: n if n_said is None else n_said, 2: encoding}
    if kind == 0:
        part.update({3: 3, 4: 3})
    head = {1: kind, 2: len(body) if raw is None else raw, 3: len(body) if packed is None else packed, 4: crc,
            {0: 5, 2: 7}[kind]: part}
    return thrift(head) + body


class Column:
    def __init__(self, path, t, entries, max_def=0, max_rep=0, pages=None, **meta):
        """entries: (rep, def, value); value None where there is none"""
        self.path, self.t, self.meta = path, t, meta
        self.n = len(entries)
        if pages is None:
            body = levels([e[0] for e in entries], max_rep) + levels([e[1] for e in entries], max_def)
            pages = page(body + plain(t, [e[2] for e in entries if e[2] is not None]), self.n)
        self.bytes = pages


def element(name, t=None, rep=REQ, n=None, conv=None, logical=None, length=None, scale=None, precision=None):
    return {1: t, 2: length, 3: rep, 4: name, 5: n, 6: conv, 7: scale, 8: precision, 10: logical}


def craft(elements, columns, n_rows, rows_said=None, group_rows=None, footer_said=None, tail=b"PAR1", root=None,
          extra=None, head=b"PAR1", chunks_said=None):
    data, chunks = head, []
    for c in columns:
        meta = {1: c.t, 2: [0], 3: c.path.split("."), 4: 0, 5: c.n, 6: len(c.bytes), 7: len(c.bytes), 9: len(data)}
        meta.update(c.meta.get("meta", {}))
        meta.update({k: Long(meta[k]) for k in (5, 6, 7, 9)})
        chunks.append({1: c.meta.get("elsewhere"), 2: Long(0), 3: meta, 8: c.meta.get("crypto")})
        data += c.bytes
    n_top = root if root is not None else sum(1 for c in elements if c.get("top", True))
    schema = [element("schema", n=n_top, rep=None)] + [{k: v for k, v in e.items() if k != "top"} for e in elements]
    meta = {1: 1, 2: schema, 3: Long(n_rows if rows_said is None else rows_said),
            4: [{1: chunks[:chunks_said], 2: Long(len(data)), 3: Long(n_rows if group_rows is None else group_rows)}]}
    meta.update(extra or {})
    f = thrift(meta)
    return data + f + struct.pack("<I", len(f) if footer_said is None else footer_said) + tail


def inner(e):
    e["top"] = False
    return e


# ---- files ----
def old_forms():
    """Every older way to write lists and maps, by hand: repetition and definition levels as the Dremel paper has them."""
    s = [element("two", rep=OPT, n=1, conv=3), inner(element("array", I32, REP)),
         element("tup", rep=OPT, n=1, conv=3), inner(element("tup_tuple", rep=REP, n=1)),
         inner(element("str", BYTES, REQ, conv=0)),
         element("pair", rep=OPT, n=1, conv=3), inner(element("element", rep=REP, n=2)), inner(element("x", I32, REQ)),
         inner(element("y", BYTES, OPT, conv=0)),
         element("rep", I32, REP),
         element("group", rep=REP, n=1), inner(element("k", I64, OPT)),
         element("lists", rep=OPT, n=1, conv=3), inner(element("array", rep=REP, n=1, conv=3)),
         inner(element("array", I32, REP)),
         element("three", rep=OPT, n=1, conv=3), inner(element("bag", rep=REP, n=1)),
         inner(element("array_element", I32, OPT)),
         element("map", rep=OPT, n=1, conv=2), inner(element("map", rep=REP, n=2, conv=2)),
         inner(element("key", BYTES, REQ, conv=0)), inner(element("value", I32, OPT)),
         element("date", I32, OPT, conv=6), element("ms", I64, OPT, conv=9), element("us", I64, OPT, conv=10),
         element("t", I32, OPT, conv=7), element("u8", I32, OPT, conv=11), element("u64", I64, OPT, conv=14),
         element("dec", I32, OPT, conv=5, scale=2, precision=5), element("json", BYTES, OPT, conv=19),
         element("enum", BYTES, OPT, conv=4), element("b", BOOL, REQ)]
    c = [Column("two.array", I32, [(0, 2, 1), (1, 2, 2), (0, 1, None), (0, 0, None)], 2, 1),
         Column("tup.tup_tuple.str", BYTES, [(0, 2, "a"), (0, 0, None), (0, 2, "b"), (1, 2, "c")], 2, 1),
         Column("pair.element.x", I32, [(0, 2, 1), (1, 2, 2), (0, 1, None), (0, 0, None)], 2, 1),
         Column("pair.element.y", BYTES, [(0, 3, "p"), (1, 2, None), (0, 1, None), (0, 0, None)], 3, 1),
         Column("rep", I32, [(0, 1, 7), (0, 0, None), (0, 1, 8), (1, 1, 9)], 1, 1),
         Column("group.k", I64, [(0, 2, 5), (1, 1, None), (0, 0, None), (0, 2, -1)], 2, 1),
         Column("lists.array.array", I32, [(0, 3, 1), (2, 3, 2), (1, 3, 3), (0, 2, None), (1, 3, 4), (0, 1, None)], 3, 2),
         Column("three.bag.array_element", I32, [(0, 3, 1), (1, 2, None), (0, 0, None), (0, 1, None)], 3, 1),
         Column("map.map.key", BYTES, [(0, 2, "a"), (1, 2, "b"), (0, 1, None), (0, 0, None)], 2, 1),
         Column("map.map.value", I32, [(0, 3, 1), (1, 2, None), (0, 1, None), (0, 0, None)], 3, 1),
         Column("date", I32, [(0, 1, 19782), (0, 0, None), (0, 1, -1)], 1),
         Column("ms", I64, [(0, 1, 1714568400250), (0, 0, None), (0, 1, -1)], 1),
         Column("us", I64, [(0, 1, 1714568400000001), (0, 0, None), (0, 1, 0)], 1),
         Column("t", I32, [(0, 1, 46800250), (0, 0, None), (0, 1, 0)], 1),
         Column("u8", I32, [(0, 1, 255), (0, 0, None), (0, 1, 0)], 1),
         Column("u64", I64, [(0, 1, -1), (0, 0, None), (0, 1, 1)], 1),
         Column("dec", I32, [(0, 1, -5), (0, 0, None), (0, 1, 12345)], 1),
         Column("json", BYTES, [(0, 1, '{"a": [1, "ü"]}'), (0, 0, None), (0, 1, "null")], 1),
         Column("enum", BYTES, [(0, 1, "RED"), (0, 0, None), (0, 1, "")], 1),
         Column("b", BOOL, [(0, 0, None)] * 3, pages=page(b"\x05", 3))]
    rows = [
        {"two": [1, 2], "tup": [{"str": "a"}], "pair": [{"x": 1, "y": "p"}, {"x": 2, "y": None}], "rep": [7],
         "group": [{"k": 5}, {"k": None}], "lists": [[1, 2], [3]], "three": [1, None], "map": {"a": 1, "b": None},
         "date": "2024-02-29", "ms": "2024-05-01T13:00:00.250000+00:00", "us": "2024-05-01T13:00:00.000001+00:00",
         "t": "13:00:00.250000", "u8": 255, "u64": 2**64 - 1, "dec": "-0.05", "json": {"a": [1, "ü"]}, "enum": "RED",
         "b": True},
        {"two": [], "tup": None, "pair": [], "rep": [], "group": [], "lists": [[], [4]], "three": None, "map": {},
         "date": None, "ms": None, "us": None, "t": None, "u8": None, "u64": None, "dec": None, "json": None,
         "enum": None, "b": False},
        {"two": None, "tup": [{"str": "b"}, {"str": "c"}], "pair": None, "rep": [8, 9], "group": [{"k": -1}],
         "lists": [], "three": [], "map": None, "date": "1969-12-31", "ms": "1969-12-31T23:59:59.999000+00:00",
         "us": "1970-01-01T00:00:00+00:00", "t": "00:00:00", "u8": 0, "u64": 1, "dec": "123.45", "json": None,
         "enum": "", "b": True}]
    return craft(s, c, 3), rows


def ints(entries=None, max_def=0, rep=REQ, **kw):
    entries = entries or [(0, 0, i) for i in range(4)]
    column = {k: kw.pop(k) for k in ("meta", "pages", "elsewhere", "crypto") if k in kw}
    n = kw.pop("n_rows", len(entries))
    return craft([element("a", I32, rep)], [Column("a", I32, entries, max_def, **column)], n, **kw)


def texts(values, conv=0, **kw):
    return craft([element("s", BYTES, conv=conv, **kw)], [Column("s", BYTES, [(0, 0, v) for v in values])], len(values))


def dictionary(indices, width=8, entries=4, n_said=None):
    body = plain(I32, range(entries))
    return ints(pages=page(body, entries, kind=2, n_said=n_said) + page(bytes([width]) + runs(indices, width), 4, 8))


def lies():
    body = plain(I32, range(4))
    good = ints()
    yield "good", good, "="
    yield "footer_beyond", ints(footer_said=2**31), "found a directory of 2147483648 bytes, expected at most"
    yield "footer_short", ints(footer_said=20), "directory"
    yield "magic_end", ints(tail=b"PAR2"), "found no 'PAR1' at the end"
    yield "encrypted", ints(tail=b"PARE"), "is encrypted"
    yield "encrypted_plain_footer", ints(extra={8: {1: {1: b"x"}}}), "is encrypted"
    yield "encrypted_column", ints(crypto={1: {}}), "column 'a', page at byte 4: it is encrypted"
    yield "rows_said", ints(rows_said=2**40), "found 4 rows in the row groups, expected 1099511627776"
    yield "rows_group", ints(group_rows=2**31, rows_said=2**31), "its values end before those of the other columns"
    yield "rows_few", ints(group_rows=2, rows_said=2), "found values after the last of the 2 rows"
    yield "values_page", ints(pages=page(body, 4, n_said=2**31 - 1)), "found 2147483647 values, expected at most the 4"
    yield "values_chunk", ints(meta={5: 2**31}), "the column's bytes end and 2147483644 values are missing"
    yield "values_both", ints(meta={5: 2**31 - 1}, pages=page(body, 4, n_said=2**31 - 1), group_rows=2**31 - 1,
                              rows_said=2**31 - 1), "found a value of 4 bytes where 0"
    yield "chunk_beyond", ints(meta={7: 2**40}), "found 1099511627776 bytes from byte 4 on"
    yield "chunk_negative", ints(meta={7: -1}), "found -1 bytes from byte 4 on"
    yield "offset_beyond", ints(meta={9: 2**50}), "from byte 1125899906842624 on"
    yield "page_beyond", ints(pages=page(body, 4, packed=2**31 - 1, raw=2**31 - 1)), "found a page of 2147483647 bytes"
    yield "page_negative", ints(pages=page(body, 4, packed=-5)), "no type or no possible size"
    yield "page_size", ints(pages=page(body, 4, raw=17)), "found 16 bytes that are not compressed, expected 17"
    yield "page_header", ints(pages=b"\xff" * 40), "found a damaged page header"
    yield "crc", ints(pages=page(body, 4, crc=12345)), "found checksum"
    yield "codec", ints(meta={4: 99}), "codec 99 (unknown)"
    yield "lzo", ints(meta={4: 3}), "codec 3 (LZO)"
    yield "brotli", ints(meta={4: 4}), "codec 4 (Brotli)"
    yield "snappy_bomb", ints(meta={4: 1}, pages=page(b"\xff\xff\xff\xff\x07ab", 4, raw=2**31 - 1)), "which is impossible"
    yield "snappy_bad", ints(meta={4: 1}, pages=page(b"\x10\x0dabcd\xfe\xff\xff", 4, raw=16)), "found damaged snappy data"
    yield "encoding", ints(pages=page(body, 4, 77)), "found encoding 77 (unknown)"
    yield "encoding_type", ints(pages=page(body, 4, 7)), "found encoding 7 (DELTA_BYTE_ARRAY) of INT32"
    yield "bit_packed_levels", ints([(0, 1, 5)], 1, OPT, pages=thrift(
        {1: 0, 2: 5, 3: 5, 5: {1: 1, 2: 0, 3: 4, 4: 4}}) + b"\x80" + plain(I32, [5])), "definition levels with encoding 4"
    yield "level_beyond", ints([(0, 1, 5)], 1, OPT, pages=page(
        struct.pack("<I", 2) + b"\x02\x03" + plain(I32, [5]), 1)), "found definition level 3, expected at most 1"
    yield "levels_long", ints([(0, 1, 5)], 1, OPT, pages=page(
        struct.pack("<I", 2**31) + b"\x02\x01" + plain(I32, [5]), 1)), "found 2147483648 bytes of definition levels"
    yield "levels_short", ints([(0, 1, 5)] * 4, 1, OPT, pages=page(
        struct.pack("<I", 2) + b"\x02\x01" + plain(I32, [5] * 4), 4)), "definition levels end before its values do"
    yield "dict_good", dictionary([0, 1, 2, 3]), "="
    yield "dict_index", dictionary([0, 1, 4, 3]), "found dictionary index 4, expected less than 4"
    yield "dict_width", dictionary([0, 1, 2, 3], 33), "no possible width"
    yield "dict_count", dictionary([0, 1, 2, 3], n_said=2**31 - 1), "found a dictionary of 2147483647 values in 16 bytes"
    yield "dict_none", ints(pages=page(b"\x08" + runs([0] * 4, 8), 4, 8)), "without a dictionary before them"
    yield "dict_twice", ints(pages=page(body, 4, kind=2) * 2), "found a second dictionary"
    yield "delta_block", ints(pages=page(varint(128) + varint(3) + varint(4) + zigzag(0), 4, 5)), "delta blocks"
    yield "delta_short", ints(pages=page(varint(128) + varint(4) + varint(4) + zigzag(0) + zigzag(1), 4, 5)), "delta blocks"
    yield "delta_width", ints(pages=page(varint(128) + varint(4) + varint(4) + zigzag(0) + zigzag(1) + b"\x41" * 40, 4, 5)), \
        "delta blocks"
    yield "type", ints(meta={1: I64}), "found type INT64 in its row group, expected INT32"
    yield "path", ints(meta={3: ["b"]}), "is taken by another column"
    yield "elsewhere", ints(elsewhere="other.parquet"), "lie in another file"
    yield "columns", ints(chunks_said=0), "found 0 columns in row group 1, expected 1"
    yield "not_utf8", texts([b"ok", b"\xff\xfe"]), "column 's', page at byte 4: found text that is not UTF-8"
    yield "surrogate", texts([b"\xed\xa0\x80"]), "found text that is not UTF-8"
    yield "bytes", texts([b"ok", b"\x89PNG"], None), "found 4 bytes that are no text"
    yield "json", texts([b"{"], 19), "found a value that is not JSON"
    yield "bson", texts([b""], 20), "its logical type (converted type 20) is not read"
    yield "variant", craft([element("v", rep=OPT, n=1, logical={16: {}}), inner(element("m", BYTES))],
                           [Column("v.m", BYTES, [(0, 1, "x")], 1)], 1), "the logical type of this struct (number 16)"
    yield "two_names", craft([element("a", I32), element("a", I32)], [Column("a", I32, [(0, 0, 1)])] * 2, 1), \
        "found two fields of this name"
    yield "no_columns", craft([], [], 5), "found no columns"
    yield "children", craft([element("a", rep=OPT, n=2**31 - 1), inner(element("b", I32))], [Column("a.b", I32, [])], 0), \
        "found 2147483647 fields where 1 schema elements are left"
    yield "elements_left", craft([element("a", I32), element("b", I32)], [Column("a", I32, [(0, 0, 1)])], 1, root=1), \
        "found 3 elements, expected the 2"
    yield "deep", craft([element("x", rep=OPT, n=1)] + [inner(element("x", rep=OPT, n=1)) for _ in range(300)] +
                        [inner(element("x", I32))], [Column("x", I32, [])], 0), "nested more than 100 deep"
    yield "date_type", texts(["x"], 6), "found a logical type that BYTE_ARRAY values"
    yield "no_type", craft([element("a", 9)], [Column("a", 9, [], pages=b"")], 0), "found type 9, expected one from 0 to 7"
    yield "int96", craft([element("t", I96)], [Column("t", I96, [(0, 0, b"\xff" * 12)])], 1), "nanoseconds in a day"
    yield "map_null_key", craft([element("m", rep=REQ, n=1, conv=1), inner(element("kv", rep=REP, n=2)),
                                 inner(element("k", BYTES, OPT, conv=0)), inner(element("v", I32))],
                                [Column("m.kv.k", BYTES, [(0, 1, None)], 2, 1), Column("m.kv.v", I32, [(0, 1, 3)], 1, 1)],
                                1), "found a map with a null key"
    pair = [element("l", rep=REP, n=2), inner(element("x", I32)), inner(element("y", I32))]
    yield "lists_disagree", craft(pair, [Column("l.x", I32, [(0, 1, 1), (1, 1, 2), (0, 1, 3)], 1, 1),
                                         Column("l.y", I32, [(0, 1, 1), (0, 1, 2), (1, 1, 3)], 1, 1)], 2), \
        "column 'l.y', page at byte"
    yield "nulls_disagree", craft([element("s", rep=OPT, n=2), inner(element("x", I32)), inner(element("y", I32))],
                                  [Column("s.x", I32, [(0, 1, 1)], 1), Column("s.y", I32, [(0, 0, None)], 1)], 1), \
        "found definition level 0, which the columns beside it exclude"
    yield "row_begins_inside", craft([element("r", I32, REP)], [Column("r", I32, [(1, 1, 1), (0, 1, 2)], 1, 1)], 1), \
        "found repetition level 1, expected 0"


def main():
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, "index.txt"), "w") as index:
        def write(name, data, says, rows):
            with open(os.path.join(OUT, name + ".parquet"), "wb") as f:
                f.write(data)
            index.write(f"{name}\t{says}\n")
            if says == "=":
                with open(os.path.join(OUT, name + ".jsonl"), "w") as f:
                    f.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        data, rows = old_forms()
        write("old_forms", data, "=", rows)
        for name, data, says in lies():
            write(name, data, says, [{"a": i} for i in range(4)])


if __name__ == "__main__":
    main()
