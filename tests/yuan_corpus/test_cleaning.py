"""Stages of cleaning, one by one and in a row."""

import dataclasses
import inspect
import json
import sys
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as arrow_parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus import CorpusError, TextError, Tokenizer, open_dataset, tokenize_corpus
from yuan_corpus.cleaning import Dropped, Stage, StageSpec, build_stages
from yuan_corpus.cleaning.pipeline import STAGES, Cleaner, CleaningReport, stage_class
from yuan_corpus.cleaning.private_numbers import is_chinese_id
from yuan_corpus.documents import SkipLog
from yuan_corpus.languages import language_of
from yuan_corpus.tokenization import SLICE_BYTES
from yuan_manifest.cleaning import STAGE_OPTIONS

CHINESE = (
    "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。"
    "汉朝自高祖斩白蛇而起义，一统天下，后来光武中兴，传至献帝，遂分为三国。推其致乱之由，殆始于桓、灵二帝。"
)
ENGLISH = (
    "It was the best of times, it was the worst of times. The age of wisdom came to be followed by an age of folly. "
    "We had everything before us and we had nothing before us. They were all going direct to the other place. "
    "In short, that period was so far like the present one that its loudest people insisted on being heard with care."
)


def stage(name: str, **options: object) -> Stage:
    (made,) = build_stages([StageSpec(name, options)])
    assert isinstance(made, Stage)
    return made


def clean(text: str, name: str, **options: object) -> str | Dropped:
    return stage(name, **options).clean(text)


def test_the_manifest_and_the_stages_know_the_same_options_with_the_same_defaults() -> None:
    assert list(STAGES) == list(STAGE_OPTIONS)
    for name, options in STAGE_OPTIONS.items():
        declared = {field.name: field for field in dataclasses.fields(options) if field.name != "stage"}
        parameters = inspect.signature(stage_class(name)).parameters
        assert list(declared) == list(parameters), name
        for key, parameter in parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                assert (
                    list(parameter.default) == getattr(options(), key)
                    if isinstance(parameter.default, tuple)
                    else (parameter.default == getattr(options(), key))
                )


# --- repair ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("voilÃ  l'Ã©tÃ©", "voilà l'été"),
        ("e\u0301", "é"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("bell\x07", "bell"),
        ("a \t\nb\u3000\n\n\n\n\nc", "a\nb\n\n\nc"),
        ("“引号”，全角（括号）！", "“引号”，全角（括号）！"),
        ("    x = 1\n\n\n    y = 2\n", "    x = 1\n\n\n    y = 2\n"),
        ("if a &lt; b", "if a < b"),
    ],
)
def test_unicode_and_whitespace_are_repaired_and_chinese_punctuation_stays(text: str, repaired: str) -> None:
    assert clean(text, "unicode") == repaired


@given(st.text(max_size=80))
@settings(max_examples=60, deadline=None)
def test_what_is_repaired_is_repaired_once(text: str) -> None:
    repair = stage("unicode")
    once = repair.clean(text)
    if isinstance(once, str):
        assert repair.clean(once) == once


# --- filters -----------------------------------------------------------------------------------------------------


def test_length_is_counted_in_characters() -> None:
    assert clean("三国演义", "length", min_characters=4, max_characters=4) == "三国演义"
    assert clean("三国", "length", min_characters=4) == Dropped("too short")
    assert clean("三国演义啊", "length", max_characters=4) == Dropped("too long")


