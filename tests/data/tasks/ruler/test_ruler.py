"""RULER's tasks as they are drawn here: the same by seed, as long as asked, a question has one answer."""

import re
from collections import Counter
from hashlib import sha256

import pytest

from unimatrix.data.tasks import ruler
from unimatrix.data.tasks.ruler import (
    RULER,
    Draws,
    Haystack,
    Request,
    Sample,
    WrongLength,
    check_length,
    make_sample,
    wonderwords,
)
from unimatrix.data.tasks.ruler.needles import sentences
from unimatrix.data.tasks.ruler.sample import largest_within
from unimatrix.errors import UserError


def num_bytes(text: str) -> int:
    return len(text.encode())


def num_words(text: str) -> int:
    return len(text.split())


def request(length: int, count=num_bytes, **settings) -> Request:
    return Request(length=length, count=count, words=wonderwords(), **settings)


def drawn(name: str, length: int = 9000, count=num_bytes, *, seed: int = 0, number: int = 3) -> list[Sample]:
    asked = request(length, count)
    check_length(name, number=number, seed=seed, request=asked)
    return [make_sample(name, seed=seed, index=index, request=asked) for index in range(number)]


@pytest.mark.parametrize("name", RULER)
def test_a_sample_hangs_on_seed_and_index_and_on_no_other_sample(name) -> None:
    samples = drawn(name)
    assert samples == drawn(name)
    assert samples[2] == make_sample(name, seed=0, index=2, request=request(9000))
    others = [*samples, *drawn(name, seed=1), *drawn(name, seed=2**32)]
    assert len({sample.prompt for sample in others}) == len(others)


@pytest.mark.parametrize("name", RULER)
@pytest.mark.parametrize(("length", "count"), [(9000, num_bytes), (4095, num_words), (4096, num_words)])
def test_prompt_and_answer_fill_the_length_and_do_not_pass_it(name, length, count) -> None:
    for sample in drawn(name, length, count):
        assert sample.prompt_tokens == count(sample.prompt)
        assert sample.answer_tokens == max(RULER[name].answer_tokens, count(sample.written))
        # frequent words come in official steps: words for a 32nd of the tokens, and each may take several
        assert (
            (0.85 if name == "fwe" else 0.95) * length < sample.prompt_tokens + sample.answer_tokens <= length
        )


def test_tokens_that_stand_before_the_prompt_are_counted() -> None:
    plain = make_sample("vt", seed=0, index=0, request=request(4000))
    room = 4000 - plain.prompt_tokens - plain.answer_tokens
    full = make_sample("vt", seed=0, index=0, request=request(4000, added=room))
    assert (full.prompt, full.prompt_tokens) == (plain.prompt, plain.prompt_tokens + room)
    assert make_sample("vt", seed=0, index=0, request=request(4000, added=room + 1)).size < plain.size


@pytest.mark.parametrize("name", RULER)
@pytest.mark.parametrize("count", [num_bytes, num_words])
def test_a_length_without_room_is_refused_with_one_that_has_it(name, count) -> None:
    with pytest.raises(
        WrongLength, match=rf"^{name}: expected a length of at least [\d,]+ tokens, got 60$"
    ) as refused:
        drawn(name, 60, count, number=20)
    least = int(re.search(r"least ([\d,]+)", str(refused.value))[1].replace(",", ""))
    assert refused.value.briefly == f"from {least:,}"
    assert len(drawn(name, least, count, number=20)) == 20
    with pytest.raises(WrongLength):
        drawn(name, least - 1, count, number=20)
    with pytest.raises(WrongLength):
        make_sample(name, seed=0, index=0, request=request(60, count))


def test_a_list_that_is_longer_than_all_words_is_refused() -> None:
    few = wonderwords()
    few = ruler.Words(adjectives=few.adjectives, nouns=few.nouns, all=few.all[:100])
    asked = Request(length=100_000, count=num_bytes, words=few)
    with pytest.raises(
        WrongLength, match=r"^cwe: expected a length of at most ([\d,]+) tokens, which its 100 words"
    ):
        check_length("cwe", number=1, seed=0, request=asked)


@pytest.mark.parametrize("name", [name for name in RULER if name.startswith("niah")])
@pytest.mark.parametrize("haystack", [None, Haystack.from_bytes(b"One came. Two saw! Three won?")])
def test_the_answers_are_the_numbers_of_the_keys_that_are_asked_for(name, haystack) -> None:
    for index in range(5):
        sample = make_sample(name, seed=index, index=index, request=request(3000, haystack=haystack))
        said = re.findall(r"One of the special magic numbers for ([^:]+) is: (\d{7})\.", sample.prompt)
        task = RULER[name]
        assert len(said) == task.num_needles
        asked = re.search(
            r"What (?:is|are all) the special magic numbers? for (.+?) mentioned", sample.prompt
        )[1]
        keys = re.split(r", and |, ", asked)
        assert len(keys) == task.num_queries
        assert sorted(sample.answers) == sorted(number for key, number in said if key in keys)
        assert ("One came." in sample.prompt) == (haystack is not None and task.hidden_in == "essays")
        assert (ruler.texts.NOISE in sample.prompt) != ("One came." in sample.prompt)


