"""Files in exactly the form in which RouterBench and RouterArena publish theirs; only the texts and figures are ours.

Columns, keys, names of models and of files as found in the repositories and at the commits that the importers name.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from cli.conftest import succeed
from roster.errors import RosterError
from roster.lm.boards import arena_score, arena_score_of, read_routerarena, read_routerbench
from roster.lm.boards.routerbench import CONVERT
from roster.lm.lacking import lacking
from roster.lm.storing import load_records
from roster.recipes import RECIPES

MODELS = (
    "WizardLM/WizardLM-13B-V1.2", "claude-instant-v1", "claude-v1", "claude-v2", "gpt-3.5-turbo-1106",
    "gpt-4-1106-preview", "meta/code-llama-instruct-34b-chat", "meta/llama-2-70b-chat", "mistralai/mistral-7b-chat",
    "mistralai/mixtral-8x7b-chat", "zero-one-ai/Yi-34B-Chat",
)  # fmt: skip
EVALS = ("mmlu-sociology", "hellaswag", "grade-school-math", "mtbench", "chinese_character_riddles")


def wide(count=40):
    """Rows of `routerbench_0shot`: 37 columns in upstream's order; turns are Python lists, written as text."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        turns = [f"It's question {n}; say \"yes\" or 'no'."] + (["And why?"] if EVALS[n % 5] == "mtbench" else [])
        row = {"sample_id": f"{EVALS[n % 5]}.val.{n}", "prompt": str(turns), "eval_name": EVALS[n % 5]}
        row |= {model: float(rng.integers(0, 2)) for model in MODELS}
        row |= {f"{model}|model_response": str([f"'{model[:3]}' says {n}"]) for model in MODELS}
        row |= {f"{model}|total_cost": float(rng.uniform(1e-6, 3e-3)) for model in MODELS}
        rows.append(row | {"oracle_model_to_route_to": "no_model_correct"})
    rows[3][f"{MODELS[0]}|model_response"] = None
    rows[4][MODELS[1]] = None
    assert len(rows[0]) == 37
    return rows


def check(records, rows):
    assert records.models == tuple(sorted(MODELS))
    assert len(records) == len(rows)
    for n, row in enumerate(rows):
        at = records.prompts.index("\n".join(eval(row["prompt"])))
        for m, model in enumerate(records.models):
            expected = np.nan if row[model] is None else row[model]
            np.testing.assert_equal(records.score_NM[at, m], expected)
            assert records.cost_NM[at, m] == pytest.approx(row[f"{model}|total_cost"], rel=1e-12)
            said = row[f"{model}|model_response"]
            assert records.answer_NM[at, m] == (None if said is None else f"'{model[:3]}' says {n}")
        assert records.datasets[at] == row["eval_name"]


def test_routerbenchs_columns(tmp_path):
    path = tmp_path / "routerbench_0shot.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in wide()))
    check(read_routerbench(path), wide())
    raw = {"sample_id": "a", "prompt": "['q']", "eval_name": "mmlu", "model_name": "m", "model_response": "['a']"}
    (tmp_path / "routerbench_raw.jsonl").write_text(json.dumps(raw | {"performance": 1.0, "cost": 0.1}))
    with pytest.raises(RosterError, match="routerbench_0shot and routerbench_5shot have a row per prompt"):
        read_routerbench(tmp_path / "routerbench_raw.jsonl")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_what_pandas_makes_of_the_published_pickle(tmp_path, kind):
    """The line that the refusal prints is run as it is; other forms as pandas writes them."""
    pandas = pytest.importorskip("pandas", reason="only whoever converts a pickle needs pandas")
    frame = pandas.DataFrame(wide())
    frame.to_pickle(tmp_path / "routerbench_0shot.pkl")
    path = tmp_path / f"routerbench_0shot.{kind}"
    if kind == "jsonl":
        with pytest.raises(RosterError) as refused:
            read_routerbench(tmp_path / "routerbench_0shot.pkl")
        line = CONVERT.replace("FILE", str(tmp_path / "routerbench_0shot"))
        assert str(refused.value).endswith(line)
        subprocess.run(line.replace("python", sys.executable, 1), shell=True, check=True)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow", reason="Parquet is an extra")
        frame.to_parquet(path, index=False)
    check(read_routerbench(path), wide())


def cached(index, model, score, cost, run=1, answer="It is \\boxed{A}."):
    """A line of `cached_results`: judged answers have a result, others null."""
    judged = {"extracted_answer": answer, "ground_truth": "A", "score": score, "metric": "mcq_accuracy"}
    return {
        "global_index": index,
        "question": f"Please read the question. Question: {index}?",
        "llm_selected": model,
        "generated_answer": answer,
        "token_usage": {"input_tokens": 104, "output_tokens": 49, "total_tokens": 153},
        "success": True,
        "provider": "openrouter",
        "error": None,
        "evaluation_result": None if score is None else judged | {"inference_cost": cost},
        "run_number": run,
    }