def test_languages_are_told_apart() -> None:
    assert clean(CHINESE, "language", keep=["zh"]) == CHINESE
    assert clean(ENGLISH, "language", keep=["zh", "en"]) == ENGLISH
    assert clean(ENGLISH, "language", keep=["zh"]) == Dropped("language en")
    code = "def f(x):\n    y = g(x, 1)\n    return {y: x}\n\n\nfor i in range(3):\n    print(f(i))\n"
    assert clean(code, "language", keep=["zh"]) == Dropped("language code")
    assert clean(code, "language", keep=["zh", "code"]) == code
    texts = (code, CHINESE, ENGLISH, "1+1=2", "ok")
    assert [language_of(text) for text in texts] == ["code", "zh", "en", "unknown", "unknown"]
    solution = "x = 3\ny = x + 4\nx + y = 10\n所以答案是十，因为三加七等于十。\n"
    assert language_of(solution) == "zh"
    with pytest.raises(CorpusError, match=r"cleaning\[0\]\.keep: py3langid knows no language 'xx'"):
        stage("language", keep=["xx"])


def test_listed_words_are_whole_ones_but_in_chinese(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("Casino\n赌场\n")
    words = stage("words", files=[str(tmp_path / "words.txt")])

    assert words.clean("The casinos of Monaco") == "The casinos of Monaco"
    assert words.clean("A CASINO here") == Dropped("listed words")
    assert words.clean("澳门大赌场内") == Dropped("listed words")
    assert words.clean("澳门的casino里") == Dropped("listed words")
    assert clean("a casino", "words", words=["casino"], max_hits=1) == "a casino"


@pytest.mark.parametrize("text", [CHINESE, ENGLISH])
@pytest.mark.parametrize("name", ["gopher_repetition", "gopher_quality", "c4"])
def test_good_text_passes_the_rules_in_either_language(text: str, name: str) -> None:
    assert clean(text, name, **({"min_sentences": 3} if name == "c4" else {})) == text


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ("同一句话。\n" * 10, "gopher_repetition", "duplicate lines"),
        ("买就送买就送" * 40, "gopher_repetition", "one 2-gram too often"),
        ("buy now cheap " * 40, "gopher_repetition", "one 2-gram too often"),
        (CHINESE * 3, "gopher_repetition", "repeated 5-grams"),
        ("太短。", "gopher_quality", "too few words"),
        ("共1234，5678元。" * 20, "gopher_quality", "too few words with letters"),
        ("# tag " * 60, "gopher_quality", "too many symbols"),
        ("- 条目一二三四五六七八九十\n" * 10, "gopher_quality", "too many bullet lines"),
        ("strength " * 60, "gopher_quality", "too few stop words"),
        ("第一句。第二句。第三句。", "c4", "too few sentences"),
        ("function() {}", "c4", "curly bracket"),
        ("Lorem ipsum dolor sit.", "c4", "lorem ipsum"),
    ],
)
def test_bad_text_is_dropped_with_the_reason(text: str, name: str, reason: str) -> None:
    assert clean(text, name) == Dropped(reason)


def test_c4_keeps_the_lines_that_are_sentences() -> None:
    text = f"首页 | 登录\n{CHINESE}\n请打开 JavaScript 再试一次。\n版权所有"
    assert clean(text, "c4", min_sentences=3) == CHINESE


def test_c4_judges_lines_as_the_paper_does() -> None:
    kept = ["It was born in 1564.", 'He said "it is good."', "Is it so? Yes, it is!"]
    lines = [
        "It was born in 1564 [1].[citation needed]", "This ends with a colon:", "It is in parentheses (here)",
        "This one was cut...", 'He said "it is good."', "We use cookies on this site.", "Is it so? Yes, it is!",
    ]  # fmt: skip

    assert clean("\n".join(lines), "c4", min_sentences=3) == "\n".join(kept)


def test_c4_ends_chinese_lines_with_full_stops_and_what_closes_them() -> None:
    kept = ["他说：“我们赢了！”", "比分是三比二，大家都很高兴。（完）", "观众们欢呼起来……"]
    text = "\n".join(["点击查看更多：", "比赛结果如下；", *kept, "新闻中心（12）", "隐私政策和使用条款请见这里。"])

    assert clean(text, "c4", min_sentences=3) == "\n".join(kept)


