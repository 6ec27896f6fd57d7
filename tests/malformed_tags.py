"""Malformed tags of every kind: prompts, each with all the lines that the user reads under its picture.

"…" in a line stands for any text.
"""

# ruff: noqa: RUF001 - look-alike characters are what people really write

from __future__ import annotations

from collections.abc import Iterator

Case = tuple[str, list[str]]

OUT = "so the tag was left out"
NUMBER = "write a number such as 0.8."
RANK = "write a number such as 16."
WHOLE = "write 1 or more, or leave it away for the whole rank."
WRITE = "write <lora:name:0.8>."


def shown(text: str) -> str:
    """A text as sentences quote it: what can not be printed is a blank, and blanks are one."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def not_found(name: str, offered: str | None = None, written: str | None = None) -> Case:
    more = f". Did you mean {offered}?" if offered else ", and none with a similar name."
    return f"<lora:{name}>", [f'There is no network named "{written or name}"{more}']


MEANT = {
    "0.8": ["0,8", "０．８", "0，8", "0。8", "٠٫٨", "80%", "(0.8)", "[0.8]", "{0.8}", '"0.8"', "'0.8'", "0.8.", "0.8;"],
    "4.8": ["4.8,"],
    "1.25": ["1,25"], "0.5": [",5"], "-1": ["−1"], "-0.5": ["–0,5"], "-2": ["—2"], "1.5": ["150 %"], "0": ["{0}"],
    "2": ["²"], "0.25": ["0.25\u200b"],
}  # fmt: skip
SENSELESS = [
    "abc", "strong", "1/2", "1,2,3", "--1", "+-1", "1 0", "0x1", "0b1", "True", "None", "null", "😀", "高", "{}", "{a}",
    "%s", "%d%d", "$1", "e5", "1e", "0.8f", "1.2.3", "0..8", "1__0", "½", "Ⅷ", "0.8|0.9", "&gt;", "\\1", "../..", "#",
    "?", "*", "0.8 -", "-", "+", ".", "''", "1;2", "0.8 0.9", "N/A", "ink2", "0.8x", "x0.8", "1 2 3",
]  # fmt: skip
FORMS = [
    ("<lora:ink:{}>", "TE weight"),
    ("<lyco:ink:{}>", "TE weight"),
    ("<lora:ink:1:{}>", "UNet weight"),
    ("<lora:ink:te={}>", "TE weight"),
    ("<lyco:ink:unet={}>", "UNet weight"),
    ("<lora:ink:0.5:unet={}:dyn=4>", "UNet weight"),
]


def numbers() -> Iterator[Case]:
    """What is no number, each text in one of the places where a number belongs."""
    texts = [
        *((text, f"write {meant}.") for meant, texts in MEANT.items() for text in texts),
        *((text, NUMBER) for text in SENSELESS),
    ]
    for place, (text, advice) in enumerate(texts):
        form, what = FORMS[place % len(FORMS)]
        tag = form.format(text)
        yield tag, [f'The {what} "{shown(text)}" in "{shown(tag)}" is not a number, {OUT}; {advice}']


EMPTY: list[Case] = [
    (tag, [f'The {what} in "{tag}" is empty, {OUT}; write a number such as {example}.'])
    for tag, what, example in [
        ("<lora:ink:>", "TE weight", "0.8"),
        ("<lora:ink::1>", "TE weight", "0.8"),
        ("<lora:ink:1:>", "UNet weight", "0.8"),
        ("<lora:ink:1: >", "UNet weight", "0.8"),
        ("<lyco:ink:1:1:>", "rank (dyn)", "16"),
        ("<lora:ink:te=>", "TE weight", "0.8"),
        ("<lora:ink:unet= >", "UNet weight", "0.8"),
        ("<lora:ink:dyn=>", "rank (dyn)", "16"),
    ]
] + [
    (
        "<lora:ink::>",
        [
            f'The TE weight in "<lora:ink::>" is empty, {OUT}; {NUMBER}',
            f'The UNet weight in "<lora:ink::>" is empty, {OUT}; {NUMBER}',
        ],
    ),
]

HUGE: list[Case] = [
    (
        f"<lora:ink:{text}>",
        [f'The TE weight "{text}" in "<lora:ink:{text}>" {size} and would spoil the picture, {OUT}; {NUMBER}'],
    )
    for size, texts in {
        "is not finite": ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "+INF", "1e999", "-1e999"],
        "is far too large": ["1e7", "1000001", "-1000001", "1e300", "99999999999999999999"],
    }.items()
    for text in texts
] + [
    ("<lora:ink:te=nan>", [f'…TE weight "nan"…is not finite and would spoil the picture, {OUT}; {NUMBER}']),
    ("<lora:ink:1:inf>", [f'…UNet weight "inf"…is not finite and would spoil the picture, {OUT}; {NUMBER}']),
    ("<lyco:ink:unet=-inf>", ['…UNet weight "-inf"…is not finite…']),
    ("<lora:ink:" + "9" * 5000 + ">", ['The TE weight "999…is not finite and would…; write a number such as 0.8.']),
    ("<lora:ink:" + "z" * 5000 + ">", [f"The TE weight \"zzz…is not a number, {OUT}; {NUMBER}"]),
]  # fmt: skip

RANKS: list[Case] = (
    [
        (
            f"<lora:ink:1:1:{text}>",
            [
                f'The rank (dyn) "{text}" in "<lora:ink:1:1:{text}>" would leave nothing of the network, {OUT}; {WHOLE}'
            ],
        )
        for text in ("0", "-1", "-16", "+0")
    ]
    + [
        (
            f"<lora:ink:dyn={text}>",
            [f'The rank (dyn) "{text}" in "<lora:ink:dyn={text}>" is not a whole number, {OUT}; {advice}'],
        )
        for text, advice in {
            "16.0": "write 16.", "16,0": "write 16.", "(16)": "write 16.", "1e3": "write 1000.", "16.5": RANK,
            "0.5": RANK, "-2.0": RANK, "inf": RANK, "nan": RANK, "auto": RANK, "full": RANK, "half": RANK,
            "16 32": RANK, "0x10": RANK, "50%": RANK, "十六": RANK, "16/32": RANK, "None": RANK,
        }.items()
    ]
    + [("<lora:ink:dyn=0>", [f'…"0"…would leave nothing of the network, {OUT}…'])]
)  # fmt: skip

OTHER_LANGUAGES: list[Case] = [
    (
        tag,
        [f'The {what} "{text[:59]}{"…" if len(text) > 60 else ""}" in "…is {thing}, which is not supported…, {OUT}.'],
    )
    for tag, what, text, thing in [
        ("<lora:ink:0@0,1@0.5>", "TE weight", "0@0,1@0.5", "a schedule over the steps"),
        ("<lora:ink:0.5@0.2>", "TE weight", "0.5@0.2", "a schedule over the steps"),
        ("<lora:ink:1:0~0;1~0.5>", "UNet weight", "0~0;1~0.5", "a schedule over the steps"),
        ("<lora:ink:unet=1@5>", "UNet weight", "1@5", "a schedule over the steps"),
        ("<lora:ink:dyn=16@2>", "rank (dyn)", "16@2", "a schedule over the steps"),
        (f"<lora:ink:{','.join('1' * 12)}>", "TE weight", ",".join("1" * 12), "a list of block weights"),
        (f"<lora:ink:{','.join('1' * 17)}>", "TE weight", ",".join("1" * 17), "a list of block weights"),
        (f"<lora:ink:1:{','.join(['0.5'] * 26)}>", "UNet weight", ",".join(["0.5"] * 26), "a list of block weights"),
    ]
]

NAMELESS: list[Case] = [
    (tag, [f'The tag "{shown(tag)}" names no network; {WRITE}'])
    for tag in (
        "<lora::1>", "<lora: :1>", "<lora: >", "<lora::>", "<lora:\n>", "<lora:\t:0.5>", "<lyco::0.5:0.5>",
        "<lora:te=0.5>", "<lora:unet=1>", "<lora:dyn=8:te=1>", "<lora:>", "<lyco:>", "<lora>", "<lyco>", "<LORA:>",
        "<lora：>", "< lora:>", "<lora:\u3000>",
    )
]  # fmt: skip

TOO_LONG: list[Case] = [
    ("<lora:" + "x" * 1025 + ">", ['…xxx…" has 1025 characters; no file is called so, and the tag was left out.']),
    ("<lora:" + "墨" * 9000 + ":0.5>", ['…墨…" has 9000 characters; no file is called so, and the tag was left out.']),
]  # fmt: skip

EXTRA: list[Case] = [
    *(
        (tag, [f'"{key}=" in "{tag}" is not supported yet and was ignored.'])
        for tag, key in [
            ("<lora:ink:1:lbw=ALL>", "lbw"),
            ("<lora:ink:1:lbwe=OUTALL>", "lbwe"),
            ("<lora:ink:1:start=3>", "start"),
            ("<lora:ink:1:stop=10>", "stop"),
            ("<lora:ink:1:step=1-5>", "step"),
            ("<lora:ink:hr=0.5>", "hr"),
            ("<lora:ink:1:hrte=0>", "hrte"),
            ("<lora:ink:weight=2>", "weight"),
            ("<lora:ink:w=1,1,0>", "w"),
            ("<lora:ink:alpha=1>", "alpha"),
            ("<lora:ink:1:=2>", ""),
            ("<lora:ink:1: =2>", ""),
            ("<lora:ink:权重=2>", "权重"),
            ("<lora:ink:1:😀=2>", "😀"),
        ]
    ),
    *(
        (tag, [f'"{key}=" in "{tag}" is not supported yet and was ignored; write {key.lower()}= in small letters.'])
        for tag, key in [("<lora:ink:TE=0.5>", "TE"), ("<lora:ink:Unet=0.5>", "Unet"), ("<lora:ink:DYN=4>", "DYN")]
    ),
    *(
        (tag, [f'"{beyond}" in "{tag}" is beyond the four values of a tag and was ignored.'])
        for tag, beyond in [
            ("<lora:ink:1:1:8:9>", "9"),
            ("<lora:ink:1:1:8:x:y>", "x:y"),
            ("<lyco:ink:1:1:8:>", ""),
            ("<lora:ink:1:1:8:<b>", "<b"),
        ]
    ),
    *(
        (tag, [f'The tag "{tag}" has "{key}=" twice; the last one counts.'])
        for tag, key in [
            ("<lora:ink:te=3:te=1>", "te"),
            ("<lora:ink:unet=3:unet=1>", "unet"),
            ("<lora:ink:dyn=3: dyn =2>", "dyn"),
        ]
    ),
]

MISSPELT: list[Case] = [
    *(
        (f"<{kind}:ink:1>", [f'The tag "<{kind}:ink:1>" is not for networks; write "<lora:ink:1>".'])
        for kind in ("loras", "lyoc", "loar", "lroa", "lycoris", "locon", "loha", "lokr", "LoHa", "LyCORIS")
    ),
    *(
        (f"<{kind}:ink:1>", [f'The tag "<{kind}:ink:1>" must begin in small letters; write "<{kind.lower()}:ink:1>".'])
        for kind in ("Lora", "LORA", "LoRA", "Lyco", "LYCO", "LyCo")
    ),
    *(
        (tag, [f'The tag "{shown(tag)}" has a blank beside its kind; write "<lora:ink:1>".'])
        for tag in ("< lora:ink:1>", "<lora :ink:1>", "<\nlora:ink:1>", "<\tlora\t:ink:1>", "<\u3000lora:ink:1>")
    ),
    *(
        (tag, [f'The tag "{tag}" has no colon after its kind; write <{tag[1:5]}:name:0.8>.'])
        for tag in ("<lora ink 1>", "<lora=ink>", "<lyco-ink>", "<lora;ink;1>", "<lora/ink>", "<lora.ink>")
    ),
    *(
        (tag, [f'The tag "{tag}" has a wide colon; did you mean \':\'? Write "{right}".'])
        for tag, right in [
            ("<lora：ink：1>", "<lora:ink:1>"),
            ("<lora：ink:1>", "<lora:ink:1>"),
            ("<lyco：ink>", "<lyco:ink>"),
            ("<LORA：ink>", "<lora:ink>"),
        ]
    ),
    *(
        (text, [f"The tag that begins with \"{opening}\" has no plain '<'; {WRITE}"])
        for text, opening in [
            ("＜lora:ink:1＞", "＜lora:"),
            ("〈lora：ink：1〉", "〈lora："),
            ("《lyco:ink:1》", "《lyco:"),
            ("&lt;lora:ink:1&gt;", "&lt;lora:"),
            ("&lt; lyco:ink&gt;", "&lt; lyco:"),
        ]
    ),
]

UNCLOSED: list[Case] = [
    *(
        (text, [f"The tag \"{text}\" is not closed with '>', so it was left out."])
        for text in (
            "<lora", "<lora:", "<lora:ink", "<lora:ink:", "<lora:ink:1", "<lyco:ink:1, a cat", "<LORA:ink:1",
            "<lora:ink)", "<lora:ink:1＞", "<lora:ink:te=1", "<lora ink",
        )
    ),
    ("<lora:ink:1 <hypernet:h:1>", ["The tag \"<lora:ink:1\" is not closed with '>', so it was left out."]),
    ("<lora:ink:1\na cat ->", ["The tag \"<lora:ink:1 a cat ->\" is not closed with '>', so it was left out."]),
    ("<lora:" + "x" * 900, ["The tag \"<lora:xxx…\" is not closed with '>', so it was left out."]),
]  # fmt: skip

MISSING: list[Case] = [
    not_found("inkwsh", '"ink", "inkwash"'),
    not_found("ink wash", '"ink", "inkwash"'),
    not_found("paper.v1", '"paper"'),
    not_found("zzzzzz"),
    not_found("水墨画"),
    not_found("😀😀😀"),
    not_found("../../etc/passwd"),
    not_found("/etc/passwd"),
    not_found("..\\..\\secret"),
    not_found("~"),
    not_found("*"),
    not_found("(.*)+"),
    not_found("%69%6e%6b"),
    not_found("{0.__class__}"),
    not_found("'; DROP TABLE x; --"),
    not_found("\"quoted\""),
    not_found("<script"),
    not_found("<img src=x onerror=alert(1)"),
    not_found("&amp;&lt;b&gt;"),
    not_found("a\0b", written="a�b"),
    not_found("\x1b[31mred", written="�[31mred"),
    not_found("\u202eevil", written="�evil"),
    not_found("new\nlines", written="new�lines"),
    not_found("y" * 500, written="y" * 120 + "…"),
    not_found("x=y"),
    not_found("lbw=ALL"),
    not_found("0.8"),
    not_found("deadbeefdeadbeef"),
    ("<lora:ink：0.8>", ['The name in…holds a wide colon…', '…no network named "ink：0.8"…Did you mean "ink"…']),
    ("<lora:a=b:0.5>", ['There is no network named "a=b", and none with a similar name.']),
]  # fmt: skip

FILES: list[Case] = [
    ("<lora:cut>", ['"cut.safetensors" can not be read: the download is incomplete…Download it again.']),
    ("<lora:page>", ['"page.safetensors" can not be read: …']),
    ("<lyco:nothing>", ['"nothing.safetensors" can not be read: …']),
    ("<lora:pickle>", ['"pickle.pt" can not be read: …']),
    ("<lora:inversion>", ['"inversion.safetensors" can not be read: it is a textual-inversion embedding…']),
    (
        "<lora:twin>",
        ['The name "twin" fits several networks: "one/twin", "two/twin". Write the folder in front of it.'],
    ),
    ("<lora:stranger>", ['stranger: 0 of 1 layers; 1 layer of "stranger" left out (no such layer)…']),
]

SEVERAL: list[Case] = [
    ("<lora:ink:1><lyco:ink:0.5>", ['"ink" is named 2 times in the prompt; the effects add up.']),
    ("<lora:ink><lora: ink ><lora:ink:0>", ['"ink" is named 3 times in the prompt; the effects add up.']),
    ("<lora:ink:x><lora:ink:y>", ['The TE weight "x"…', 'The TE weight "y"…']),
    ("<lora:ink:x:y:z>", ['The TE weight "x"…', 'The UNet weight "y"…', 'The rank (dyn) "z"…']),
    ("<lora:zzzzzz:nan>", ['The TE weight "nan"…']),
    ("<lora:zzzzzz:lbw=1>", ['"lbw=" in…', 'There is no network named "zzzzzz"…']),
    ("<lora:ink:0,8> <lora> &lt;lyco:ink&gt;", ["The TE weight…", 'The tag "<lora>" names…', "The tag that begins…"]),
    ("<lora:ink:0,8" + "><lora:ink:0,8" * 19 + ">", ["The TE weight…"]),
    ("".join(f"<lora:zzz{n}qqq>" for n in range(20)), ["There is no…"] * 11 + ["And 9 more, see…"]),
]  # fmt: skip

CASES: list[Case] = [
    *numbers(), *EMPTY, *HUGE, *RANKS, *OTHER_LANGUAGES, *NAMELESS, *TOO_LONG, *EXTRA, *MISSPELT, *UNCLOSED, *MISSING,
    *FILES, *SEVERAL,
]  # fmt: skip
