"""MoNE in memory, as the comparison of ways to halve a mixture has it: against sums over experts written out."""

import torch
import transformers
from torch.nn.functional import linear, silu

from evidence.compression import _choices, make_constant, questions
from roster.pocket.skills import examples


def test_novices_say_their_mean_and_the_others_what_they_said():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    experts = model.model.layers[0].mlp.experts
    gate_up, down = experts.gate_up_proj.detach().clone(), experts.down_proj.detach().clone()
    calls = []
    own = type(experts).forward
    experts.forward = lambda x, chosen, weight: calls.append((x, chosen)) or own(experts, x, chosen, weight)
    rows = [[1, 5, 9, 30, 2], [7, 7, 31]]
    with torch.no_grad():
        for row in rows:
            model(input_ids=torch.tensor([row]))
    del experts.forward

    def say(e, x):
        gate, up = linear(x, gate_up[e]).chunk(2, -1)
        return linear(silu(gate) * up, down[e])

    read = [torch.cat([x[(chosen == e).any(1)] for x, chosen in calls]) for e in range(4)]
    said = [say(e, each) for e, each in enumerate(read)]
    scores = [float(((each - each.mean(0)) ** 2).sum()) for each in said]  # tokens times variance
    novices = sorted(range(4), key=scores.__getitem__)[:2]
    make_constant(model, rows)
    x, chosen, weight = torch.randn(6, 16), torch.tensor([[0, 1], [2, 3]] * 3), torch.rand(6, 2)
    wanted = torch.stack([
        sum(w * (said[e].mean(0) if e in novices else say(e, token)) for e, w in zip(es.tolist(), ws, strict=True))
        for token, es, ws in zip(x, chosen, weight, strict=True)
    ])  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(experts(x, chosen, weight), wanted, rtol=1e-4, atol=1e-5)


def test_every_multiple_choice_has_one_right_answer_among_different_ones():
    asked = [each for each in questions() if each.choices]
    assert asked
    for each in asked:
        assert len(set(each.choices)) == len(each.choices) >= 2
        assert each.answer in each.choices
    one = examples("sort", "test", 1)[0]
    assert _choices(one, ["x"]) == _choices(one, ["x"])