@pytest.mark.parametrize("gap", ["\n\n", "\n\n\n"])
def test_paragraphs_are_parted_by_any_number_of_empty_lines(gap: str) -> None:
    long = ["\n".join(f"{name}第{line}行" for line in "一二三四五六七八九十") for name in "甲乙丙"]
    text = gap.join(["同", long[0], "同", long[1], "同", long[2]])

    assert clean(text, "gopher_repetition") == Dropped("duplicate paragraphs")


# --- personal data, code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("写信到 zhang.san@example.com.cn。", "写信到 <EMAIL>。"),
        ("手机13812345678，", "手机<PHONE>，"),
        ("+86 138-1234-5678", "<PHONE>"),
        ("call +44 20 7946 0958 or (555) 123-4567", "call <PHONE> or <PHONE>"),
        ("座机010-12345678", "座机<PHONE>"),
        ("身份证11010519491231002X", "身份证<ID>"),
        ("单号110105194912310021", "单号110105194912310021"),
        ("身份证号码：440106199001011234，", "身份证号码：<ID>，"),
        ("身份证110105491231002。", "身份证<ID>。"),
        ("（010）62345678转801，(0571) 8888888, 021-12345678-12", "<PHONE>，<PHONE>, <PHONE>"),
        ("_bob@x.org, 415.555.2671", "<EMAIL>, <PHONE>"),
        ("v1.2.3.4567, 192.168.100.2000", "v1.2.3.4567, 192.168.100.2000"),
        ("8.8.8.8 and 192.168.0.1 and 1.2.3.4.5", "<IP> and 192.168.0.1 and 1.2.3.4.5"),
        ("2001:4860:4860::8888", "<IP>"),
        ("x = 3.14159265358979, 20240101123456", "x = 3.14159265358979, 20240101123456"),
        ("std::vector<int> a::b", "std::vector<int> a::b"),
        ("电话１３８１２３４５６７８，", "电话<PHONE>，"),
        ("ｚｈａｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ；１２３", "<EMAIL>；１２３"),
        ("身份证１１０１０５１９４９１２３１００２Ｘ", "身份证<ID>"),
        ("请写信到张三@example.com谢谢，或李小明@例子.公司。", "请写信到<EMAIL>谢谢，或<EMAIL>。"),
        ("...bob@x.com -eve@x.org o'brien@x.org", "...<EMAIL> -<EMAIL> <EMAIL>"),
        ("@app.route('/x') @types/node x@1.2.3 关注@新浪", "@app.route('/x') @types/node x@1.2.3 关注@新浪"),
        ("110105-19491231-002X, 1101 0519 4912 3100 2X", "<ID>, <ID>"),
        ("身份证:440106 1990 0101 1234", "身份证:<ID>"),
        ("5 4111 1111 1111 1111 12/26, 4111111111111112", "5 <CARD> 12/26, 4111111111111112"),
        ("卡号：6222 0212 3456 7890 123；3782 822463 10005", "卡号：<CARD>；<CARD>"),
        ("138.1234.5678 139 1234 5678 137 1234 5678 1381-234-5678", "<PHONE> <PHONE> <PHONE> <PHONE>"),
        ("13812345678/13912345678 电话：138 123 45678", "<PHONE>/<PHONE> 电话：<PHONE>"),
        ("010 6234 5678, 0755-8888-9999, 1-800-555-1234", "<PHONE>, <PHONE>, <PHONE>"),
        ("9f13812345678a3 158 2000 3000 4000 15000000000元", "9f13812345678a3 158 2000 3000 4000 15000000000元"),
        ("+1234567 points, +100 000 000, 13812345678 * 2", "+1234567 points, +100 000 000, 13812345678 * 2"),
        ("978-7-111-12345-6 0101 1010 0110 1111 1999–2005", "978-7-111-12345-6 0101 1010 0110 1111 1999–2005"),
        ("version 1.2.3.4, 版本：1.2.3.4", "version 1.2.3.4, 版本：1.2.3.4"),
        ("## 1.2.3.4 概述, ECMA 15.5.4.11, x>=7.43.0.5", "## 1.2.3.4 概述, ECMA 15.5.4.11, x>=7.43.0.5"),
        ("我的IP是1.2.3.4, ping 1.2.3.4, 1.2.3.4:80, 114.114.114.9", "我的IP是<IP>, ping <IP>, <IP>:80, <IP>"),
    ],
)
def test_personal_data_are_masked_and_other_numbers_stay(text: str, masked: str) -> None:
    assert clean(text, "pii") == masked


