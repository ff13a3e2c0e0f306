"""Philox4x32-10 vectors: writes philox4x32_10.txt, one line `c0 c1 c2 c3 k0 k1 o0 o1 o2 o3` of hexadecimal words.

The generator is written here from the definition (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
and must reproduce the three published known-answer vectors of the Random123 library before more are added.
"""
import pathlib

M0, M1 = 0xD2511F53, 0xCD9E8D57   # multipliers
W0, W1 = 0x9E3779B9, 0xBB67AE85   # key increments (golden ratio, sqrt(3) - 1)
MASK = 0xFFFFFFFF

PUBLISHED = [  # Random123, tests/kat_vectors, "philox4x32 10"
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


def philox4x32_10(counter, key):
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return c0, c1, c2, c3


def main():
    for counter, key, want in PUBLISHED:
        assert philox4x32_10(counter, key) == want, (counter, key)
    cases = [(c, k) for c, k, _ in PUBLISHED]
    # Each word alone (a swapped or ignored word changes exactly one line), then small counters as used for element numbers.
    for i in range(6):
        words = [0] * 6
        words[i] = 1
        cases.append((tuple(words[:4]), tuple(words[4:])))
    cases += [((n, 0, 0, 0), (1234, 0)) for n in (0, 1, 2, 3, MASK)]
    cases += [((0, 1, 0, 0), (1234, 0)), ((0x12345678, 0x9ABCDEF0, 0x0F1E2D3C, 0x4B5A6978), (0xDEADBEEF, 0xCAFEF00D))]
    path = pathlib.Path(__file__).resolve().parent / "philox4x32_10.txt"
    lines = [" ".join(f"{w:08x}" for w in (*c, *k, *philox4x32_10(c, k))) for c, k in cases]
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.name}: {len(lines)} vectors, the first {len(PUBLISHED)} published")


if __name__ == "__main__":
    main()
