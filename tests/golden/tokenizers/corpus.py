#!/usr/bin/env python3
"""A multilingual and emoji corpus, made anew each time and always the same (no file is kept, no package is needed).

    python corpus.py [LINES] >corpus.txt

Each line is one of: sentences in 22 languages; emoji with joiners, skin tones, flags; letters with combining marks;
numbers in many scripts; code; runs of white space of every kind; random characters of a random script.
"""
import random
import sys

WORDS = """
the|and|of|answer|because|train|station|eighteen|it's|we'll|I'm|don't|HTTPServer|naïve|co-operate|e-mail
le|garçon|mangé|œuvre|déjà|vu|l'été|aujourd'hui|Noël|français
der|Straße|Größe|Äpfel|über|Fußgänger|zweiundzwanzig|ß|Übung
niño|mañana|¿qué?|¡hola!|corazón|pingüino|año
não|coração|ação|avó|português|você
è|perché|città|più|così|l'acqua
przyjaciel|źdźbło|gżegżółka|łódź|świat|ćma
příliš|žluťoučký|kůň|úpěl|ďábelské|ódy
İstanbul|ışık|çocuk|güneş|ağaç|şehir
Tiếng|Việt|người|đường|thuế|nghiêng
Привет|мир|ёлка|объект|железо|Ещё|число
Україна|їжак|ґанок|є
Ελλάδα|άνθρωπος|ΐ|ΰ|ώρα|Ὀδυσσεύς
שלום|עולם|בְּרֵאשִׁית|ירושלים
مرحبا|العالم|القُرْآن|لا|٣٫١٤
نمستے|پاکستان|ہے
नमस्ते|दुनिया|क्षत्रिय|ज़रूरी|हिन्दी
স্বাগতম|বাংলা|ক্ষুদ্র
வணக்கம்|உலகம்|தமிழ்
สวัสดี|ชาวโลก|น้ำ|เก้าอี้
你好|世界|漢字|龍|学习|數學|。|，|「引号」
こんにちは|カタカナ|ｶﾀｶﾅ|ひらがな|日本語|々|ー|パーティー
안녕하세요|세계|한국어|각|가나다|뷁
""".split()
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇯🇵🇧🇷", "❤️", "☕", "1️⃣", "🧑🏿‍🚀", "🤷‍♀️", "©", "™", "🫠", "✌🏻", "𝔘𝔫𝔦", "ﬁ", "①", "㎏", "Å"]
CODE = ["for (int i = 0; i < n; i++) {", "\treturn x ** 2  # squared", "a[b:c] += {'k': \"v\"}", "$\\frac{1}{2}\\sqrt{x^2+1}$",
        "https://example.org/a?b=c&d=%20", "<|eot_id|>", "<s>[INST]", "snake_case CamelCase kebab-case", "x==y!=z<=w",
        "0x1F 1e-9 3.14159 1,234,567", "::std->*&&||", "<0x41>", "#include <stdio.h>\r"]
SPACES = [" ", "  ", "    ", "\t", " \t ", "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d", "\u2028", "\r", " \u00a0 ", "\u0085", "▁", "▁ "]
DIGITS = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३", "１２３", "ⅣⅨ", "¼½", "²³", "一二三"]
RANGES = [(0x20, 0x7e), (0xa1, 0x17f), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x4ff), (0x590, 0x6ff), (0x900, 0x97f),
          (0xe00, 0xe7f), (0x1100, 0x11ff), (0x1e00, 0x1fff), (0x2000, 0x206f), (0x2100, 0x214f), (0x2460, 0x24ff),
          (0x3040, 0x30ff), (0x3300, 0x33ff), (0x4e00, 0x9fa5), (0xac00, 0xd7a3), (0xf900, 0xfaff), (0xfb00, 0xfb4f),
          (0xff00, 0xffef), (0x1d400, 0x1d7ff), (0x1f300, 0x1f6ff), (0x20000, 0x2a6d6), (0x1, 0x1f)]


def scalar(r, lo, hi):
    c = r.randint(lo, hi)
    return "" if c in (10, 13) or 0xd800 <= c <= 0xdfff else chr(c)


def line(r):
    kind = r.randrange(10)
    if kind < 4:
        words = r.choice(WORDS).split("|")
        return " ".join(r.choice(words) for _ in range(r.randint(1, 14))) + r.choice(["", ".", "!", "?!", "…", " "])
    if kind == 4:
        return "".join(r.choice(EMOJI + [" "]) for _ in range(r.randint(1, 12)))
    if kind == 5:
        return "".join(r.choice("aeiounAEO가か") + "".join(chr(r.randint(0x300, 0x36f)) for _ in range(r.randint(0, 3)))
                       for _ in range(r.randint(1, 12)))
    if kind == 6:
        return r.choice(CODE) + r.choice(SPACES) + r.choice(CODE)
    if kind == 7:
        return "".join(r.choice(r.choice(DIGITS)) if r.random() < 0.8 else r.choice([" ", ",", ".", "a"])
                       for _ in range(r.randint(1, 30)))
    if kind == 8:
        return "".join(r.choice(SPACES) if r.random() < 0.6 else r.choice(["a", "the", "é", "世", "."])
                       for _ in range(r.randint(1, 16)))
    lo, hi = r.choice(RANGES)
    return "".join(scalar(r, lo, hi) for _ in range(r.randint(1, 24)))


def lines(n, seed=1):
    r = random.Random(seed)
    return [line(r) for _ in range(n)]


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    for text in lines(int(sys.argv[1]) if len(sys.argv) > 1 else 20000):
        print(text)