def test_private_addresses_are_masked_where_the_manifest_wants_it() -> None:
    text = "10.20.30.40 fe80::1 fd12:3456::1 127.0.0.1 0.0.0.0 1.300.2.3"

    assert clean(text, "pii") == text
    assert clean(text, "pii", private_addresses="mask") == "<IP> <IP> <IP> 127.0.0.1 0.0.0.0 1.300.2.3"


@given(st.integers(0, 10**17 - 1))
def test_exactly_one_check_digit_of_an_identity_number_is_right(number: int) -> None:
    assert sum(is_chinese_id(f"{number:017}{digit}") for digit in "0123456789X") == 1


def test_code_that_does_not_compile_is_dropped_and_never_run() -> None:
    assert clean("raise SystemExit('run!')\n", "python_compiles") == "raise SystemExit('run!')\n"
    assert clean("print 'python 2'\n", "python_compiles") == Dropped("does not compile")
    assert isinstance(clean("(" * 5000, "python_compiles"), Dropped)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("#!/bin/python\n# Copyright (c) X\n# All rights reserved.\n\nx = 1\n", "#!/bin/python\nx = 1\n"),
        ("/* Licensed under the\n * Apache License */\nint x;\n", "int x;\n"),
        ("// SPDX-License-Identifier: MIT\nint x;\n", "int x;\n"),
        ("# a helper\nx = 1\n", "# a helper\nx = 1\n"),
        ("x = 1  # licence\n", "x = 1  # licence\n"),
        ("/* a.c */\n\n/* Copyright X */\nint a;", "/* a.c */\nint a;"),
        ("# a.py - does things\n\n# (c) 2020 X\nimport os", "# a.py - does things\nimport os"),
        ("<?php\n/* Permission is hereby granted */\necho 1;", "<?php\necho 1;"),
        ("<!-- 版权所有 X -->\n<html>", "<html>"),
        ("-- Licensed under the Apache License\nselect 1;", "select 1;"),
        ("#ifndef COPYRIGHT_H\n#define COPYRIGHT_H\n", "#ifndef COPYRIGHT_H\n#define COPYRIGHT_H\n"),
        ("# Reads the numbers of driving licences\nx", "# Reads the numbers of driving licences\nx"),
        ('"""\nCopyright 2020 X\n\nLicensed under the MIT License.\n"""\nx = 1\n', "x = 1\n"),
        ('"""Reads.\n\n(c) 2020 X.\n"""\n\nx = 1\n', '"""Reads."""\nx = 1\n'),
        ("'''Checks copyright headers.'''\nx = 1\n", "'''Checks copyright headers.'''\nx = 1\n"),
        ('x = """\nCopyright (c) 2020\n"""\n', 'x = """\nCopyright (c) 2020\n"""\n'),
        ("--[[\nCopyright 2020 X\n]]\nlocal a", "local a"),
        ("=begin\nLicensed under MIT\n=end\nputs 1", "puts 1"),
        ("%{\nCopyright X\n%}\nx = 1;", "x = 1;"),
        ("; Copyright (c) X\n(defun a ())", "(defun a ())"),
        ("! Copyright X\nprogram a", "program a"),
        ('" Copyright (c) X\nlet a = 1', "let a = 1"),
        ('" quoted copyright" said he\n', '" quoted copyright" said he\n'),
    ],
)
def test_a_licence_header_is_removed_and_other_comments_stay(text: str, left: str) -> None:
    assert clean(text, "licence_header") == left


