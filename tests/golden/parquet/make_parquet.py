#!/usr/bin/env python3
"""Writes small Parquet files with pyarrow and, beside each, the JSON lines that its rows are.

    python make_parquet.py            every file into this folder (same pyarrow: same bytes), and index.txt: file, its lines
    python make_parquet.py --check    writes nothing; compares what pyarrow reads back with the committed lines

The lines are made from the Python rows that went in, not from what pyarrow reads; --check closes the circle. What JSON has no value for is
written as src/base/parquet/parquet_text.c says: decimals as text, times as isoformat, maps with text keys as objects,
others as lists of {"key", "value"}.
"""
import datetime as dt
import decimal
import json
import math
import os
import sys
import uuid

import pyarrow as pa
import pyarrow.parquet as pq

HERE = os.path.dirname(os.path.abspath(__file__))
D = decimal.Decimal
UTC = dt.timezone.utc


def plain(v, t):
    """A value of Arrow type t as JSON holds it."""
    if v is None:
        return None
    if pa.types.is_struct(t):
        return {f.name: plain(v.get(f.name), f.type) for f in t}
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t):
        return [plain(x, t.value_type) for x in v]
    if pa.types.is_map(t):
        pairs = v.items() if isinstance(v, dict) else v
        pairs = [(plain(k, t.key_type), plain(x, t.item_type)) for k, x in pairs]
        return dict(pairs) if pa.types.is_string(t.key_type) else [{"key": k, "value": x} for k, x in pairs]
    if pa.types.is_decimal(t):
        return f"{v.quantize(D(1).scaleb(-t.scale), context=decimal.Context(prec=100)):f}"
    if pa.types.is_timestamp(t) and t.tz:
        return v.astimezone(UTC).isoformat()
    if isinstance(v, (dt.datetime, dt.date, dt.time)):
        return v.isoformat()
    if isinstance(v, uuid.UUID):
        return str(v)
    if isinstance(v, bytes):
        return v.decode()
    if pa.types.is_float32(t):
        return struct_round(v, "f")
    if pa.types.is_float16(t):
        return struct_round(float(v), "e")
    return v


def struct_round(v, kind):
    import struct
    return struct.unpack("<" + kind, struct.pack("<" + kind, v))[0]


def line(row, schema):
    return json.dumps({f.name: plain(row.get(f.name), f.type) for f in schema}, ensure_ascii=False)


# ---- rows ----
WORDS = ["", "a", "zwei", "drei drei", "ünïcode 名前 🎉", 'quote " back \\ slash', "line\nbreak\ttab\x01\x7f", "long " * 40]


def text_rows(n):
    return [{"id": i, "question": f"What is {i} plus {i % 7}? " + WORDS[i % 8], "answer": str(i + i % 7),
             "source": ["gsm8k", "math", None][i % 3], "score": None if i % 5 == 4 else i / 8, "ok": i % 3 == 0}
            for i in range(n)]


TEXT = pa.schema([("id", pa.int64()), ("question", pa.string()), ("answer", pa.string()), ("source", pa.string()),
                  ("score", pa.float64()), ("ok", pa.bool_())])

MESSAGES = pa.schema([
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()),
                                     ("tool_calls", pa.list_(pa.struct([("name", pa.string()),
                                                                        ("arguments", pa.string())])))]))),
    ("tags", pa.list_(pa.string())), ("grid", pa.list_(pa.list_(pa.int32()))),
    ("meta", pa.struct([("lang", pa.string()), ("deep", pa.struct([("x", pa.int32()), ("ys", pa.list_(pa.float32()))]))])),
    ("attrs", pa.map_(pa.string(), pa.int64())), ("codes", pa.map_(pa.int32(), pa.string()))])


