"""Tasks of lm-evaluation-harness on a routed model."""

import importlib.util
import json

import pytest
import torch

from cli.conftest import succeed
from roster import RosterError, load, pocket
from roster.arena.harness import loglikelihoods, scores
from roster.library import Library
from roster.pocket.skills import examples

NAMES = ("reverse", "upper")
needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")
needs_none = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm_eval is installed")


@pytest.fixture(scope="module")
def mixture():
    everything = Library.read(pocket.experts_path())
    return load("pocket", experts=Library({name: everything[name] for name in NAMES}), router="auto").eval()


def requests(mixture, count=3):
    """Prompts with the right answer, and with a wrong one of another length."""
    tokenizer = mixture.roster.tokenizer
    told = []
    for name in NAMES:
        for each in examples(name, "test", count):
            for answer in (each.answer, "zzzzz"):
                context = mixture.roster.rendering.ids(each.prompt)
                ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
                told.append(((each.prompt, answer), context, ids))
    return told


def test_likelihoods_in_batches_are_those_of_each_alone_with_the_prompt_told(mixture):
    asked = requests(mixture)
    found = loglikelihoods(mixture, asked, 200, 5)
    for (_, context, answer), (value, greedy) in zip(asked, found, strict=True):
        ids_1S = torch.tensor([context + answer])
        prompt_1S = torch.arange(ids_1S.shape[1])[None] < len(context)
        with torch.no_grad():
            logits_SV = mixture(input_ids=ids_1S, prompt_mask=prompt_1S, use_cache=False).logits[0]
        logs_CV = logits_SV[len(context) - 1 : -1].log_softmax(1)
        expected = sum(float(logs_V[id]) for logs_V, id in zip(logs_CV, answer, strict=True))
        assert value == pytest.approx(expected, abs=1e-3)
        assert greedy == (logs_CV.argmax(1).tolist() == answer)
    right = [value for at, (value, _) in enumerate(found) if at % 2 == 0]
    wrong = [value for at, (value, _) in enumerate(found) if at % 2 == 1]
    assert sum(one > other for one, other in zip(right, wrong, strict=True)) == len(right)


def test_a_context_that_is_too_long_loses_its_beginning(mixture):
    (texts, context, answer), *_ = requests(mixture, 1)
    most = len(context) + len(answer) - 1
    same = loglikelihoods(mixture, [(texts, context, answer)], most, 1)
    longer = loglikelihoods(mixture, [(texts, [5, 6, 7, *context], answer)], most, 1)
    assert longer[0][0] == pytest.approx(same[0][0], abs=1e-4)


def test_recipes_that_are_told_tasks_are_refused(mixture):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    named = load("pocket", experts=pocket.experts_path(), router="named").eval()
    with pytest.raises(RosterError, match="'named' must be told tasks"):
        scores(named, named.roster.rendering, ["x"])


@needs_none
def test_without_the_harness_one_error_says_what_to_install(mixture):
    with pytest.raises(RosterError, match=r"pip install 'roster-moe\[lm-eval\]'"):
        scores(mixture, mixture.roster.rendering, ["x"])


def local_task(folder):
    """A task of one's own, with generated and with chosen answers."""
    rows = [
        {"question": each.prompt, "answer": each.answer, "choices": [each.answer, "zzzzz"]}
        for name in NAMES
        for each in examples(name, "test", 6)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\ntest_split: test\n"
    )
    common += 'doc_to_text: "{{question}}"\ntarget_delimiter: ""\n'
    (folder / "said.yaml").write_text(
        f"task: said\n{common}output_type: generate_until\n"
        'doc_to_target: "{{answer}}"\ngeneration_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    (folder / "chosen.yaml").write_text(
        f"task: chosen\n{common}output_type: multiple_choice\n"
        'doc_to_choice: "{{choices}}"\ndoc_to_target: 0\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return f"{folder / 'said.yaml'},{folder / 'chosen.yaml'}"


@needs_harness
@pytest.mark.filterwarnings("ignore")  # of the harness and of datasets
def test_the_command_measures_mixture_and_base_on_a_task_of_ones_own(mixture, tmp_path, monkeypatch):
    """Held against the answers that `generate` gives and this test counts."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    mixture.save_pretrained(tmp_path / "mixture")
    tasks = local_task(tmp_path)
    told = json.loads(succeed("eval", str(tmp_path / "mixture"), "--lm-eval", tasks, "--json"))
    right = 0
    for name in NAMES:
        for each in examples(name, "test", 6):
            inputs = mixture.inputs(each.prompt)
            with torch.no_grad():
                made = mixture.generate(**inputs, max_new_tokens=16, do_sample=False)
            said = mixture.roster.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            right += said.split("\n")[0] == each.answer
    assert told["auto"]["said"]["exact_match"] == pytest.approx(right / 12)
    assert right >= 10
    assert told["base"]["said"]["exact_match"] < told["auto"]["said"]["exact_match"]
    assert told["auto"]["chosen"]["acc"] == 1.0
    shown = succeed("eval", str(tmp_path / "mixture"), "--lm-eval", tasks, "--limit", "2", "--no-base-too")
    assert "exact_match" in shown
    assert "base" not in shown.splitlines()[1]


@needs_harness
def test_tasks_that_are_not_there_are_one_error(mixture, tmp_path):
    with pytest.raises(RosterError, match="no task 'no-such-task'"):
        scores(mixture, mixture.roster.rendering, ["no-such-task"])
    with pytest.raises(RosterError, match=r"no task file .*gone\.yaml"):
        scores(mixture, mixture.roster.rendering, [str(tmp_path / "gone.yaml")])


def test_either_data_or_tasks(tmp_path):
    from typer.testing import CliRunner

    from roster.cli import app

    done = CliRunner().invoke(app, ["eval", str(tmp_path)])
    assert done.exit_code == 2
    assert "--data FILE.jsonl or --lm-eval TASKS" in done.output
