"""Choosing data: LESS against torch's Adam and differences of the loss, IFD against transformers' loss; resumed."""

import json

import pytest
import torch

from cli.conftest import refuse, run, succeed
from roster import RosterError
from roster.curation import ground as ground_module
from roster.curation import less as less_module
from roster.curation.ifd import answer_loss
from roster.curation.less import Sketch, adam_step, gradient
from roster.curation.select import LESSON, WAYS, best, passes, scores
from roster.curation.warming import learned, warm_up
from roster.pocket.skills import examples
from roster.prompts import Rendering
from roster.routed.base import load_base, load_tokenizer
from roster.train.data import Encoded, Row
from roster.train.expert import Lesson, adapt

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SHORT = Lesson(rank=2, alpha=4, epochs=2, batch_size=4, learning_rate=1e-3, targets=("q_proj", "v_proj"))
SKILLS = ("reverse", "upper", "sort")


AIMED = Lesson(rank=4, alpha=8, epochs=1, batch_size=4, learning_rate=1e-3, targets=("v_proj", "down_proj"))


def rows(skill, count, split="train", task=None):
    return [Row(prompt=each.prompt, answer=each.answer, task=task) for each in examples(skill, split, count, 0)]


@pytest.fixture(scope="module")
def ground():
    return load_base("pocket")[0], Rendering(load_tokenizer("pocket"))


@pytest.fixture(scope="module")
def pool():
    """Twelve rows of each skill, in turns."""
    return [row for turn in zip(*(rows(skill, 12) for skill in SKILLS), strict=True) for row in turn]


def test_the_step_is_adams():
    """What torch's Adam subtracts after very many steps, when its bias corrections are one."""
    generator = torch.Generator().manual_seed(0)
    values, slopes, avg = (torch.randn(50, generator=generator) for _ in range(3))
    avg_sq = torch.rand(50, generator=generator) + 0.1
    parameter = torch.nn.Parameter(values.clone())
    adam = torch.optim.Adam([parameter], lr=1.0)
    adam.state[parameter] = {"step": torch.tensor(1e7), "exp_avg": avg.clone(), "exp_avg_sq": avg_sq.clone()}
    parameter.grad = slopes.clone()
    adam.step()
    torch.testing.assert_close(adam_step(slopes, avg, avg_sq), values - parameter.detach(), atol=1e-5, rtol=1e-5)


def test_the_gradient_is_that_of_the_mean_loss_of_the_answer(ground, pool):
    """By differences of transformers' own loss along random directions."""
    model, rendering = load_base("pocket")[0], ground[1]
    adapted = adapt(model, SHORT).eval()
    for number, parameter in enumerate(learned(adapted).values()):
        torch.manual_seed(number)
        parameter.data = torch.randn(parameter.shape) * 0.05
    item = Encoded(pool[:1], rendering, None).items[0]
    found = gradient(adapted, item, 0)
    direction = torch.randn(len(found), generator=torch.Generator().manual_seed(1))

    def loss(step):
        at = 0
        for parameter in learned(adapted).values():
            count = parameter.numel()
            parameter.data += step * direction[at : at + count].view(parameter.shape)
            at += count
        with torch.no_grad():
            out = adapted(**{key: torch.tensor([item[key]]) for key in ("input_ids", "labels")}).loss
        return float(out)

    high = loss(1e-3)
    low = loss(-2e-3)
    assert (high - low) / 2e-3 == pytest.approx(float(found @ direction), rel=0.02)


def test_the_projection_keeps_inner_products():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(5000, generator=generator)
    other = one + torch.randn(5000, generator=generator)
    expected = float(torch.cosine_similarity(one, other, dim=0))
    found = []
    for seed in range(30):
        sketch = Sketch(5000, 512, seed)
        found.append(float(torch.cosine_similarity(sketch(one), sketch(other), dim=0)))
    assert sum(found) / 30 == pytest.approx(expected, abs=0.02)
    assert max(abs(each - expected) for each in found) < 0.15
    assert torch.equal(Sketch(500, 512, 0)(one[:500]), one[:500])