# --- benchmarks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("gsm8k/test.jsonl", "question"),
        ("agieval/gaokao-mathqa.jsonl", "question"),
        ("humaneval/HumanEval.jsonl.gz", ""),
    ],
)
def test_documents_with_benchmark_text_are_dropped(shared: Path, name: str, field: str) -> None:
    path = shared / "data" / name
    found = stage("decontamination", files=[str(path)])

    assert found.clean(CHINESE) == CHINESE
    assert found.clean(ENGLISH) == ENGLISH
    if field:
        rows = [json.loads(line)[field] for line in path.read_text(encoding="utf-8").splitlines()[:30]]
        leaked = [found.clean(f"{ENGLISH}\n{row.upper()}\n{CHINESE}") for row in rows]
        assert leaked.count(Dropped("benchmark text")) >= 28  # a question of fewer than 13 items cannot be found
    else:
        assert found.clean("def f():\n    pass\n# Check if in given list of numbers, are any two numbers closer to each other than given threshold.") == Dropped("benchmark text")  # fmt: skip # noqa: E501


def test_benchmarks_without_text_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "short"}\n')
    with pytest.raises(CorpusError, match=r"cleaning\[0\]\.files: no text in them has 13 words"):
        stage("decontamination", files=[str(tmp_path / "a.jsonl")])


def test_benchmarks_of_values_a_line_in_json_files_and_of_parquet_are_read(tmp_path: Path) -> None:
    chinese, deep = "谁住在东方的大海上的那一座高山里面呢", " ".join(f"w{number}" for number in range(14))
    (tmp_path / "python.json").write_text(f"{{'query': '{chinese}', 'ans1': None}}\n{{'query': 'b'}}\n")
    column = arrow.array([{"choices": ["short", deep]}])
    arrow_parquet.write_table(arrow.table({"mc": column}), tmp_path / "a.parquet")
    found = stage("decontamination", files=[str(tmp_path)])

    assert found.clean(f"是的，{chinese}？") == found.clean(f"or {deep}") == Dropped("benchmark text")
    (tmp_path / "b.json").write_text('{"a": 1}\n{"a": }\n')
    with pytest.raises(CorpusError, match=r"cleaning\[0\]\.files: .*b\.json: line 2 is neither JSON nor"):
        stage("decontamination", files=[str(tmp_path)])


# --- duplicates, and all in a row -----------------------------------------------------------------------------------


def survivors(documents: list[str], *specs: StageSpec) -> tuple[list[str], list[dict[str, object]]]:
    cleaner, report = Cleaner(specs), CleaningReport(specs)
    left: list[str] = []
    for document in documents:
        text, trace = cleaner.clean(document)
        if report.take(trace):
            assert text is not None
            left.append(text)
    return left, report.table(SkipLog())["stages"]


def test_a_mark_of_byte_order_is_no_syntax_error() -> None:
    assert clean("\ufeffx = 1\n", "python_compiles") == "\ufeffx = 1\n"


def test_the_first_of_equal_documents_stays() -> None:
    documents = ["Same  text", "other", "same text", "other", "Same  text"]

    assert survivors(documents, StageSpec("exact_duplicates"))[0] == ["Same  text", "other"]
    assert len(survivors(documents, StageSpec("exact_duplicates", {"normalize": False}))[0]) == 3


def test_nearly_all_pairs_above_the_threshold_are_found() -> None:
    words = [f"w{number}" for number in range(6000)]
    documents = [words[start : start + 60] for start in range(0, 6000, 60)]
    # One word of 60: 51 of 61 runs of five are in both, which is 0.836.
    copies = [[*document[:30], "other", *document[31:]] for document in documents]
    left, _ = survivors([" ".join(one) for one in (*documents, *copies)], StageSpec("near_duplicates"))

    assert left[:100] == [" ".join(one) for one in documents]
    assert len(left) <= 125
    build_stages([StageSpec("near_duplicates", {"threshold": 1.0})])