def test_no_key_comes_twice() -> None:
    """Where there are few: with as many as in the official suite it would be rare, and wrong all the same."""
    words = ruler.Words(adjectives=("red", "big"), nouns=("fox", "owl"), all=())
    for index in range(20):
        asked = Request(length=3000, count=num_bytes, words=words)
        sample = make_sample("niah_multiquery", seed=0, index=index, request=asked)
        assert len(set(re.findall(r"numbers for (\S+) is:", sample.prompt))) == 4


def test_the_chain_leads_to_the_answers_and_the_example_to_its_own() -> None:
    for sample in drawn("vt", 4000, number=20):
        example, prompt = sample.prompt.split("\n\nMemorize")
        shown = example.rsplit("they are: ", 1)[1].split()
        for text, names in ((example, shown), (prompt, sample.answers)):
            asked = re.search(r"assigned the value (\d{5}) in", text)[1]
            chain = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", text)
            assert chain == list(zip(names, [asked, *names[:-1]], strict=True))
            assert len(set(names)) == 5
        assert sample.prompt.endswith("5 variables are assigned the value " + asked + ", they are: ")


@pytest.mark.parametrize(("length", "repeats"), [(4095, (6, 1)), (9000, (30, 3))])
def test_common_words_are_those_that_come_most_often(length, repeats) -> None:
    for sample in drawn("cwe", length):
        listed = sample.prompt.rsplit("appear most often.\n", 1)[1].split("\nQuestion")[0]
        counts = Counter(re.split(r" ?\b\d+\. ", listed)[1:])
        assert {word for word, count in counts.items() if count == repeats[0]} == set(sample.answers)
        assert set(counts.values()) == set(repeats)
        assert len(counts) == sample.size


@pytest.mark.parametrize("length", [703, 1024, 5000])
def test_frequent_words_come_behind_the_dots_and_before_all_others(length) -> None:
    for sample in drawn("fwe", length, number=5):
        listed = sample.prompt.split("coded words. ")[1].split("\nQuestion")[0]
        (dots, most), *others = Counter(listed.split()).most_common()
        assert (dots, tuple(word for word, _ in others[:3])) == ("...", sample.answers)
        assert most > others[0][1] > others[1][1] > others[2][1] > others[3][1]


def test_the_first_prompts_are_what_they_were() -> None:
    """Else results of one version are set beside those of another: raise ruler.VERSION with them."""
    words = ruler.Words(adjectives=("red", "big"), nouns=("fox", "owl"), all=tuple(map(str, range(900))))
    drawn = [
        make_sample(name, seed=42, index=1, request=Request(length=2600, count=num_bytes, words=words)).prompt
        for name in RULER
    ]
    assert ruler.VERSION == 1
    assert sha256("\n".join(drawn).encode()).hexdigest()[:16] == "cd5b8072e3369111"


def test_wonderwords_are_sorted_once_each_and_told_apart() -> None:
    words = wonderwords()
    assert (len(words.adjectives), len(words.nouns), len(words.all)) == (910, 6782, 8166)
    for some in (words.adjectives, words.nouns, words.all):
        assert list(some) == sorted(set(some))
    assert words.key(6782) == f"{words.adjectives[1]}-{words.nouns[0]}"
    assert words.num_keys == 910 * 6782
    fewer = ruler.Words(adjectives=words.adjectives, nouns=words.nouns, all=words.all[1:])
    assert words.sha256 != fewer.sha256


def test_draws_are_even_and_the_first_of_fewer() -> None:
    def draws() -> Draws:
        return Draws(seed=1, task=2, index=3)

    assert draws().some_of(100, 5) == draws().some_of(100, 50)[:5]
    assert sorted(draws().order(50)) == list(range(50))
    assert len(set(draws().some_of(10, 10))) == 10
    one = draws()
    counts = Counter(one.some_of(4, 2)[1] for _ in range(4000))
    assert all(850 < counts[number] < 1150 for number in range(4))
    counts = Counter(one.several_below(4, 4000)) + Counter(one.below(4) for _ in range(4000))
    assert all(1800 < counts[number] < 2200 for number in range(4))


def test_a_haystack_is_cut_behind_sentences() -> None:
    text = 'He said "No." Then (he left.) Why? 3.5 miles!'
    assert sentences(text) == ['He said "No."', "Then (he left.)", "Why?", "3.5 miles!"]
    with pytest.raises(UserError, match="haystack: expected words, got none"):
        Haystack.from_bytes(b" \n ")


@pytest.mark.parametrize("most", [None, 3, 7, 8, 50])
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("curve", [lambda size: size, lambda size: size**3 // 50, lambda size: 2 + size // 9])
def test_the_largest_that_fits_is_found(curve, step, most) -> None:
    for limit in range(40):
        tried = [size for size in range(2, 500, step) if curve(size) <= limit and (not most or size <= most)]
        found = largest_within(limit, curve, smallest=2, step=step, most=most)
        assert found == (max(tried) if tried else None)


def test_a_size_is_found_in_a_few_tries() -> None:
    asked = []

    def tokens(size: int) -> int:
        asked.append(size)
        return 300 + 18 * size + size % 7

    assert largest_within(128_000, tokens, smallest=1) == 7094
    assert len(asked) < 8
