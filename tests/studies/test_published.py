"""The paper's numbers agree with themselves and with Table 1 as we hold it."""

import re

import pytest

from unimatrix.errors import UserError
from unimatrix.studies.catalogue import ALL, EXPERIMENTS, MEASURED, STUDIES, experiment, study
from unimatrix.studies.paper.published import ON_RECALL, every_path, printed, printed_parameters, published
from unimatrix.studies.paper.recurrent_memory import CHANCE, SECTION56_MEMORY
from unimatrix.studies.paper.text import TABLE1
from unimatrix.train.config import Experiment


def test_table1_holds_what_the_paper_prints() -> None:
    printed = [(row.label, row.paper_parameters, *row.paper.values()) for row in TABLE1.trained]
    assert printed == [
        ("Transformer", 174_848, 5.124, 34.88),
        ("UniMatrix-Core", 83_140, 5.084, 33.91),
        ("UniMatrix-ROSA", 103_876, 5.083, 33.90),
        ("UniMatrix-Discovery", 115_184, 5.112, 34.58),
    ]


@pytest.mark.parametrize("row", TABLE1.trained, ids=lambda row: row.label)
def test_printed_perplexity_is_two_to_the_printed_bits_per_byte(row) -> None:
    # both are rounded: half a unit of the last digit of each
    low, high = 2 ** (row.paper["bpb"] - 0.0005), 2 ** (row.paper["bpb"] + 0.0005)
    assert low - 0.005 <= row.paper["ppl"] <= high + 0.005


def test_the_data_file_names_its_source_and_licence() -> None:
    assert "CC BY 4.0" in published()["_source"]
    assert "2604.25930" in published()["_source"]


def test_a_number_is_found_by_its_path_or_not_at_all() -> None:
    assert printed_parameters("unimatrix-core", setting=ON_RECALL) == 70_660
    found = printed("table3_recall", "transformer", "accuracy")
    assert (found, found.path) == (25.4, ("table3_recall", "transformer", 1))
    # columns of the whole table, of a part of it, and none
    assert printed("table4_retrieval", "no_dropout", "unimatrix-assoc", "eval_loss") == 1.976
    assert printed("table2", "matched_width", "triple-slot", "val_bpb") == 5.041
    assert printed("section_5_6_recurrent_ffn", "tuned_200_steps_seed7", "transformer", 1) == 15.24
    for path in every_path():
        assert printed(*path).path == path
    with pytest.raises(KeyError):
        printed_parameters("no such model")


def test_every_study_goes_by_its_name_and_every_experiment_by_its_own() -> None:
    assert not STUDIES.keys() & MEASURED.keys()
    models: dict[str, Experiment] = {}
    for name, value in ALL.items():
        assert value.name == name
        for row in value.trained:
            for found in row.experiments:
                assert models.setdefault(found.name, found) == found
        for found in value.experiments:
            # one experiment a name, whatever number of studies it stands in
            assert EXPERIMENTS[found.name] == found


def test_names_of_figures_are_each_tables_own() -> None:
    names = [figure.name for value in ALL.values() for figure in value.figures]
    names += [f"{name}-curves" for name in STUDIES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", TABLE1.names)
def test_recipes_are_the_papers(name: str) -> None:
    recipe = experiment(name)
    assert (recipe.loop.steps, recipe.loop.batch_size, recipe.loop.seq_len) == (80, 16, 128)
    assert (recipe.optim.lr, recipe.optim.schedule, recipe.optim.precision) == (3e-4, "constant", "fp32")
    assert (recipe.model.dropout, recipe.model.max_positions) == (0.1, 128)
    assert recipe.name == f"table1.{recipe.model.preset}"


def test_unknown_names_are_met_with_the_near_ones() -> None:
    with pytest.raises(UserError, match=r"'table1.unimatrix-cor'; did you mean table1.unimatrix-core"):
        experiment("table1.unimatrix-cor")
    with pytest.raises(UserError, match=r"'qqq'; known: table1.MODEL, recall.MODEL"):
        experiment("qqq")
    with pytest.raises(UserError, match=r"'tabel1'; did you mean table1\?"):
        study("tabel1")
    assert study("table1") is TABLE1


def test_the_accuracies_of_section_56_are_multiples_of_1_in_512() -> None:
    text = " ".join(SECTION56_MEMORY.protocol)
    stated = [(float(printed), int(right)) for printed, right in re.findall(r"(\d+\.\d) = (\d+)/512", text)]
    printed = {value for row in SECTION56_MEMORY.trained for value in row.paper.values()}
    assert {value for value, _ in stated} == printed
    assert all(round(100 * right / 512, 1) == value for value, right in stated)

    def fits(sequences: int) -> bool:
        shares = {round(100 * right / sequences, 1) for right in range(sequences + 1)}
        return printed <= shares

    assert [fits(2**power) for power in range(5, 10)] == [False] * 4 + [True]
    # steps of a tenth of a percent or less: every printed number is one
    assert all(fits(sequences) for sequences in range(1000, 1100))
    chance = CHANCE["recall"] / 100
    assert f"{100 * (chance * (1 - chance) / 512) ** 0.5:.1f} points in a single run" in text