def share_of(skill, chosen):
    return sum(SKILLS[at % len(SKILLS)] == skill for at in chosen) / len(chosen)


def test_rows_of_the_targets_skill_come_first(ground, pool, tmp_path):
    """A third would be chance."""
    found = scores("near", *ground, pool, rows("upper", 4, "test"), tmp_path / "s")
    assert share_of("upper", best(found, 8)) >= 0.9
    assert not (tmp_path / "s").exists()


def test_a_row_has_the_most_influence_on_itself(ground, pool, tmp_path):
    """Three rows of the pool are the target, each a task of its own: they come first."""
    pool, places = pool[:15], [1, 6, 11]
    target = [pool[at].model_copy(update={"task": str(at)}) for at in places]
    found = scores("less", *ground, pool, target, tmp_path / "s", lesson=AIMED, warm_up=12)
    assert best(found, 3) == places


def test_of_several_tasks_the_nearest_counts(ground, pool, tmp_path):
    """Two tasks in the target: rows of both are chosen, and none of the third."""
    target = [*rows("upper", 3, "test", "a"), *rows("sort", 3, "test", "b")]
    found = scores("near", *ground, pool, target, tmp_path / "s")
    chosen = best(found, 12)
    assert share_of("reverse", chosen) < 0.2
    assert min(share_of(skill, chosen) for skill in ("upper", "sort")) > 0.2


def test_ifd_is_the_ratio_of_transformers_losses(ground, pool, tmp_path):
    model, rendering = ground
    found = scores("ifd", model, rendering, pool[:3], [], tmp_path / "s")
    start = rendering.tokenizer.bos_token_id
    start = rendering.tokenizer.eos_token_id if start is None else start
    for row, score in zip(pool, found.tolist(), strict=False):
        asked, told = rendering.pair(row.asked, row.answer)

        def loss(before, told=told):
            labels = torch.tensor([[-100] * len(before) + told])
            with torch.no_grad():
                return float(model(input_ids=torch.tensor([before + told]), labels=labels).loss)

        ratio = loss(asked) / loss([start])
        assert score == (pytest.approx(ratio, rel=1e-4) if ratio < 1 else -float("inf"))


def test_answers_that_do_not_go_with_their_prompts_are_left_out(ground, pool, tmp_path):
    """After a brief experience, a prompt helps right answers more often than wrong ones."""
    model, rendering = ground
    wrong = [row.model_copy(update={"answer": other.answer}) for row, other in zip(pool, pool[3:], strict=False)][:12]
    data = Encoded([*pool[:12], *wrong], rendering, None)
    found = scores("ifd", model, rendering, [*pool[:12], *wrong], [], tmp_path / "s", warm_up=24, lesson=SHORT)
    assert len(data) == len(found) == 24
    assert (found[:12] > -torch.inf).sum() >= (found[12:] > -torch.inf).sum()


def test_padding_changes_no_loss(ground, pool):
    model, rendering = ground
    items = Encoded(pool[:5], rendering, None).items
    together = answer_loss(model, items, rendering.pad_token_id)
    alone = torch.cat([answer_loss(model, [item], rendering.pad_token_id) for item in items])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


class Killed(BaseException):
    """A process that ends at once."""