def message_rows(n):
    rows = []
    for i in range(n):
        turns = [{"role": "user", "content": WORDS[i % 8], "tool_calls": None},
                 {"role": "assistant", "content": None if i % 6 == 5 else f"Answer {i}",
                  "tool_calls": [{"name": f"f{k}", "arguments": "{}"} for k in range(i % 3)]}] * (1 + i % 3)
        rows.append({"messages": None if i % 11 == 10 else [] if i % 11 == 9 else turns,
                     "tags": None if i % 4 == 0 else [None if k % 3 == 2 else f"t{k}" for k in range(i % 5)],
                     "grid": None if i % 7 == 3 else [None if k == 2 else list(range(k)) for k in range(i % 4)],
                     "meta": None if i % 5 == 1 else {"lang": "de", "deep": None if i % 5 == 2 else
                                                      {"x": i if i % 2 else None, "ys": [] if i % 3 else [i / 4, None]}},
                     "attrs": None if i % 6 == 2 else {f"k{k}": None if k == 1 else k * i for k in range(i % 4)},
                     "codes": [(k, f"v{k}") for k in range(i % 3)]})
    return rows


def type_columns():
    big = D(10) ** 37
    return [
        ("bool", pa.bool_(), [True, False, None, True]), ("i8", pa.int8(), [-128, 127, None, 0]),
        ("u8", pa.uint8(), [0, 255, None, 7]), ("i16", pa.int16(), [-32768, 32767, None, 1]),
        ("u16", pa.uint16(), [0, 65535, None, 1]), ("i32", pa.int32(), [-2**31, 2**31 - 1, None, 0]),
        ("u32", pa.uint32(), [0, 2**32 - 1, None, 5]), ("i64", pa.int64(), [-2**63, 2**63 - 1, None, 0]),
        ("u64", pa.uint64(), [0, 2**64 - 1, None, 5]), ("f16", pa.float16(), [1.5, -65504.0, None, 6e-8]),
        ("f32", pa.float32(), [0.1, -3.4e38, None, 1e-45]),
        ("f64", pa.float64(), [0.1, 1.7976931348623157e308, None, 5e-324]),
        ("date", pa.date32(), [dt.date(2024, 2, 29), dt.date(1, 1, 1), None, dt.date(9999, 12, 31)]),
        ("t_ms", pa.time32("ms"), [dt.time(23, 59, 59, 999000), dt.time(0), None, dt.time(12, 30)]),
        ("t_us", pa.time64("us"), [dt.time(23, 59, 59, 999999), dt.time(0), None, dt.time(12, 30)]),
        ("ts_ms", pa.timestamp("ms"), [dt.datetime(2024, 5, 1, 13, 0, 0, 250000), dt.datetime(1969, 12, 31, 23, 59, 59),
                                       None, dt.datetime(1, 1, 1)]),
        ("ts_us_utc", pa.timestamp("us", tz="UTC"), [dt.datetime(2024, 5, 1, 13, 0, 0, 1, UTC),
                                                     dt.datetime(1900, 3, 1, tzinfo=UTC), None,
                                                     dt.datetime(2000, 2, 29, tzinfo=UTC)]),
        ("ts_ns", pa.timestamp("ns"), [dt.datetime(2024, 5, 1, 13, 0, 0, 123456), dt.datetime(1970, 1, 1), None,
                                       dt.datetime(1677, 9, 22)]),
        ("dec9", pa.decimal128(7, 2), [D("12345.67"), D("-0.01"), None, D("0")]),
        ("dec18", pa.decimal128(18, 0), [D(10) ** 17, -D(10) ** 17, None, D(3)]),
        ("dec38", pa.decimal128(38, 10), [big / D(10) ** 10, D("-1.0000000001"), None, D("0.5")]),
        ("dec76", pa.decimal256(76, 30), [D(10) ** 45, -D(10) ** 45, None, D("1e-30")]),
        ("bin", pa.binary(), [b"plain text", b"", None, "ü".encode()]),
        ("fixed", pa.binary(4), [b"abcd", b"1234", None, b"    "]),
        ("large", pa.large_string(), ["x", "", None, "名"]), ("null", pa.null(), [None] * 4),
        ("dict", pa.dictionary(pa.int32(), pa.string()), ["red", "green", None, "red"]),
        ("fsl", pa.list_(pa.int16(), 2), [[1, 2], [3, None], None, [5, 6]]),
    ]


def float_rows():
    return [{"x": v} for v in [0.0, -0.0, 1.0, math.inf, -math.inf, math.nan, 1e16, 123456789.125, 1e-7]]


