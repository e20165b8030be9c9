"""Programs that never heard of this library: a saved folder says where its classes are."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unimatrix.hf import ByteTokenizer, UniMatrixForCausalLM

LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, again = sys.argv[1:]
assert not any(name.split(".")[0] == "unimatrix" for name in sys.modules)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(again)
tokenizer.save_pretrained(again)
print(type(model).__module__, type(tokenizer).__module__)
prompt = tokenizer("one and", return_tensors="pt")
print(*model.generate(**prompt, max_new_tokens=5, do_sample=False)[0].tolist())
"""

TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
""",
    "until": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["zz", "e"], max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


@pytest.fixture
def saved(make_model, tmp_path) -> Path:
    make_model("unimatrix-core").save_pretrained(tmp_path / "saved")
    ByteTokenizer().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_process_that_never_imported_the_library_loads_it(saved, offline, tmp_path, make_model):
    again = tmp_path / "again"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD, str(saved), str(again)],
        capture_output=True,
        text=True,
        env=offline,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    classes, ids = ran.stdout.splitlines()
    assert classes == "unimatrix.hf.modeling unimatrix.hf.tokenizer"
    prompt = ByteTokenizer()("one and", return_tensors="pt")
    assert (
        ids.split()
        == make_model("unimatrix-core").generate(**prompt, max_new_tokens=5)[0].numpy().astype(str).tolist()
    )
    # the library's own files are not copied beside the weights, where they would grow old
    assert names(again) == names(saved)
    for name in ("config.json", "modeling_unimatrix.py", "model.safetensors"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_without_trust_nothing_is_run(saved, offline):
    load = f"AutoConfig.from_pretrained({str(saved)!r}, trust_remote_code=False)"
    command = [sys.executable, "-c", f"from transformers import AutoConfig; {load}"]
    ran = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert ran.returncode == 1
    assert "trust_remote_code=True" in ran.stderr


def test_where_the_library_is_imported_the_folders_code_is_not_run(saved):
    (saved / "modeling_unimatrix.py").write_text("raise SystemExit('was run')")
    from transformers import AutoModelForCausalLM

    assert type(AutoModelForCausalLM.from_pretrained(saved)) is UniMatrixForCausalLM


def test_config_json_tells_the_sizes_to_those_who_read_it(saved, make_model):
    stored = json.loads((saved / "config.json").read_text())
    config = make_model("unimatrix-core").config
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        assert stored[name] == getattr(config, name)


@pytest.fixture
def tasks(tmp_path) -> Path:
    """A choice, a perplexity and a generation task over one local file, of many lengths."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {
            "question": "count " * a + f"{a} and {b} make",
            "choices": [f" {a + b}", f" {a * b + 100} or so", " nothing"],
            "answer": 0,
            "text": f"{a} and {b} make {a + b}. " * (1 + 3 * a),
        }
        for a in range(4)
        for b in range(3)
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        source = f"task: local_{name}\ndataset_path: json\ntest_split: test\n"
        source += f"dataset_kwargs: {{data_files: {{test: {json.dumps(str(data))}}}}}\n"
        (folder / f"{name}.yaml").write_text(source + task)
    return folder


def samples(folder: Path, name: str) -> list:
    """What the model answered to each document, in their order."""
    (path,) = folder.rglob(f"samples_local_{name}_*.jsonl")
    rows = sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: row["doc_id"])
    return [row["resps"] for row in rows]


def flat(answers) -> list[float]:
    """The numbers in them; lm-eval writes a tuple's as text."""
    return [float(number) for number in re.findall(r"-?\d+\.\d+", json.dumps(answers))]


def test_lm_eval_says_the_same_one_by_one_and_eight_at_a_time(saved, tasks, offline, tmp_path):
    running = {
        batch_size: subprocess.Popen(
            [
                *(sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--log_samples"),
                *("--model_args", f"pretrained={saved},trust_remote_code=True"),
                *("--include_path", str(tasks), "--tasks", ",".join(f"local_{name}" for name in TASKS)),
                *("--batch_size", batch_size, "--output_path", str(tmp_path / batch_size)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=offline | {"HF_HOME": str(tmp_path / f"home{batch_size}")},
        )
        for batch_size in ("1", "8")
    }
    for process in running.values():
        output = process.communicate()[0]
        assert process.returncode == 0, output
    for name in ("choices", "rolling"):
        one, eight = (samples(tmp_path / batch_size, name) for batch_size in ("1", "8"))
        assert len(one) == len(eight) == 12
        assert len(flat(one)) == (36 if name == "choices" else 12)
        assert flat(eight) == pytest.approx(flat(one), rel=1e-5)
    one, eight = (samples(tmp_path / batch_size, "until") for batch_size in ("1", "8"))
    assert one == eight
    assert any(answer != [[""]] for answer in one)