@pytest.mark.parametrize("text", [CHINESE * 2, ENGLISH])
def test_the_first_of_nearly_equal_documents_stays(text: str) -> None:
    other = (ENGLISH if text is not ENGLISH else CHINESE) + " unlike"
    documents = [text, other, text[:-3] + "!", text.upper(), "short", "short"]

    left, _ = survivors(documents, StageSpec("near_duplicates"))
    assert left == [text, other, "short", "short"]


def test_a_stage_says_its_speed_also_where_shards_had_reports_of_their_own() -> None:
    spec = StageSpec("length")
    cleaner = Cleaner([spec])
    shards = [CleaningReport([spec]), CleaningReport([spec])]
    for shard in shards:
        shard.take(cleaner.clean("三国" * 500_000)[1])
    whole = CleaningReport([spec])
    for shard in shards:
        whole.absorb(shard.table(SkipLog()), [1.5])

    assert whole.lines() == ["cleaning, length: 2 documents, 0 dropped, 0 changed; 2.0 MB/s"]


def test_a_stage_counts_what_it_gets_drops_and_changes_and_shows_some() -> None:
    documents = ["first  \n", "first", "no", "mail a@example.com now"]
    left, stages = survivors(
        documents, StageSpec("unicode"), StageSpec("exact_duplicates"),
        StageSpec("length", {"min_characters": 3}), StageSpec("pii"),
    )  # fmt: skip

    assert left == ["first\n", "mail <EMAIL> now"]
    assert [(entry["documents"], entry["dropped"], entry["changed"]) for entry in stages] == [
        (4, 0, 1), (4, 1, 0), (3, 1, 0), (2, 0, 1),
    ]  # fmt: skip
    assert stages[1]["reasons"] == {"the same text before": 1}
    assert stages[2]["dropped_samples"] == [{"reason": "too short", "text": "no"}]
    assert stages[3]["changed_samples"] == [{"before": "mail a@example.com now", "after": "mail <EMAIL> now"}]
    assert stages[3]["characters_in"] == len("first\n") + len("mail a@example.com now")


OWN = """
from yuan_corpus.cleaning import Dropped

class Shout:
    def __init__(self, mark="!"):
        self.mark = mark

    def clean(self, text):
        return Dropped("quiet") if "quiet" in text else text.upper() + self.mark * (10 // (len(text) - 4))
"""


def test_a_stage_of_the_users_own_is_named_by_module_and_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_stages.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    spec = StageSpec("own_stages:Shout", {"mark": "?"})

    assert survivors(["be quiet", "abcdefghijklmn"], spec)[0] == ["ABCDEFGHIJKLMN?"]
    with pytest.raises(
        CorpusError, match=r"cleaning\[0\]\.stage: own_stages:Shout failed with ZeroDivisionError: .*'four'"
    ):
        survivors(["four"], spec)
    with pytest.raises(CorpusError, match=r"cleaning\[0\]\.stage: own_stages:Shout cannot be made \(TypeError"):
        build_stages([StageSpec("own_stages:Shout", {"volume": 1})])
    with pytest.raises(CorpusError, match=r"cleaning\[0\]\.stage: nowhere:X cannot be imported"):
        build_stages([StageSpec("nowhere:X")])
    sys.modules.pop("own_stages")


SPECS = [
    StageSpec("unicode"), StageSpec("exact_duplicates"), StageSpec("repeated_spans"),
    StageSpec("length", {"min_characters": 20}), StageSpec("near_duplicates"), StageSpec("pii"),
]  # fmt: skip