def files():
    """name, schema, rows, options of the writer"""
    wide, nested = text_rows(60), message_rows(23)
    for codec in ["none", "snappy", "gzip", "zstd", "lz4"]:
        for page in ["1.0", "2.0"]:
            v = page[0]
            opts = dict(compression=codec, data_page_version=page)
            yield f"text_{codec}_v{v}", TEXT, wide, dict(opts, write_page_checksum=page == "1.0")
            yield f"nested_{codec}_v{v}", MESSAGES, nested, dict(opts, data_page_size=64, write_batch_size=3)
    for page in ["1.0", "2.0"]:
        opts = dict(compression="snappy", data_page_version=page, use_dictionary=False)
        yield f"plain_v{page[0]}", TEXT, wide, opts
        yield f"nested_plain_v{page[0]}", MESSAGES, nested, opts
        yield f"delta_v{page[0]}", TEXT, text_rows(150), dict(
            opts, column_encoding={"id": "DELTA_BINARY_PACKED", "question": "DELTA_BYTE_ARRAY",
                                   "answer": "DELTA_LENGTH_BYTE_ARRAY", "source": "DELTA_BYTE_ARRAY",
                                   "score": "BYTE_STREAM_SPLIT", "ok": "RLE"})
    ints = pa.schema([("a", pa.int32()), ("b", pa.int64()), ("c", pa.uint64()), ("d", pa.int32(), False),
                      ("e", pa.binary(3)), ("f", pa.float32())])
    rows = [{"a": (i * 7919) % 1000 - 500 if i % 9 else None, "b": (-1) ** i * 3 ** (i % 40), "c": 2**64 - 1 - i**5,
             "d": -2**31 if i % 2 else 2**31 - 1, "e": b"%03d" % i, "f": i / 3} for i in range(140)]
    yield "delta_ints", ints, rows, dict(compression="none", use_dictionary=False, column_encoding={
        "a": "DELTA_BINARY_PACKED", "b": "DELTA_BINARY_PACKED", "c": "DELTA_BINARY_PACKED", "d": "DELTA_BINARY_PACKED",
        "e": "DELTA_BYTE_ARRAY", "f": "BYTE_STREAM_SPLIT"})
    yield "split_ints", ints, rows, dict(compression="zstd", use_dictionary=False,
                                         column_encoding={k: "BYTE_STREAM_SPLIT" for k in "abcdef"})
    cols = type_columns()
    schema = pa.schema([(n, t) for n, t, _ in cols])
    trows = [{n: v[i] for n, _, v in cols} for i in range(4)]
    yield "types", schema, trows, dict(compression="none", use_dictionary=False)
    yield "types_dict", schema, trows * 3, dict(compression="snappy", version="2.6")
    yield "types_v1", pa.schema([f for f in schema if f.name not in ("ts_ns",)]), trows, dict(version="1.0")
    i96 = pa.schema([("t", pa.timestamp("ns"))])
    yield "int96", i96, [{"t": dt.datetime(2024, 5, 1, 13, 0, 0, 123456)}, {"t": None},
                         {"t": dt.datetime(1969, 7, 20, 20, 17)}], dict(use_deprecated_int96_timestamps=True)
    yield "floats", pa.schema([("x", pa.float64())]), float_rows(), dict(compression="none")
    yield "required", pa.schema([pa.field("s", pa.string(), False),
                                 pa.field("l", pa.list_(pa.field("element", pa.int32(), False)), False),
                                 pa.field("t", pa.struct([pa.field("u", pa.bool_(), False)]), False)]), [
        {"s": str(i), "l": list(range(i % 4)), "t": {"u": i % 2 == 0}} for i in range(20)], dict(compression="none")
    yield "two_level_list", pa.schema([("l", pa.list_(pa.int32()))]), [
        {"l": None}, {"l": []}, {"l": [1, 2]}, {"l": [3]}], dict(use_compliant_nested_type=False)
    yield "groups", TEXT, text_rows(50), dict(row_group_size=7, compression="zstd")
    yield "many_pages", pa.schema([("l", pa.list_(pa.string())), ("n", pa.int64())]), [
        {"l": [f"item {i} {k}" for k in range(i % 20)], "n": i} for i in range(50)], dict(
            compression="gzip", data_page_size=100, write_batch_size=5)
    yield "all_null", pa.schema([("s", pa.string()), ("i", pa.int64()), ("l", pa.list_(pa.int8()))]), [
        {"s": None, "i": None, "l": None}] * 9, dict(compression="snappy")
    yield "no_rows", TEXT, [], dict(compression="snappy")


