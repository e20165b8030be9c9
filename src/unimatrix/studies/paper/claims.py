"""Every claim of the paper, from claims.json beside this file, and what judges those that no study can.

Claims of studies name the paper's claims that they judge. Here stands the rest: tests that hold a claim about
method or artifact, what of a claim nothing measures, and what there is here of what the paper leaves open.
"""

from typing import Any

from unimatrix.lab.paper import HeldBy, Paper, PaperClaim
from unimatrix.studies.paper.published import read

_TESTS = {
    "c10": (
        HeldBy(
            name="tests/cli/test_reproduce.py::test_reproduce_takes_seeds_text_and_folder_and_report_follows",
            shows="One command trains the models of a study, judges and reports",
        ),
        HeldBy(
            name="tests/cli/test_commands.py::"
            "test_eval_reads_the_text_it_was_trained_on_and_states_the_windowing",
            shows="Trained models are evaluated",
        ),
        HeldBy(
            name="tests/cli/test_bench_command.py::test_throughput_ends_with_a_table_of_its_ratios",
            shows="Throughput is measured",
        ),
        HeldBy(
            name="tests/cli/test_ruler_command.py::test_rows_a_table_and_a_figure",
            shows="A model is asked RULER's tasks, smoke runs alone: rows, a table, a heat map",
        ),
    ),
    "c16": (
        HeldBy(
            name="tests/data/tasks/ruler/test_official.py::test_the_same_draws_give_the_same_prompt",
            shows="The tasks, by their official names, write the official suite's prompts to the letter",
        ),
        HeldBy(
            name="tests/evals/test_ruler.py::test_scores_are_the_official_ones",
            shows="Answers are scored as the official suite matches strings",
        ),
    ),
    "c12": (
        HeldBy(
            name="tests/studies/test_claims.py::test_shared_depth_costs_compute_and_no_parameters",
            shows="Core's multiply-adds grow with depth and its parameters do not; the Transformer's do",
        ),
    ),
    "c13": (
        HeldBy(
            name="tests/mixers/test_mixers.py::test_matrix_state_mixer_is_its_formula",
            shows="Without rule mixing the mixer writes k v^T alone",
        ),
        HeldBy(
            name="tests/ops/test_matrix_state_widths.py::test_two_tokens_written_out",
            shows="S_t = rho S_{t-1} + (1 - rho) k v^T, in every form",
        ),
    ),
}

_UNMEASURED = {
    "c25": "That writes alias in the shared state: models' answers are measured, not what their states hold.",
    "c43": "That a fused scan is what it takes: the paper has no such experiment, ours stands beside it.",
    "c41": "That rule mixing helps to optimise: no experiment turns it on alone.",
}

_HERE = {
    "c42": "Parts can read how badly the state foretold each token (the port `error`, "
    "docs/architecture.md), and the study of the surprise store trains a store that keeps such tokens.",
    "c47": "Training length compares three models at equal seconds, on one text of one size. "
    "Nothing is matched by FLOP, and no larger model or text is read.",
    "c48": "Table 5 with harder filler fills sequences with more symbols than 32 slots hold. The study of "
    "binding load asks for 4 to 256 pairs of 16 to 1,024 slots, and for 4 in 65,536 tokens.",
    "c49": "unimatrix eval --ruler asks any model RULER's tasks; no model here is large enough to report "
    "them. LongBench, NoLiMa and BABILong have not been run.",
    "c50": "SparsePointer's slots hold as many bindings as there are slots (Table 5); whether more of "
    "them scale is what the paper leaves open, and what the study of binding load asks.",
}


def _claim(values: dict[str, Any]) -> PaperClaim:
    name, where = values["id"], values["where"]
    return PaperClaim(
        name=name,
        statement=values["claim"],
        where=f"Section {where}" if where[0].isdigit() else where[0].upper() + where[1:],
        tests=_TESTS.get(name, ()),
        unmeasured=_UNMEASURED.get(name, ""),
        here=_HERE.get(name),
    )


PAPER = Paper(
    identifier="arXiv:2604.25930v1",
    title="Associative-State Universal Transformers: Pilot Studies in Structured Recurrent State, Sparse "
    "Retrieval, and Latent Compression",
    licence="CC BY 4.0",
    claims=tuple(map(_claim, read("claims.json")["claims"])),
    # the first three of these that have run
    findings={
        "fair-fight": "fair-fight",
        "ablation": "ablation-attention",
        "table1": "figure2",
        "table5": "table5-slots",
    },
)