def test_a_cleaned_dataset_is_the_same_bytes_whatever_the_number_of_workers(
    tmp_path: Path, source_files: list[Path], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yuan_corpus.tokenization.SLICE_BYTES", 10_000)
    assert SLICE_BYTES > 10_000
    (tmp_path / "more.py").write_text("tiny")
    paths = [*source_files, tmp_path / "more.py", *source_files[2:4]]
    outputs: list[dict[str, bytes]] = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        statistics = tokenize_corpus(paths, tokenizer, folder, workers=workers, cleaning=SPECS)
        outputs.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert statistics.documents == len(open_dataset(folder)) == len(source_files)
        assert statistics.tokens == open_dataset(folder).token_count

    assert outputs[0] == outputs[1]
    stages = json.loads(outputs[0]["cleaning.json"])["stages"]
    assert [entry["dropped"] for entry in stages] == [0, 2, 0, 1, 0, 0]
    assert stages[2]["changed"] > 0


def test_cleaning_that_leaves_nothing_is_said(tmp_path: Path, source_files: list[Path], tokenizer: Tokenizer) -> None:
    spec = StageSpec("length", {"min_characters": 10**8})
    with pytest.raises(TextError, match="cleaning dropped all 7, 7 of them in stage length"):
        tokenize_corpus(source_files, tokenizer, tmp_path, cleaning=[spec])


OWN_STAGES = """
class Nothing:
    def clean(self, text):
        return None

class Exits:
    def clean(self, text):
        raise SystemExit(3)

class Empties:
    def clean(self, text):
        return " " if "a" in text else text

class Admits:
    def sign(self, text):
        return text

    def admit(self, signature, number):
        return "no"
"""


def test_what_a_stage_of_the_users_own_does_wrong_is_said_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong_stages.py").write_text(OWN_STAGES)
    monkeypatch.syspath_prepend(tmp_path)
    for name, problem in (
        ("Nothing", r"\.clean returned NoneType, not text or Dropped\(reason\)"),
        ("Exits", " failed with SystemExit: 3"),
        ("Admits", r"\.admit returned str, not None or Dropped\(reason\)"),
    ):
        specs = [StageSpec(f"wrong_stages:{name}")]
        with pytest.raises(CorpusError, match=rf"cleaning\[0\]\.stage: wrong_stages:{name}{problem}"):
            CleaningReport(specs).take(Cleaner(specs).clean("some text")[1])


def test_a_document_that_a_stage_leaves_empty_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_stages_too.py").write_text(OWN_STAGES)
    monkeypatch.syspath_prepend(tmp_path)
    specs = [StageSpec("wrong_stages_too:Empties"), StageSpec("unicode")]
    cleaner, report = Cleaner(specs), CleaningReport(specs)
    kept = [text for document in ("a", "b", "\u200b") if (text := cleaner.clean(document)[0]) is not None]
    for document in ("a", "b", "\u200b"):
        report.take(cleaner.clean(document)[1])

    assert kept == ["b"]
    assert [counts["reasons"] for counts in report.table_of_stages()] == [{"nothing is left": 1}] * 2


def test_a_document_that_lost_sentences_goes_through_the_later_stages_anew(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    same = [f"The sentence with number {number} stood before." for number in range(5)]
    new = ["This one is new."]
    documents = [same, [*same, *new], new, [*new, *same[:2]], [*same[:3], *["Short."]]]
    (tmp_path / "a.txt").write_text("".join(" ".join(sentences) + "\n" for sentences in documents))
    specs = [
        StageSpec("repeated_spans"), StageSpec("length", {"min_characters": 10, "max_characters": 230}),
        StageSpec("exact_duplicates"),
    ]  # fmt: skip
    output = tmp_path / "out"
    output.mkdir()
    tokenize_corpus([tmp_path / "a.txt"], tokenizer, output, cleaning=specs)
    dataset = open_dataset(output)
    stages = json.loads((output / "cleaning.json").read_text())["stages"]

    # The second was too long as it was read, and is now what the third is; the last has too little left.
    left = [" ".join(same), new[0], " ".join(documents[3])]
    assert [tokenizer.decode(dataset[number].tolist()) for number in range(len(dataset))] == [
        f"{text}<eod>" for text in left
    ]
    assert [(stage["changed"], stage["dropped"]) for stage in stages] == [(2, 0), (0, 1), (0, 1)]
    assert (stages[0]["changed_samples"][0]["after"]).endswith("This one is new.")