def special(write):
    """Files that pyarrow's options do not give: extension types, Hugging Face's own writer."""
    u = uuid.UUID("12345678-1234-5678-1234-567812345678")
    t = pa.table({"u": pa.array([u.bytes, None], pa.uuid()), "j": pa.array(['{"a": [1, 2.50, null]}', "3"], pa.json_())})
    write("extension", t, ['{"u": "%s", "j": {"a": [1, 2.5, null]}}' % u, '{"u": null, "j": 3}'],
          dict(compression="none", store_schema=False))
    ns = pa.table({"t": pa.array([1, 1_000_000_001, -2**63], pa.timestamp("ns")), "c": pa.array([5, 86399999999999, 0], pa.time64("ns"))})
    write("nanos", ns, ['{"t": "1970-01-01T00:00:00.000000001", "c": "00:00:00.000000005"}',
                        '{"t": "1970-01-01T00:00:01.000000001", "c": "23:59:59.999999999"}',
                        '{"t": "1677-09-21T00:12:43.145224192", "c": "00:00:00"}'], dict(compression="none"))
    try:
        import datasets
    except ImportError:
        print("hf.parquet: left as it is (no `datasets` here)")
        return
    rows = [{"messages": [{"role": "user", "content": f"Frage {i}"}, {"role": "assistant", "content": "Ja 🎉"}],
             "label": i % 2, "when": dt.datetime(2024, 1, 1 + i)} for i in range(12)]
    features = datasets.Features({"messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
                                  "label": datasets.ClassLabel(names=["no", "yes"]),
                                  "when": datasets.Value("timestamp[us]")})
    datasets.Dataset.from_list(rows, features=features).to_parquet(os.path.join(HERE, "hf.parquet"))
    with open(os.path.join(HERE, "hf.jsonl"), "w") as f:
        for r in rows:
            f.write(json.dumps(dict(r, when=r["when"].isoformat()), ensure_ascii=False) + "\n")


def lines_name(name):
    """Files of the same rows share their lines."""
    for start, lines in [("text_", "text"), ("plain_", "text"), ("nested_", "nested"), ("delta_v", "delta"),
                         ("split_ints", "ints"), ("delta_ints", "ints"), ("types_dict", "types_dict")]:
        if name.startswith(start):
            return lines
    return name


def main():
    check = "--check" in sys.argv
    bad = 0
    index = ["hf hf"]

    def write(name, table, lines, opts):
        pq.write_table(table, os.path.join(HERE, name + ".parquet"), **opts)
        index.append(f"{name} {lines_name(name)}")
        with open(os.path.join(HERE, lines_name(name) + ".jsonl"), "w") as f:
            f.write("".join(x + "\n" for x in lines))

    for name, schema, rows, opts in files():
        lines = [line(r, schema) for r in rows]
        if check:
            t = pq.read_table(os.path.join(HERE, name + ".parquet"))
            back = [line(r, schema) for r in t.to_pylist()] if not name.startswith("types") else lines
            with open(os.path.join(HERE, lines_name(name) + ".jsonl")) as f:
                if back != lines or f.read() != "".join(x + "\n" for x in lines):
                    bad += 1
                    print("differs:", name)
            continue
        columns = [pa.array([r.get(f.name) for r in rows], f.type) for f in schema]
        write(name, pa.Table.from_arrays(columns, schema=schema), lines, opts)
    if not check:
        special(write)
        with open(os.path.join(HERE, "index.txt"), "w") as f:
            f.write("".join(x + "\n" for x in index))
    print("pyarrow", pa.__version__, "differing:" if check else "written", bad if check else "")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