@pytest.mark.parametrize(("after", "left"), [(5, 28), (20, 14)])  # in the first block, and in the second round's
def test_an_interrupted_choice_goes_on(after, left, ground, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(ground_module, "BLOCK", 6)
    pool, target, options = pool[:12], rows("sort", 2, "test"), {"lesson": SHORT, "warm_up": 8, "width": 512}
    whole = scores("less", *ground, pool, target, tmp_path / "whole", **options)
    real, count = less_module.gradient, {"left": after, "asked": 0}

    def counted(*args):
        if count["left"] == 0:
            raise Killed
        count["left"] -= 1
        count["asked"] += 1
        return real(*args)

    monkeypatch.setattr(less_module, "gradient", counted)
    with pytest.raises(Killed):
        scores("less", *ground, pool, target, tmp_path / "s", **options)
    with pytest.raises(RosterError, match="another target"):
        scores("less", *ground, pool, target[:1], tmp_path / "s", **options)
    count.update(left=-1, asked=0)
    again = scores("less", *ground, pool, target, tmp_path / "s", **options)
    assert torch.equal(again, whole)
    assert count["asked"] == left
    assert not (tmp_path / "s").exists()


def test_a_warm_up_goes_on_to_the_same_bits(ground, pool, tmp_path):
    data = Encoded(pool, ground[1], None)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    adapted, whole = warm_up(load_base("pocket")[0], data, range(8), SHORT, 0, tmp_path / "whole")
    first = tmp_path / "whole" / "checkpoint-round-0.safetensors"
    (tmp_path / "broken" / first.name).write_bytes(first.read_bytes())
    _, again = warm_up(load_base("pocket")[0], data, range(8), SHORT, 0, tmp_path / "broken")
    for kind in ("values", "avg", "avg_sq"):
        ours, theirs = getattr(whole[1], kind), getattr(again[1], kind)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole[0].rate > whole[1].rate
    assert any(bool(each.any()) for name, each in whole[1].values.items() if "lora_B" in name)
    assert set(learned(adapted)) == set(whole[1].values)


def test_the_base_is_plain_again(pool, tmp_path):
    model, rendering = load_base("pocket")[0], Rendering(load_tokenizer("pocket"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores("less", model, rendering, pool[:6], rows("sort", 1), tmp_path / "s", lesson=SHORT, warm_up=4, width=64)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_chosen_by(ground, pool, tmp_path):
    for way in ("less", "near"):
        with pytest.raises(RosterError, match="--target"):
            scores(way, *ground, pool, [], tmp_path / "s")
    with pytest.raises(RosterError, match="did you mean 'less'"):
        scores("les", *ground, pool, [], tmp_path / "s")
    assert passes("less") == LESSON.epochs
    assert {passes(way) for way in WAYS if way != "less"} == {1}


def test_best():
    assert best(torch.tensor([0.1, 0.5, 0.5, -torch.inf, 0.3]), 3) == [1, 2, 4]
    assert best(torch.tensor([-torch.inf, 0.5]), 2) == [1]


@pytest.mark.parametrize("by", ["random", "near", "ifd"])
def test_the_file_holds_the_pools_own_lines(by, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f'{{"prompt":  "{skill}: {word} =", "answer": "x"}}' for skill in SKILLS for word in ("ab", "cd", "ef")]
    (tmp_path / "pool.jsonl").write_text("\n\n".join(lines))
    (tmp_path / "target.jsonl").write_text('{"prompt": "upper: xy =", "answer": "XY"}')
    more = ("--target", "target.jsonl") if by == "near" else ()
    command = ("data", "select", "pool.jsonl", "--base", "pocket", "--by", by, "--count", 4, "--out", "o.jsonl")
    said = run(*command, "--scores", "scores.jsonl", *more)
    assert said.exit_code == 0, said.output
    chosen = (tmp_path / "o.jsonl").read_text().splitlines()
    assert chosen == [line for line in lines if line in chosen]
    assert len(chosen) == 4 or "are worth learning from" in said.stderr
    told = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [each["line"] for each in told] == list(range(1, 18, 2))
    assert "rows: 9 of 9" in said.stderr
    again = succeed(*command, *more)
    assert (tmp_path / "o.jsonl").read_text().splitlines() == chosen
    assert again == f"wrote o.jsonl: {len(chosen)} of 9 rows\n"
    assert "above 0" in refuse(*command, "--share", 0)
    assert "did you mean" in refuse(*command[:6], "lesss", *command[7:])
