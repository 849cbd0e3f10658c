"""What a merge tells afterwards: every figure against NumPy on whole tensors; the same files however it was run."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from roster.merge import parse_config, plan_merge
from roster.merge.report import PAGE, REPORT, Report, add_quality
from roster.weights import BLOCK, run
from roster.weights.page import RESULT
from weights.conftest import write
from weights.recipes import EVERY, config_text, learned


def merged(text, out, learned=None, **how):
    config = parse_config(text)
    plan = plan_merge(config, learned=learned)
    report = Report(config, plan)
    run(plan, out, watch=report.watch, report=report.files, **how)
    return json.loads((out / REPORT).read_text(encoding="utf-8"))


def wide(tensor):
    return tensor.double().numpy().ravel()


def cosine(a, b):
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return None if norms == 0 else float(a @ b / norms)


def conflicts(vectors):
    stacked = np.stack(vectors)
    return float(((stacked > 0).any(0) & (stacked < 0).any(0)).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slug", ["task_arithmetic", "ties", "model-breadcrumbs", "slerp", "nuslerp"])
def test_figures_with_a_base_are_those_of_numpy(slug, dtype, models, tmp_path):
    values = models(dtype)
    told = merged(config_text(slug, tmp_path), tmp_path / "out")
    (part,) = told["parts"]
    result = load_file(tmp_path / "out" / "model.safetensors")
    names = [each.rpartition("/")[2] for each in part["models"]]
    every = []
    for name, found in part["tensors"].items():
        base = wide(values["b"][name])
        d = [wide(values[each][name]) - base for each in names]
        made = wide(result[name]) - base
        every.append((d, made))
        assert found["norms"] == pytest.approx([np.linalg.norm(each) for each in d], rel=1e-5)
        assert found["norm"] == pytest.approx(np.linalg.norm(made), rel=1e-5)
        assert found["conflicts"] == pytest.approx(conflicts(d), abs=1e-6)
        assert found["changed"] == pytest.approx([np.mean(each != 0) for each in (*d, made)], rel=1e-5)
        assert found["toward"] == pytest.approx([cosine(each, made) for each in d], abs=1e-5)
        for i, a in enumerate(d):
            assert found["cosines"][i] == pytest.approx([cosine(a, b) for b in d], abs=1e-5)
    assert set(part["tensors"]) == set(values["b"])
    whole = part["whole"]
    d = [np.concatenate([each[0][i] for each in every]) for i in range(len(names))]
    made = np.concatenate([each[1] for each in every])
    assert whole["norms"] == pytest.approx([np.linalg.norm(each) for each in d], rel=1e-4)
    assert whole["norm"] == pytest.approx(np.linalg.norm(made), rel=1e-4)
    assert whole["conflicts"] == pytest.approx(conflicts(d), abs=1e-5)
    assert whole["toward"] == pytest.approx([cosine(each, made) for each in d], abs=1e-4)
    assert whole["changed"] == pytest.approx([np.mean(each != 0) for each in (*d, made)], rel=1e-4)


def test_figures_without_a_base_are_of_the_distance_to_the_result(models, tmp_path):
    values = models(torch.bfloat16)
    (part,) = merged(config_text("linear", tmp_path), tmp_path / "out")["parts"]
    result = load_file(tmp_path / "out" / "model.safetensors")
    assert part["base"] is None
    for name, found in part["tensors"].items():
        x = [wide(values[each][name]) for each in ("m0", "m1")]
        made = wide(result[name])
        assert found["norms"] == pytest.approx([np.linalg.norm(each - made) for each in x], rel=1e-5)
        assert found["cosines"][1][0] == pytest.approx(cosine(*x), abs=1e-5)
        assert found["conflicts"] == pytest.approx(conflicts(x), abs=1e-6)
        assert "toward" not in found


@pytest.mark.parametrize(("slug", "share"), [("ties:tensor", 0.3), ("dare_linear", 0.4), ("sce:selected", 0.4)])
def test_the_kept_share_is_what_the_method_lets_through(slug, share, models, tmp_path):
    models(torch.float32)
    (part,) = merged(config_text(slug, tmp_path), tmp_path / "out")["parts"]
    assert part["whole"]["kept"] == pytest.approx([share, share], abs=0.01)
    large = part["tensors"]["model.layers.0.mlp.down_proj.weight"]
    assert large["kept"] == pytest.approx([share, share], abs=0.01)


def test_a_global_trim_keeps_less_where_a_tensor_changed_less(models, tmp_path):
    values = models(torch.float32)
    (part,) = merged(config_text("ties", tmp_path), tmp_path / "out")["parts"]
    names = list(values["b"])
    d = {name: np.abs(wide(values["m0"][name]) - wide(values["b"][name])) for name in names}
    every = np.sort(np.concatenate(list(d.values())))[::-1]
    bound = every[int(0.3 * every.size) - 1]
    for name in names:
        assert part["tensors"][name]["kept"][0] == pytest.approx(np.mean(d[name] >= bound), abs=2 / d[name].size + 1e-6)


def test_methods_that_thin_nothing_out_say_nothing_of_it(models, tmp_path):
    models()
    (part,) = merged(config_text("task_arithmetic", tmp_path), tmp_path / "out")["parts"]
    assert "kept" not in part["whole"]


@pytest.mark.parametrize("slug", EVERY)
def test_the_report_changes_no_weight_and_does_not_depend_on_pieces(slug, models, tmp_path):
    models(torch.bfloat16)
    text = config_text(slug, tmp_path)
    run(plan_merge(parse_config(text), learned=learned(slug, tmp_path)), tmp_path / "plain")
    merged(text, tmp_path / "out0", learned(slug, tmp_path), piece=BLOCK)
    merged(text, tmp_path / "out1", learned(slug, tmp_path), piece=64 * BLOCK)
    for name in ("model.safetensors", REPORT, PAGE):
        assert (tmp_path / "out0" / name).read_bytes() == (tmp_path / "out1" / name).read_bytes()
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() == (
        tmp_path / "out0" / "model.safetensors"
    ).read_bytes()


def test_an_unchanged_tensor_has_no_direction(models, tmp_path):
    values = models()
    same = {**values["m0"], "model.norm.weight": values["b"]["model.norm.weight"].clone()}
    write(tmp_path / "m0", same)
    (part,) = merged(config_text("task_arithmetic", tmp_path), tmp_path / "out")["parts"]
    found = part["tensors"]["model.norm.weight"]
    assert found["norms"][0] == 0
    assert found["toward"][0] is None
    assert found["cosines"][1][0] is None
    assert "NaN" not in (tmp_path / "out" / REPORT).read_text(encoding="utf-8")


def test_slices_of_other_models_are_told_apart(models, tmp_path):
    models()
    text = (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        f"  - sources: [{{model: {tmp_path / 'm0'}, layer_range: [0, 2]}}]\n"
        f"  - sources: [{{model: {tmp_path / 'm1'}, layer_range: [1, 3]}}]\n"
    )
    told = merged(text, tmp_path / "out")
    assert [each["models"] for each in told["parts"]] == [[str(tmp_path / "m0")], [str(tmp_path / "m1")]]


def test_what_models_answer_is_added_to_both_files(models, tmp_path):
    models()
    merged(config_text("ties", tmp_path), tmp_path / "out")
    one = {"accuracy": 0.5, "low": 0.1, "high": 0.9, "rows": 2}
    figures = {"A<b>": {"perplexity": 12.3456, "choice": one}, RESULT: {"perplexity": 9.8765, "generation": one}}
    add_quality(tmp_path / "out", {"data": "f.jsonl", "rows": 2, "tokens": 10, "models": figures})
    assert json.loads((tmp_path / "out" / REPORT).read_text())["quality"]["models"] == figures
    page = (tmp_path / "out" / PAGE).read_text(encoding="utf-8")
    for shown in ("9.877", "12.35", "A&lt;b&gt;", "multiple choice"):
        assert shown in page