def predicted(index, model, accuracy, cost, optimal=False, question=None):
    """An entry of `router_inference/predictions/ROUTER.json`."""
    return {
        "global index": index,
        "prompt": question or f"Please read the question. Question: {index}?",
        "prediction": model,
        "generated_result": {
            "generated_answer": f"{model} answers {index}",
            "success": True,
            "token_usage": {"input_tokens": 101, "output_tokens": 66, "total_tokens": 167},
            "provider": "google",
            "error": None,
        },
        "cost": cost,
        "accuracy": accuracy,
        "for_optimality": optimal,
    }


INDICES = [f"{name}_{n}" for n in range(6) for name in ("ArcMMLU", "OpenTDB_History", "MMLUPro_engineering", "AIME")]


@pytest.fixture
def arena(tmp_path):
    """`cached_results`, `predictions` and `router_data.json` as in a clone."""
    results, predictions = tmp_path / "cached_results", tmp_path / "predictions"
    results.mkdir()
    predictions.mkdir()
    lines = [cached(index, "qwen/qwen3-235b-a22b-2507", n % 2, 1e-4) for n, index in enumerate(INDICES)]
    lines[0]["evaluation_result"] = None
    lines += [cached(INDICES[2], "qwen/qwen3-235b-a22b-2507", 1.0, 3e-4, run=2)]
    (results / "qwen_qwen3-235b-a22b-2507.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flash = [predicted(index, "gemini-2.0-flash-001", float(n % 3 > 0), 2e-5) for n, index in enumerate(INDICES)]
    flash += [predicted(index, "qwen/qwen3-235b-a22b-2507", 1.0, 1e-4, optimal=True) for index in INDICES[:1]]
    flash += [predicted(index, "gpt-4o-mini", None, None, optimal=True) for index in INDICES]
    (predictions / "vllm-sr.json").write_text(json.dumps(flash))
    reworded = [predicted(index, "gpt-4o-mini", None, None, question=f"reworded {index}") for index in INDICES]
    (predictions / "vllm-sr-robustness.json").write_text(json.dumps(reworded))
    (predictions / "router_config.json").write_text(json.dumps({"pipeline_params": {"router_name": "vllm-sr"}}))
    asked = [{"prompt_formatted": f"Question: {index}?", "global index": index} for index in INDICES]
    (tmp_path / "router_data.json").write_text(json.dumps(asked))
    return tmp_path


def test_routerarenas_files(arena):
    records = read_routerarena([arena / "router_data.json", arena / "cached_results", arena / "predictions"])
    # One column a model, whether a file's name or an entry names it; what nobody judged is no result.
    assert records.models == ("gemini-2.0-flash-001", "qwen/qwen3-235b-a22b-2507")
    assert set(records.prompts) == {f"Question: {index}?" for index in INDICES}, "and not the reworded ones"
    for n, index in enumerate(INDICES):
        at = records.prompts.index(f"Question: {index}?")
        flash, qwen = records.score_NM[at]
        assert flash == float(n % 3 > 0)
        assert qwen == {0: 1.0, 2: 0.5}.get(n, n % 2), "several results of a model have a mean"
        assert records.cost_NM[at].tolist() == pytest.approx([2e-5, 2e-4 if n == 2 else 1e-4])
        assert records.datasets[at] == index.rpartition("_")[0]
        assert records.answer_NM[at, 0] == f"gemini-2.0-flash-001 answers {index}"
    assert {note.split(" ")[0] for note in records.notes[1:]} == {"vllm-sr-robustness.json", "router_config.json"}
    assert lacking(RECIPES["frugalgpt"].needs, records) is None, "the answers are there, so cascades can be judged"


def test_without_router_data_the_questions_are_as_they_were_put(arena):
    records = read_routerarena([arena / "predictions", arena / "cached_results"])
    assert all(prompt.startswith("Please read the question.") for prompt in records.prompts)
    with pytest.raises(RosterError, match="lists of entries"):
        read_routerarena([arena / "predictions" / "router_config.json"])
    with pytest.raises(RosterError, match="no scored results"):
        read_routerarena([arena / "predictions" / "vllm-sr-robustness.json"])


def test_the_score_is_the_one_that_routerarena_published():
    """Its own `metrics.json` of 8,400 questions (at 065cca5d347f604e67bd50c5e1c800072e0ace87)."""
    assert arena_score(0.718453907843953, 0.13639649464285758) == pytest.approx(0.7147593301906191, abs=1e-12)
    per_query = np.full(8400, 0.00013639649464285757)
    assert arena_score_of(np.full(8400, 0.718453907843953), per_query) == pytest.approx(0.7147593301906191, abs=1e-9)


def test_on_the_command_line(arena, tmp_path):
    said = succeed(
        "lm", "board", "import", "routerarena", arena / "predictions", arena / "cached_results", arena /
        "router_data.json", "--out", tmp_path / "arena",
    )  # fmt: skip
    assert "vllm-sr-robustness.json was left out" in " ".join(said.split())
    records = load_records(tmp_path / "arena")
    assert records.answer_NM is not None
    assert all(prompt.startswith("Question: ") for prompt in records.prompts), "in any order of the files"
